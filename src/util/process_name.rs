//! The name of a process, for people.

use std::process;

/// The longest name, in bytes: each instance stores its own with its counters.
const LONGEST: usize = 64;

/// The name of this host, and the number of this process.
pub(crate) fn default_name() -> String {
    #[cfg(unix)]
    let host = nix::unistd::gethostname().ok();
    #[cfg(not(unix))]
    let host = std::env::var_os("COMPUTERNAME");
    let host = host.unwrap_or_default();
    // The number stays whole.
    let host = of_one_word(&host.to_string_lossy());
    let host = host.get(..LONGEST - 11).unwrap_or(&host);
    format!("{host}/{}", process::id())
}

/// A name as one word that any terminal shows, of [`LONGEST`] bytes at most.
pub(crate) fn of_one_word(name: &str) -> String {
    let sign = |sign: char| match sign {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' | '/' | ':' => sign,
        _ => '_',
    };
    name.chars().map(sign).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_short_word() {
        assert_eq!(of_one_word("eu/web-3.7:80"), "eu/web-3.7:80");
        assert_eq!(of_one_word("a b=c\u{1b}[31m\nä"), "a_b_c__31m__");
        assert_eq!(of_one_word(&"ä".repeat(100)), "_".repeat(LONGEST));
        let name = default_name();
        assert!(name.ends_with(&format!("/{}", process::id())), "{name}");
        assert!(
            name.len() <= LONGEST && of_one_word(&name) == name,
            "{name}"
        );
    }
}
