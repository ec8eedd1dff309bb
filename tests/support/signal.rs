//! Signals to processes of the test's own.

use std::fs;
use std::process::Command;

/// Sends a signal, e.g. `TERM`. An id whose process was waited for may belong to another one by now.
pub(crate) fn send(id: u32, name: &str) {
    // The shell's own kill: the program of that name is not installed everywhere.
    let sent = Command::new("sh")
        .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name])
        .arg(id.to_string())
        .status();
    assert!(
        sent.as_ref().is_ok_and(std::process::ExitStatus::success),
        "cannot send SIG{name} to process {id}: {sent:?}"
    );
}

/// Whether the kernel has stopped it. Where it does not say, it is taken at its word.
pub(crate) fn is_stopped(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('T')))
        .unwrap_or(true)
}
