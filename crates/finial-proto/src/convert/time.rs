//! Moments as the API counts them: whole seconds since 1970.

use std::time::{Duration, SystemTime};

/// Whole seconds since the epoch, rounded down; at the ends of the range when it is beyond it.
pub fn to_unix(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let seconds = before.as_secs() + u64::from(before.subsec_nanos() > 0);
            i64::try_from(seconds).map_or(i64::MIN, |seconds| -seconds)
        }
    }
}

/// The moment so many seconds after the epoch, or before it. The epoch itself when the clock cannot represent it.
pub fn from_unix(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    moment.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// As [`to_unix`], with 0 for never.
pub fn optional_to_unix(time: Option<SystemTime>) -> i64 {
    time.map_or(0, to_unix)
}

/// As [`from_unix`], with 0 for never.
pub fn optional_from_unix(seconds: i64) -> Option<SystemTime> {
    (seconds != 0).then(|| from_unix(seconds))
}
