//! The end that a person or another program asks for.

use std::io;

/// Waits until this program is to end, and has to give something back first. Signals are caught from the call on, and
/// not only while somebody waits.
#[cfg(unix)]
pub(crate) fn ended() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "nothing is registered")]
pub(crate) fn ended() -> io::Result<impl Future<Output = ()>> {
    Ok(std::future::pending())
}
