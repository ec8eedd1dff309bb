//! Edits of the crate's scripts, for a test that asks for the use of a line. The crate ships its scripts without marks:
//! a server of this thread changes their texts when it loads them, and keeps their names.

use std::borrow::Cow;
use std::cell::RefCell;

use crate::lua::{Script, forget_compiled};

thread_local! {
    static EDIT: RefCell<Option<Edit>> = const { RefCell::new(None) };
}

/// Another text of a file that scripts are made of.
#[derive(Clone, Debug)]
pub struct Edit {
    file: String,
    edited: String,
}

impl Edit {
    /// The text of a file, and the one that takes its place.
    #[must_use]
    pub fn new(file: &str, edited: &str) -> Self {
        let (file, edited) = (file.to_owned(), edited.to_owned());
        Self { file, edited }
    }

    /// Another line in the place of one that the file has exactly once.
    #[must_use]
    pub fn line(file: &str, line: &str, new: &str) -> Self {
        let many = file.lines().filter(|other| *other == line).count();
        assert_eq!(many, 1, "{line}");
        let lines = file
            .lines()
            .map(|other| if other == line { new } else { other });
        let edited: String = lines.flat_map(|line| [line, "\n"]).collect();
        Self::new(file, &edited)
    }
}

/// Servers edit the scripts that they load from now on, on this thread, or do so no more.
pub fn edit_scripts(edit: Option<Edit>) {
    EDIT.set(edit);
    forget_compiled();
}

/// Whether this is the text of a script.
#[must_use]
pub fn compiles(text: &str) -> bool {
    Script::load(text.as_bytes()).is_ok()
}

/// Whether scripts are edited on this thread.
pub(crate) fn are_edited() -> bool {
    EDIT.with_borrow(Option::is_some)
}

/// A script as it is run.
pub(crate) fn edited(text: &[u8]) -> Cow<'_, [u8]> {
    EDIT.with_borrow(|edit| {
        let edit = edit.as_ref()?;
        let text = str::from_utf8(text).ok()?;
        text.contains(&edit.file)
            .then(|| text.replacen(&edit.file, &edit.edited, 1).into_bytes())
    })
    .map_or(Cow::Borrowed(text), Cow::Owned)
}
