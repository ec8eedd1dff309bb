//! Why the environment has no settings.

use std::sync::Arc;

/// Why [`Settings::from_env`](crate::Settings::from_env) has no settings. It names the variables, and shows no value.
///
/// ```
/// # // The environment of this process is not changed: `PATH` is there on all systems.
/// let error = larder::Settings::from_env("PAT").err().ok_or("PATH is an option?")?;
/// assert_eq!(error.mistakes().count(), 1);
/// assert_eq!(error.to_string(), "the environment cannot be used: PATH is not the name of an option");
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("the environment cannot be used: {}", .mistakes.join("; "))]
pub struct SettingsError {
    mistakes: Arc<[String]>,
}

impl SettingsError {
    pub(super) fn new(mistakes: Vec<String>) -> Self {
        let mistakes = mistakes.into();
        Self { mistakes }
    }

    /// The mistakes, one by one.
    pub fn mistakes(&self) -> impl Iterator<Item = &str> {
        self.mistakes.iter().map(String::as_str)
    }
}
