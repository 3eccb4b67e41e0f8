//! Times in journals and logs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Returns Unix seconds, rounded down; before the epoch, zero.
pub(crate) fn to_unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Returns the time of Unix seconds; before the epoch, the epoch.
pub(crate) fn from_unix(seconds: i64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        .unwrap_or(UNIX_EPOCH)
}

/// Prints a time as Go prints one by default: `2026-11-23 13:43:31.07 +0000 UTC`.
pub(crate) fn go(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let fraction = format!("{:09}", time.nanosecond());
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let (date, clock) = (time.date(), time.time());
    format!(
        "{date} {:02}:{:02}:{:02}{point}{fraction} +0000 UTC",
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

/// Prints a time to the second, as RFC 3339 says.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time).truncate_to_second();
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_the_logs_of_the_field_have_them() {
        let time = UNIX_EPOCH + Duration::new(1_795_355_011, 70_085_570);
        assert_eq!(go(time), "2026-11-22 13:43:31.07008557 +0000 UTC");
        assert_eq!(go(UNIX_EPOCH), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(rfc3339(time), "2026-11-22T13:43:31Z");
    }
}
