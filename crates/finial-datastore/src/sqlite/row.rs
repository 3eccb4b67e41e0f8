//! Values on their way into columns and out of them.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row as _, Sqlite, Type};

use crate::error::{Cause, StoreError};

/// Turns the database's error into the store's; for `map_err`.
pub(super) fn db(action: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| {
        if is_unavailable(&source) {
            StoreError::Unavailable {
                action,
                source: source.into(),
            }
        } else {
            StoreError::Database {
                action,
                source: source.into(),
            }
        }
    }
}

/// Reads a column; a value of the wrong type means a damaged database.
pub(super) fn get<'r, T>(row: &'r SqliteRow, column: &'static str) -> Result<T, StoreError>
where
    T: Decode<'r, Sqlite> + Type<Sqlite>,
{
    row.try_get(column)
        .map_err(|source| StoreError::corrupt(format!("column {column}"), source))
}

/// Reads a column of text and parses it.
pub(super) fn parse<T>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError>
where
    T: FromStr<Err: Into<Cause>>,
{
    get::<&str>(row, column)?
        .parse()
        .map_err(|source: T::Err| StoreError::corrupt(format!("column {column}"), source))
}

/// Reads a column of text that may be missing and parses it.
pub(super) fn parse_optional<T>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, StoreError>
where
    T: FromStr<Err: Into<Cause>>,
{
    get::<Option<&str>>(row, column)?
        .map(str::parse)
        .transpose()
        .map_err(|source: T::Err| StoreError::corrupt(format!("column {column}"), source))
}

/// Reads a column of JSON.
pub(super) fn from_json<T>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError>
where
    T: serde::de::DeserializeOwned,
{
    serde_json::from_str(get(row, column)?)
        .map_err(|source| StoreError::corrupt(format!("column {column}"), source))
}

/// Writes a value as JSON.
pub(super) fn to_json<T: serde::Serialize + ?Sized>(
    action: &'static str,
    value: &T,
) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Database {
        action,
        source: source.into(),
    })
}

/// Seconds since 1970, times before it negative; a fraction is cut off.
pub(super) fn to_unix(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => to_i64(after.as_secs()),
        Err(before) => {
            let before = before.duration();
            let whole = to_i64(before.as_secs()).saturating_neg();
            if before.subsec_nanos() > 0 {
                whole - 1
            } else {
                whole
            }
        }
    }
}

/// The time of so many seconds since 1970.
pub(super) fn from_unix(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}

/// SQLite's integers are signed; nothing stored comes near the edge.
pub(super) fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The other way; a negative number, which nobody writes, reads as zero.
pub(super) fn to_u64(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Io(_) => true,
        // The low byte is the primary code: 5 busy, 6 locked, 10 I/O error, 13 full, 14 cannot open.
        sqlx::Error::Database(error) => error
            .code()
            .and_then(|code| code.parse::<u32>().ok())
            .is_some_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13 | 14)),
        _ => false,
    }
}
