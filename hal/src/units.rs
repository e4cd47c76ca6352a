//! Units of what boards measure.
use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! measure {
    ($(#[$doc:meta])* $name:ident($of:ty), $unit:literal, $digits:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:.", $digits, "} ", $unit), self.0)
            }
        }
    };
}

measure!(
    /// Degrees Celsius.
    Celsius(f32), "°C", 1
);
measure!(
    /// Watts.
    Watts(f32), "W", 1
);
measure!(
    /// Volts.
    Volts(f32), "V", 2
);
measure!(
    /// Amperes.
    Amperes(f32), "A", 2
);
measure!(
    /// Hundredths of a whole, 0 to 100.
    Percent(f32), "%", 0
);

/// Millions of cycles per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Megahertz(pub u32);

impl fmt::Display for Megahertz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MHz", self.0)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    /// In the largest binary unit that leaves at least one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = match self.0 {
            0..=1023 => return write!(f, "{} B", self.0),
            1024..=0xf_ffff => ("KiB", 10),
            0x10_0000..=0x3fff_ffff => ("MiB", 20),
            0x4000_0000..=0xff_ffff_ffff => ("GiB", 30),
            _ => ("TiB", 40),
        };
        let whole = self.0 >> shift;
        let tenths = ((self.0 & ((1 << shift) - 1)) * 10) >> shift;
        write!(f, "{whole}.{tenths} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_read_with_their_unit() {
        assert_eq!(Celsius(41.25).to_string(), "41.2 °C");
        assert_eq!(Watts(7.0).to_string(), "7.0 W");
        assert_eq!(Percent(49.6).to_string(), "50 %");
    }

    #[test]
    fn bytes_read_in_the_unit_that_fits() {
        for (bytes, text) in [(0, "0 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (u64::MAX, "16777215.9 TiB")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
