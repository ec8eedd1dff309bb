//! How a field is written: as a text, or as a number where it is one.

use std::fmt::Write;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

use crate::vocabulary::{L1Capacity, Mode, RefreshAhead};

/// The type of a field.
pub(super) trait Field: Sized {
    /// The form that its text must have.
    const EXPECTED: &'static str;

    fn from_text(text: &str) -> Option<Self>;

    fn plain(&self) -> Plain;
}

/// A field as formats have it: some tell text and numbers apart, others hand over all as text, as the sources of some
/// configuration libraries do.
#[derive(serde::Deserialize, serde::Serialize)]
#[serde(untagged)]
pub(super) enum Plain {
    Absent,
    Bool(bool),
    Whole(u64),
    Real(f64),
    Text(String),
}

#[allow(clippy::ref_option, reason = "serde calls it with a field")]
pub(super) fn serialize<F: Field, S: Serializer>(
    field: &Option<F>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    (field.as_ref().map_or(Plain::Absent, F::plain)).serialize(serializer)
}

pub(super) fn deserialize<'de, F: Field, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<F>, D::Error> {
    // Without the text, which may be a secret.
    let refused = || D::Error::custom(format_args!("must be {}", F::EXPECTED));
    let text = match Plain::deserialize(deserializer).map_err(|_| refused())? {
        // As `null`, which leaves the builder as it is.
        Plain::Absent => return Ok(None),
        Plain::Bool(value) => value.to_string(),
        Plain::Whole(number) => number.to_string(),
        Plain::Real(number) => number.to_string(),
        Plain::Text(text) => text,
    };
    F::from_text(&text).map(Some).ok_or_else(refused)
}

impl Field for String {
    const EXPECTED: &'static str = "a text";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn plain(&self) -> Plain {
        Plain::Text(self.clone())
    }
}

impl Field for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }

    fn plain(&self) -> Plain {
        Plain::Bool(*self)
    }
}

// Numbers are read as Rust reads them.

impl Field for L1Capacity {
    const EXPECTED: &'static str =
        "a whole number of entries, or a size with its unit, such as 256MiB";

    fn from_text(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit());
        let (count, unit) = text.split_at_checked(digits.unwrap_or(text.len()))?;
        let count: u64 = count.parse().ok()?;
        if unit.is_empty() {
            return Some(Self::Entries(count));
        }
        let is_unit = |(name, _): &(&str, u64)| name.eq_ignore_ascii_case(unit.trim_start());
        let (_, bytes) = SIZES.into_iter().find(is_unit)?;
        count.checked_mul(bytes).map(Self::Bytes)
    }

    fn plain(&self) -> Plain {
        match *self {
            Self::Entries(count) => Plain::Whole(count),
            Self::Bytes(bytes) => {
                let divides = |(_, size): &(&str, u64)| bytes % size == 0;
                let (unit, size) = SIZES.into_iter().find(divides).unwrap_or(("B", 1));
                Plain::Text(format!("{}{unit}", bytes / size))
            }
        }
    }
}

/// A number of bytes, which may have a unit.
pub(super) mod size {
    use super::{
        Deserializer, Field, L1Capacity, Plain, Serializer, deserialize as read, serialize as write,
    };

    struct Size(usize);

    impl Field for Size {
        const EXPECTED: &'static str =
            "a whole number of bytes, or a size with its unit, such as 1MiB";

        fn from_text(text: &str) -> Option<Self> {
            // A number without a unit is one of bytes here.
            let bytes = L1Capacity::from_text(text)?.number();
            bytes.try_into().ok().map(Self)
        }

        fn plain(&self) -> Plain {
            self.0.plain()
        }
    }

    #[allow(clippy::ref_option, reason = "serde calls it with a field")]
    pub(in crate::settings) fn serialize<S: Serializer>(
        field: &Option<usize>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        write(&field.map(Size), serializer)
    }

    pub(in crate::settings) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<usize>, D::Error> {
        Ok(read(deserializer)?.map(|Size(bytes)| bytes))
    }
}

