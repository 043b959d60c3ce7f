//! On-disk metadata, version v08: where it is, the super block, the data generations, and the texts the
//! tools print and read (drbd-metadata).

pub mod dump;
pub mod gi;
pub mod layout;
pub mod parse_dump;
pub mod superblock;
pub mod uuids;
