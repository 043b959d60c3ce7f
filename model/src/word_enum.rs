//! Enums whose values have a number and a word that users know: states, roles, policies. One row per value drives
//! both directions of both.

macro_rules! word_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $num:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant = $num,)+ }

        impl $name {
            /// Every value, ascending by number.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The words users know, in the order of [`Self::ALL`].
            pub const NAMES: &'static [&'static str] = &[$($text,)+];

            /// The number on the wire and in comparisons.
            pub const fn number(self) -> u8 { self as u8 }

            /// The value with this number, if there is one.
            pub const fn from_number(n: u32) -> Option<$name> {
                match n { $($num => Some($name::$variant),)+ _ => None }
            }

            /// The word users know.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            /// The value with this word, if there is one.
            pub fn from_name(s: &str) -> Option<$name> {
                match s { $($text => Some($name::$variant),)+ _ => None }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { f.pad(self.name()) }
        }
    };
}

pub(crate) use word_enum;