/// From the largest.
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl Field for u16 {
    const EXPECTED: &'static str = "a whole number";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn plain(&self) -> Plain {
        Plain::Whole(u64::from(*self))
    }
}

impl Field for usize {
    const EXPECTED: &'static str = "a whole number";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn plain(&self) -> Plain {
        Plain::Whole(*self as u64)
    }
}

impl Field for f64 {
    const EXPECTED: &'static str = "a number";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn plain(&self) -> Plain {
        Plain::Real(*self)
    }
}

impl Field for RefreshAhead {
    const EXPECTED: &'static str =
        "a share such as 0.8, or xfetch and its factor, such as xfetch:1.0";

    fn from_text(text: &str) -> Option<Self> {
        match text.strip_prefix("xfetch:") {
            Some(beta) => f64::from_text(beta).map(Self::XFetch),
            None => f64::from_text(text).map(Self::Share),
        }
    }

    fn plain(&self) -> Plain {
        match self {
            Self::Share(share) => Plain::Real(*share),
            Self::XFetch(beta) => Plain::Text(format!("xfetch:{beta:?}")),
        }
    }
}

impl Field for Duration {
    const EXPECTED: &'static str = "a duration with its unit, such as 250ms, 30s or 1h30m";

    fn from_text(text: &str) -> Option<Self> {
        duration(text)
    }

    fn plain(&self) -> Plain {
        Plain::Text(duration_text(*self))
    }
}

impl Field for (Duration, usize) {
    const EXPECTED: &'static str = "a duration and a number, such as 2ms,100";

    fn from_text(text: &str) -> Option<Self> {
        let (window, max) = text.split_once(',')?;
        Some((duration(window)?, max.trim().parse().ok()?))
    }

    fn plain(&self) -> Plain {
        let (window, max) = self;
        Plain::Text(format!("{},{max}", duration_text(*window)))
    }
}

impl Field for Mode {
    const EXPECTED: &'static str =
        "strict, shadow, or available and its limit, such as available:60s";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "strict" => Some(Self::Strict),
            "shadow" => Some(Self::Shadow),
            _ => {
                let limit = duration(text.strip_prefix("available:")?)?;
                Some(Self::Available { limit })
            }
        }
    }

    fn plain(&self) -> Plain {
        Plain::Text(match self {
            Self::Strict => "strict".to_owned(),
            Self::Shadow => "shadow".to_owned(),
            Self::Available { limit } => format!("available:{}", duration_text(*limit)),
        })
    }
}

const MAX: &str = "max";
const SECOND: u128 = 1_000_000_000;
/// From the longest, in nanoseconds.
const UNITS: &[(&str, u128)] = &[
    ("d", 86_400 * SECOND),
    ("h", 3_600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The duration that a text names, such as `1h30m`. The attribute `cached` calls it at compile time.
pub(crate) const fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.as_bytes().trim_ascii();
    // By its own word: in units it has twenty digits, which nobody reads.
    if let Some([]) = after(rest, MAX) {
        return Some(Duration::MAX);
    }
    let mut total = 0_u128;
    loop {
        let Some((count, counted)) = count(rest) else {
            return None;
        };
        let Some((nanos, unit_read)) = unit(counted.trim_ascii_start()) else {
            return None;
        };
        // A sum that is too large is an error: wrapped around, it would be a short time.
        let Some(part) = nanos.checked_mul(count) else {
            return None;
        };
        let Some(sum) = total.checked_add(part) else {
            return None;
        };
        total = sum;
        rest = unit_read.trim_ascii_start();
        if rest.is_empty() {
            break;
        }
    }
    if total / SECOND > u64::MAX as u128 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "both fit, as was checked")]
    Some(Duration::new(
        (total / SECOND) as u64,
        (total % SECOND) as u32,
    ))
}

