//! Texts of `get-gi`, `show-gi`, `set-gi` and the sizes in messages (drbd-metadata 11).

use alloc::string::String;
use core::fmt;

use model::ids::DataUuid;
use model::state::DiskState;
use thiserror::Error;

use super::superblock::{MetaFlags, SuperBlock};
use super::uuids::Uuids;

/// Flags of the get-gi line, in its order.
const GI_FLAGS: [MetaFlags; 7] = [
    MetaFlags::CONSISTENT,
    MetaFlags::WAS_UP_TO_DATE,
    MetaFlags::PRIMARY_IND,
    MetaFlags::CONNECTED_IND,
    MetaFlags::FULL_SYNC,
    MetaFlags::PEER_OUT_DATED,
    MetaFlags::CRASHED_PRIMARY,
];

/// Lines of `show-gi` above the get-gi line.
pub const SHOW_GI_HEAD: &str = "
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V
";

/// Lines of `show-gi` below the get-gi line.
pub const SHOW_GI_FOOT: &str = concat!(
    "                                                                    ^ ^ ^ ^ ^ ^ ^\n",
    "                                      -<  Data consistency flag  >--+ | | | | | |\n",
    "                             -<  Data was/is currently up-to-date  >--+ | | | | |\n",
    "                                  -<  Node was/is currently primary  >--+ | | | |\n",
    "                                  -<  Node was/is currently connected  >--+ | | |\n",
    "         -<  Node was in the progress of setting all bits in the bitmap  >--+ | |\n",
    "                        -<  The peer's disk was out-dated or inconsistent  >--+ |\n",
    "      -<  This node was a crashed primary, and has not seen its peer since   >--+\n",
    "\n"
);

/// The get-gi line of a set of generations and flags, without newline.
#[derive(Clone, Copy, Debug)]
pub struct GiLine<'a>(pub &'a Uuids, pub MetaFlags);

impl fmt::Display for GiLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GiLine(uuids, flags) = self;
        write!(f, "{}:{}:{}:{}", uuids.current, uuids.bitmap, uuids.history[0], uuids.history[1])?;
        GI_FLAGS.iter().try_for_each(|flag| write!(f, ":{}", u8::from(flags.has(*flag))))
    }
}

/// The last lines of `show-gi`, from `flags:` on, with newlines.
#[derive(Clone, Copy, Debug)]
pub struct ShowGiTail<'a>(pub &'a SuperBlock);

impl fmt::Display for ShowGiTail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sb = self.0;
        let pick = |flag, yes: &'static str, no: &'static str| if sb.flags.has(flag) { yes } else { no };
        let disk = match sb.flags.disk_state() {
            DiskState::Inconsistent => "Inconsistent",
            DiskState::Outdated => "Outdated",
            _ => "UpToDate",
        };
        writeln!(
            f,
            "flags:{} {}, {}, {disk}{}{}",
            pick(MetaFlags::CRASHED_PRIMARY, " crashed", ""),
            pick(MetaFlags::PRIMARY_IND, "Primary", "Secondary"),
            pick(MetaFlags::CONNECTED_IND, "Connected", "StandAlone"),
            pick(MetaFlags::FULL_SYNC, ", need full sync", ""),
            pick(MetaFlags::PEER_OUT_DATED, ", peer Outdated", ""),
        )?;
        writeln!(f, "meta-data: {}", pick(MetaFlags::AL_CLEAN, "clean", "need apply-al"))?;
        if sb.la_size_sectors == 0 {
            return writeln!(f, "zero size device -- never seen peer yet?");
        }
        let size = KibSize(sb.la_size_sectors / 2);
        writeln!(f, "last agreed size: {size} ({} sectors)", sb.la_size_sectors)?;
        writeln!(f, "last agreed max bio size: {} Byte", sb.la_peer_max_bio_bytes)
    }
}

/// A size in KiB as the tools print it: divided by 1024 (rounded to nearest) while it is 10000 or more.
#[derive(Clone, Copy, Debug)]
pub struct KibSize(pub u64);

