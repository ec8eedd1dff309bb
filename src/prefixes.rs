//! Which of some prefixes a key begins with: for a walk over all keys, in either level.

use std::collections::{BTreeMap, BTreeSet};

/// Prefixes with their indexes in a list.
pub(crate) struct Prefixes<'a> {
    texts: Vec<&'a str>,
    indexes: BTreeMap<&'a [u8], Vec<usize>>,
    lengths: BTreeSet<usize>,
}

impl<'a> Prefixes<'a> {
    pub(crate) fn new(texts: impl Iterator<Item = &'a str>) -> Self {
        let texts: Vec<_> = texts.collect();
        let mut indexes = BTreeMap::<_, Vec<_>>::new();
        for (index, text) in texts.iter().enumerate() {
            indexes.entry(text.as_bytes()).or_default().push(index);
        }
        Self {
            lengths: texts.iter().map(|text| text.len()).collect(),
            texts,
            indexes,
        }
    }

    /// The indexes of those that the key begins with. Costs a look-up for each length that there is, not for each
    /// prefix.
    pub(crate) fn matching(&self, key: &[u8]) -> impl Iterator<Item = usize> {
        // In ascending order, so the first length that the key does not have ends the walk.
        let heads = self.lengths.iter().map_while(move |&len| key.get(..len));
        let indexes = heads.filter_map(|head| self.indexes.get(head));
        indexes.flatten().copied()
    }

    /// Whether the key begins with any of them.
    pub(crate) fn has_one(&self, key: &str) -> bool {
        self.matching(key.as_bytes()).next().is_some()
    }

    /// The longest text that all of them begin with.
    pub(crate) fn common(&self) -> &'a str {
        let common = self.texts.iter().copied().reduce(|common, text| {
            // By chars, as half of one would be no text, although the first bytes may be the same.
            let pairs = common.chars().zip(text.chars());
            let same = pairs.take_while(|(one, other)| one == other);
            let len = same.map(|(char, _)| char.len_utf8()).sum();
            common.get(..len).unwrap_or_default()
        });
        common.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Prefixes;

    fn of(texts: &[&str], key: &str) -> Vec<usize> {
        let prefixes = Prefixes::new(texts.iter().copied());
        let mut indexes: Vec<_> = prefixes.matching(key.as_bytes()).collect();
        indexes.sort_unstable();
        indexes
    }

    #[test]
    fn all_prefixes_of_a_key_are_found() {
        let texts = ["eu:", "us:", "eu:tea", "", "eu:", "é"];
        assert_eq!(of(&texts, "eu:tea"), [0, 2, 3, 4]);
        assert_eq!(of(&texts, "eu:te"), [0, 3, 4]);
        assert_eq!(of(&texts, "us:"), [1, 3]);
        assert_eq!(of(&texts, "EU:"), [3]);
        assert_eq!(of(&texts, ""), [3]);
        assert_eq!(of(&texts, "éa"), [3, 5]);
        assert_eq!(of(&["é"], "è"), [0; 0]);
        assert_eq!(of(&[], "eu:"), [0; 0]);
    }

    #[test]
    fn the_common_text_is_the_longest() {
        let common = |texts: &[&'static str]| Prefixes::new(texts.iter().copied()).common();
        assert_eq!(common(&["eu:tea"]), "eu:tea");
        assert_eq!(common(&["eu:tea", "eu:milk", "eu:te"]), "eu:");
        assert_eq!(common(&["eu:", "us:"]), "");
        assert_eq!(common(&["é", "è"]), "", "they have a byte in common");
        assert_eq!(common(&[]), "");
    }
}