/// The whole number that a text begins with, and the rest of the text.
const fn count(text: &[u8]) -> Option<(u128, &[u8])> {
    let [b'0'..=b'9', ..] = text else {
        return None;
    };
    let (mut count, mut text) = (0_u128, text);
    while let [digit @ b'0'..=b'9', rest @ ..] = text {
        let Some(tens) = count.checked_mul(10) else {
            return None;
        };
        let Some(sum) = tens.checked_add((*digit - b'0') as u128) else {
            return None;
        };
        (count, text) = (sum, rest);
    }
    Some((count, text))
}

/// The nanoseconds of the unit that a text begins with, and the rest of the text.
const fn unit(text: &[u8]) -> Option<(u128, &[u8])> {
    let mut units = UNITS;
    // From the shortest, so that `ms` is not read as `m`.
    while let [longer @ .., (name, nanos)] = units {
        if let Some(rest) = after(text, name) {
            return Some((*nanos, rest));
        }
        units = longer;
    }
    None
}

/// The rest of a text that begins with `name`.
const fn after<'a>(mut text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut name = name.as_bytes();
    while let [expected, others @ ..] = name {
        match text {
            [first, rest @ ..] if *first == *expected => (text, name) = (rest, others),
            _ => return None,
        }
    }
    Some(text)
}

fn duration_text(time: Duration) -> String {
    match time {
        Duration::ZERO => return "0s".to_owned(),
        Duration::MAX => return MAX.to_owned(),
        _ => {}
    }
    let (mut text, mut rest) = (String::new(), time.as_nanos());
    for &(unit, nanos) in UNITS {
        if rest >= nanos {
            // Writing to a `String` does not fail.
            let _ = write!(text, "{}{unit}", rest / nanos);
            rest %= nanos;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Field, Plain, duration_text};
    use crate::vocabulary::L1Capacity;

    #[test]
    fn durations_have_a_unit() {
        let parsed = |text: &str| Duration::from_text(text);
        assert_eq!(parsed("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parsed("30s"), Some(Duration::from_secs(30)));
        assert_eq!(parsed("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(parsed(" 1 h 30 m "), Some(Duration::from_secs(5400)));
        assert_eq!(parsed("2d"), Some(Duration::from_secs(172_800)));
        assert_eq!(parsed("max"), Some(Duration::MAX));
        assert_eq!(parsed("0s"), Some(Duration::ZERO));
        for text in [
            "",
            " ",
            "60",
            "0",
            "s",
            "1y",
            "-1s",
            "1.5s",
            "1h30",
            "99999999999999999999d",
            "1é",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
        // As many seconds as there can be, and one more.
        assert_eq!(
            parsed(&format!("{}s", u64::MAX)),
            Some(Duration::from_secs(u64::MAX))
        );
        assert_eq!(parsed(&format!("{}s1s", u64::MAX)), None);
    }

    #[test]
    fn a_capacity_is_a_number_or_has_a_unit() {
        let parsed = |text: &str| L1Capacity::from_text(text);
        assert_eq!(parsed("5000"), Some(L1Capacity::Entries(5000)));
        assert_eq!(parsed("256MiB"), Some(L1Capacity::Bytes(256 << 20)));
        assert_eq!(parsed("2 GB"), Some(L1Capacity::Bytes(2_000_000_000)));
        assert_eq!(parsed("64kb"), Some(L1Capacity::Bytes(64_000)));
        assert_eq!(parsed("7B"), Some(L1Capacity::Bytes(7)));
        for text in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "5 entries",
            "1M",
            "1MiB2",
            "20000000000GiB",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_capacity_that_is_written_is_read(count in any::<u64>(), zeros in 0..40_u32) {
            for capacity in [L1Capacity::Entries(count), L1Capacity::Bytes(count << zeros)] {
                let text = match capacity.plain() {
                    Plain::Whole(count) => count.to_string(),
                    Plain::Text(text) => text,
                    _ => String::new(),
                };
                prop_assert_eq!(L1Capacity::from_text(&text), Some(capacity));
            }
        }

        #[test]
        fn what_is_written_is_read(seconds in any::<u64>(), nanos in 0..1_000_000_000_u32) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(Duration::from_text(&duration_text(duration)), Some(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-z ,:µ]{0,12}") {
            let _ = Duration::from_text(&text);
        }
    }
}
