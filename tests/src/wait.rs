//! Waiting for what another process does.

use std::time::Duration;

use tokio::time::Instant;

/// Polls `condition` until it gives a value, for at most `limit`.
///
/// # Panics
/// When the limit is over; `what` is named in the message.
#[expect(
    clippy::disallowed_methods,
    reason = "another process can only be polled"
)]
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