impl fmt::Display for KibSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0;
        let mut units = ["KB", "MB", "GB", "TB", "PB", "EB"].iter();
        let mut unit = units.next();
        while value >= 10000 {
            let Some(larger) = units.next() else { break };
            value = value / 1024 + (value % 1024) / 512;
            unit = Some(larger);
        }
        write!(f, "{value} {}", unit.unwrap_or(&"EB"))
    }
}

/// A field of `set-gi` that is no value.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SetGiError {
    /// Not a hexadecimal number of at most 64 bits.
    #[error("'{0}' is not a number.")]
    Number(String),
    /// More than 64 bits.
    #[error("'{0}': Numerical result out of range")]
    Range(String),
    /// A flag is neither 0 nor 1.
    #[error("'{0}' is not 0 or 1.")]
    Flag(String),
    /// More fields than there are.
    #[error("'{0}' has too many fields.")]
    TooMany(String),
}

/// Applies the argument of `set-gi`: the form of the get-gi line, where an empty or missing field keeps its value.
pub fn apply_set_gi(values: &str, uuids: &mut Uuids, flags: &mut MetaFlags) -> Result<(), SetGiError> {
    let (mut new_uuids, mut new_flags) = (*uuids, *flags);
    for (at, field) in values.split(':').enumerate() {
        if at >= 4 + GI_FLAGS.len() {
            return Err(SetGiError::TooMany(values.into()));
        }
        if field.is_empty() {
            continue;
        }
        if let Some(flag) = at.checked_sub(4).map(|at| GI_FLAGS[at]) {
            let on = match field {
                "0" => false,
                "1" => true,
                _ => return Err(SetGiError::Flag(field.into())),
            };
            new_flags = new_flags.set(flag, on);
            continue;
        }
        let uuid = DataUuid(parse_hex(field)?);
        match at {
            0 => new_uuids.current = uuid,
            1 => new_uuids.bitmap = uuid,
            _ => new_uuids.history[at - 2] = uuid,
        }
    }
    (*uuids, *flags) = (new_uuids, new_flags);
    Ok(())
}

/// A 64-bit number in hexadecimal digits without prefix.
pub fn parse_hex(digits: &str) -> Result<u64, SetGiError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(SetGiError::Number(digits.into()));
    }
    u64::from_str_radix(digits, 16).map_err(|_| SetGiError::Range(digits.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    #[test]
    fn sizes_switch_units_at_ten_thousand() {
        for (kib, text) in [
            (0, "0 KB"),
            (9999, "9999 KB"),
            (10000, "10 MB"),
            (12152, "12 MB"),
            (204756, "200 MB"),
            (1 << 20, "1024 MB"),
            (u64::MAX, "16384 EB"),
        ] {
            assert_eq!(KibSize(kib).to_string(), text);
        }
    }

    #[test]
    fn empty_and_missing_fields_keep_their_value() {
        let mut uuids =
            Uuids { current: DataUuid(1), bitmap: DataUuid(2), history: [DataUuid(3), DataUuid(4)] };
        let mut flags = MetaFlags(0x180);
        apply_set_gi("A::c:", &mut uuids, &mut flags).unwrap();
        assert_eq!(
            format!("{}", GiLine(&uuids, flags)),
            "000000000000000A:0000000000000002:000000000000000C:0000000000000004:0:0:0:0:0:0:0"
        );
        apply_set_gi("::::1:1:1:0:0:1:1", &mut uuids, &mut flags).unwrap();
        assert_eq!(flags, MetaFlags(0x180 | 0x73), "AL_CLEAN and AL_DISABLED stay");
        apply_set_gi("::::::0", &mut uuids, &mut flags).unwrap();
        assert_eq!(flags, MetaFlags(0x180 | 0x71));
    }

    #[test]
    fn one_bad_field_changes_nothing() {
        let (mut uuids, mut flags) = (Uuids::JUST_CREATED, MetaFlags(0));
        for bad in
            ["1:2:3:4:2", "1::3z", "11112222333344445555", "0x5", "::::1:1:1:1:1:1:1:1", "+1", "::::01"]
        {
            assert!(apply_set_gi(bad, &mut uuids, &mut flags).is_err(), "{bad}");
            assert_eq!((uuids, flags), (Uuids::JUST_CREATED, MetaFlags(0)));
        }
    }
}
