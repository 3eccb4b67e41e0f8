//! Durations in Go's syntax: `1h30m`, `1.5s`, `100ms`.

use std::time::Duration;

use thiserror::Error;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// Not a duration at all.
    #[error("time: invalid duration {text:?}")]
    Invalid {
        /// What was given.
        text: String,
    },
    /// A number without a unit.
    #[error("time: missing unit in duration {text:?}")]
    MissingUnit {
        /// What was given.
        text: String,
    },
    /// A unit that does not exist; there is no unit for days.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// What was given.
        text: String,
    },
    /// A negative duration where only a positive one makes sense.
    #[error("duration {text:?} is negative")]
    Negative {
        /// What was given.
        text: String,
    },
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Parses a duration; `"0"` needs no unit. Negative ones are refused.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let (negative, nanos) = parse_nanos(text)?;
    if negative && nanos > 0 {
        return Err(DurationError::Negative {
            text: text.to_owned(),
        });
    }
    Ok(from_nanos(nanos))
}

/// Parses a duration that may be negative; returns whether it was, and its size.
pub fn parse_signed(text: &str) -> Result<(bool, Duration), DurationError> {
    parse_nanos(text).map(|(negative, nanos)| (negative, from_nanos(nanos)))
}

fn from_nanos(nanos: u128) -> Duration {
    // At most i64::MAX nanoseconds, so neither part can be out of range.
    Duration::new(
        u64::try_from(nanos / NANOS_PER_SECOND).unwrap_or(u64::MAX),
        u32::try_from(nanos % NANOS_PER_SECOND).unwrap_or(0),
    )
}

fn parse_nanos(text: &str) -> Result<(bool, u128), DurationError> {
    let invalid = || DurationError::Invalid {
        text: text.to_owned(),
    };
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Ok((false, 0));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_u128;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale: u128 = match unit {
            "" => {
                return Err(DurationError::MissingUnit {
                    text: text.to_owned(),
                });
            }
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS_PER_SECOND,
            "m" => 60 * NANOS_PER_SECOND,
            "h" => 3600 * NANOS_PER_SECOND,
            unit => {
                return Err(DurationError::UnknownUnit {
                    unit: unit.to_owned(),
                    text: text.to_owned(),
                });
            }
        };
        let number = |digits: &str| match digits {
            "" => Some(0),
            digits => digits.parse::<u128>().ok(),
        };
        let whole = number(whole)
            .and_then(|whole| whole.checked_mul(scale))
            .ok_or_else(invalid)?;
        // Beyond eighteen places nothing is left of a nanosecond.
        let fraction: String = fraction.chars().take(18).collect();
        let places = u32::try_from(fraction.len()).unwrap_or(18);
        let fraction = number(&fraction).ok_or_else(invalid)? * scale / 10_u128.pow(places);
        total = total
            .checked_add(whole + fraction)
            .filter(|total| *total <= u128::from(i64::MAX.unsigned_abs()))
            .ok_or_else(invalid)?;
        rest = after;
    }
    Ok((negative, total))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Prints a duration as Go does: `1h0m0s`, `1.5s`, `3.21ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < NANOS_PER_SECOND {
        let (scale, unit) = match nanos {
            0..1_000 => return format!("{nanos}ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{}{unit}", decimal(nanos, scale));
    }
    let minutes = nanos / (60 * NANOS_PER_SECOND);
    let seconds = decimal(nanos % (60 * NANOS_PER_SECOND), NANOS_PER_SECOND);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Prints `value / scale` without trailing zeros.
fn decimal(value: u128, scale: u128) -> String {
    let fraction = value % scale;
    if fraction == 0 {
        return (value / scale).to_string();
    }
    let places = scale.to_string().len() - 1;
    let fraction = format!("{fraction:0places$}");
    format!("{}.{}", value / scale, fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("0", 0),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            (".5s", 500),
            ("5.s", 5_000),
            ("1h1m1s1ms", 3_661_001),
            ("+2s", 2_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, message) in [
            ("", r#"time: invalid duration """#),
            ("1", r#"time: missing unit in duration "1""#),
            ("1d", r#"time: unknown unit "d" in duration "1d""#),
            ("s", r#"time: invalid duration "s""#),
            ("-1s", r#"duration "-1s" is negative"#),
            ("9999999h", r#"time: invalid duration "9999999h""#),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (nanos, text) in [
            (0, "0s"),
            (150, "150ns"),
            (1_500, "1.5µs"),
            (3_210_000, "3.21ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (3_723_000_000_000, "1h2m3s"),
        ] {
            assert_eq!(format(Duration::from_nanos(nanos)), text);
        }
    }
}
