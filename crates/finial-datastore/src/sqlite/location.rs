//! Where the database is: SPIRE's connection strings, read as its driver reads them.

use std::fs::OpenOptions;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use super::SqliteOptions;
use crate::error::StoreError;

/// Where a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    File(PathBuf),
    Memory,
}

impl Location {
    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        if text.is_empty() {
            return Err(misconfigured("connection_string must be set"));
        }
        let (path, query) = match text.split_once(':') {
            Some(("file", rest)) => {
                let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
                (decode(path)?, query)
            }
            Some((scheme, _)) if is_scheme(scheme) => {
                return Err(misconfigured(format!("unsupported scheme \"{scheme}\"")));
            }
            _ => {
                let (path, query) = text.split_once('?').unwrap_or((text, ""));
                (path.to_owned(), query)
            }
        };
        // file:///path has an empty authority
        let path = path
            .strip_prefix("//")
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(&path);
        if path.is_empty() {
            return Err(misconfigured(format!(
                "connection_string \"{text}\" names no file"
            )));
        }
        if path == ":memory:" || query.split('&').any(|pair| pair == "mode=memory") {
            return Ok(Self::Memory);
        }
        Ok(Self::File(PathBuf::from(path)))
    }

    pub(super) fn is_memory(&self) -> bool {
        matches!(self, Self::Memory)
    }

    /// Creates the file, for owner and group only; SQLite gives its side files the same mode.
    pub(super) fn create_file(&self) -> Result<(), StoreError> {
        let Self::File(path) = self else {
            return Ok(());
        };
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(folder)
                .map_err(|error| cannot("create folder", folder, error))?;
        }
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(path)
            .map_err(|error| cannot("open database file", path, error))?;
        Ok(())
    }

    pub(super) fn connect_options(&self, options: &SqliteOptions) -> SqliteConnectOptions {
        let connect = SqliteConnectOptions::new()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);
        let connect = match self {
            Self::File(path) => connect.filename(path),
            Self::Memory => connect.in_memory(true),
        };
        if options.log_sql {
            connect
        } else {
            connect.disable_statement_logging()
        }
    }

    /// Says which file could not be opened.
    pub(super) fn open_error(&self, error: sqlx::Error) -> StoreError {
        StoreError::Misconfigured {
            message: format!("failed to open database {self}"),
            source: Some(error.into()),
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "\"{}\"", path.display()),
            Self::Memory => f.write_str("in memory"),
        }
    }
}

/// A colon in a file name does not make a scheme of what stands before it, unless it looks like one.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// Decodes `%2F` and the like, as SQLite does in a `file:` URI.
fn decode(path: &str) -> Result<String, StoreError> {
    let malformed = || {
        misconfigured(format!(
            "connection_string has a malformed escape in \"{path}\""
        ))
    };
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(malformed());
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|source| StoreError::Misconfigured {
        message: format!("connection_string \"{path}\" is not UTF-8"),
        source: Some(source.into()),
    })
}

fn misconfigured(message: impl Into<String>) -> StoreError {
    StoreError::Misconfigured {
        message: message.into(),
        source: None,
    }
}

fn cannot(action: &str, path: &Path, error: std::io::Error) -> StoreError {
    StoreError::Misconfigured {
        message: format!("failed to {action} \"{}\"", path.display()),
        source: Some(error.into()),
    }
}

/// How long SQLite itself waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_read_as_spire_reads_them() {
        let file = |path: &str| Location::File(PathBuf::from(path));
        for (text, expected) in [
            ("data.db", file("data.db")),
            ("./data.db", file("./data.db")),
            ("/home/fred/data.db", file("/home/fred/data.db")),
            ("file:data.db", file("data.db")),
            ("file:/home/fred/data.db", file("/home/fred/data.db")),
            ("file:///home/fred/data.db", file("/home/fred/data.db")),
            ("file:a%20b.db?_journal_mode=WAL", file("a b.db")),
            ("data.db?_busy_timeout=100", file("data.db")),
            (":memory:", Location::Memory),
            ("file::memory:", Location::Memory),
            ("file:name?mode=memory&cache=shared", Location::Memory),
        ] {
            assert_eq!(Location::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_connection_string_that_names_no_file_is_refused() {
        for (text, message) in [
            ("", "connection_string must be set"),
            ("postgres://host/db", "unsupported scheme \"postgres\""),
            (
                "file:?mode=rw",
                "connection_string \"file:?mode=rw\" names no file",
            ),
        ] {
            assert_eq!(Location::parse(text).unwrap_err().to_string(), message);
        }
    }
}
