//! Which seeds a random test runs.

use std::ops::Range;

/// The seeds in `LARDER_SEEDS`, such as `0..2000`; `None` if there are none, and a test runs few of its own.
pub(crate) fn seeds() -> Option<Range<u64>> {
    let range = std::env::var("LARDER_SEEDS").ok()?;
    let ends = range.split_once("..");
    let ends = ends.and_then(|(start, end)| Some((start.parse().ok()?, end.parse().ok()?)));
    let (start, end) = ends.unwrap_or_else(|| panic!("LARDER_SEEDS={range} is not like 0..2000"));
    Some(start..end)
}
