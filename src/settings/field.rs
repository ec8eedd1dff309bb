//! How a field is written: as a text, or as a number where it is one.

use std::fmt::{self, Write};
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserializer, Error, Visitor};
use serde::ser::Serializer;

use crate::options::{Mode, RefreshAhead};

/// The type of a field.
pub(super) trait Field: Sized {
    /// What its text has to be.
    const EXPECTED: &'static str;

    fn from_text(text: &str) -> Option<Self>;

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
}

#[allow(clippy::ref_option, reason = "serde calls it with a field")]
pub(super) fn serialize<F: Field, S: Serializer>(
    field: &Option<F>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match field {
        Some(field) => field.serialize(serializer),
        None => serializer.serialize_none(),
    }
}

/// Formats tell text and numbers apart, or hand over all as text, as the sources of some configuration libraries do.
pub(super) fn deserialize<'de, F: Field, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<F>, D::Error> {
    deserializer.deserialize_any(OfField(PhantomData))
}

struct OfField<F>(PhantomData<F>);

impl<'de, F: Field> Visitor<'de> for OfField<F> {
    type Value = Option<F>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(F::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let parsed = F::from_text(text);
        // Without the text, which may be a secret.
        let expected = || E::custom(format_args!("expected {}", F::EXPECTED));
        parsed.map(Some).ok_or_else(expected)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        self.visit_str(if value { "true" } else { "false" })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
        inner.deserialize_any(self)
    }
}

impl Field for String {
    const EXPECTED: &'static str = "a text";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
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

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(*self)
    }
}

impl Field for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(*self)
    }
}

impl Field for usize {
    const EXPECTED: &'static str = u64::EXPECTED;

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(*self as u64)
    }
}

impl Field for f64 {
    const EXPECTED: &'static str = "a number";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(*self)
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

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Share(share) => serializer.serialize_f64(*share),
            Self::XFetch(beta) => serializer.collect_str(&format_args!("xfetch:{beta:?}")),
        }
    }
}

impl Field for Duration {
    const EXPECTED: &'static str = "a duration with its unit, such as 250ms, 30s or 1h30m";

    fn from_text(text: &str) -> Option<Self> {
        if text == MAX {
            return Some(Self::MAX);
        }
        let (mut rest, mut total) = (text.trim_start(), None);
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            let (count, after) = rest.split_at_checked(end)?;
            let after = after.trim_start();
            let end = after.find(|c: char| !c.is_ascii_alphabetic());
            let (unit, after) = after.split_at_checked(end.unwrap_or(after.len()))?;
            let (_, nanos) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
            let part = nanos.checked_mul(count.parse().ok()?)?;
            total = Some(total.unwrap_or(0_u128).checked_add(part)?);
            rest = after.trim_start();
        }
        let nanos = total?;
        let seconds = u64::try_from(nanos / SECOND).ok()?;
        let rest = u32::try_from(nanos % SECOND).ok()?;
        Some(Self::new(seconds, rest))
    }

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&written(*self))
    }
}

impl Field for (Duration, usize) {
    const EXPECTED: &'static str = "a duration and a number, such as 2ms,100";

    fn from_text(text: &str) -> Option<Self> {
        let (window, max) = text.split_once(',')?;
        Some((
            Duration::from_text(window.trim())?,
            usize::from_str(max.trim()).ok()?,
        ))
    }

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (window, max) = self;
        serializer.collect_str(&format_args!("{},{max}", written(*window)))
    }
}

impl Field for Mode {
    const EXPECTED: &'static str = "strict, or available and its limit, such as available:60s";

    fn from_text(text: &str) -> Option<Self> {
        if text == "strict" {
            return Some(Self::Strict);
        }
        let limit = Duration::from_text(text.strip_prefix("available:")?)?;
        Some(Self::Available { limit })
    }

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Strict => serializer.serialize_str("strict"),
            Self::Available { limit } => {
                serializer.collect_str(&format_args!("available:{}", written(*limit)))
            }
        }
    }
}

const MAX: &str = "max";
const SECOND: u128 = 1_000_000_000;
/// From the longest, in nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400 * SECOND),
    ("h", 3_600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

fn written(duration: Duration) -> String {
    if duration == Duration::MAX {
        return MAX.to_owned();
    }
    let (mut text, mut rest) = (String::new(), duration.as_nanos());
    for (unit, nanos) in UNITS {
        if rest >= nanos {
            // Writing to a `String` does not fail.
            let _ = write!(text, "{}{unit}", rest / nanos);
            rest %= nanos;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Field, written};

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

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in any::<u64>(), nanos in 0..1_000_000_000_u32) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(Duration::from_text(&written(duration)), Some(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-z ,:µ]{0,12}") {
            let _ = Duration::from_text(&text);
        }
    }
}
