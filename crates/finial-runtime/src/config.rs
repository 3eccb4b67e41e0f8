//! Configuration files: reading, checking, decoding.
//!
//! [`load`] reads a file; [`read`] checks it by Go's strict rules, refuses keys that nobody knows, and puts the
//! environment and the flags over one section through the `config` crate. What is wrong with a file is said with its
//! line, before anything runs.

pub mod duration;
mod expand;
mod format;
pub mod hcl;
mod layers;
mod plugins;
pub mod sections;

use crate::fs::{OpenError, read_text};
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use expand::expand_env;
pub use format::Hcl;
pub use hcl::whole_number;
pub use layers::{Overrides, Settings, environment, read};
pub use plugins::{PluginConfig, PluginKinds, PluginsError, plugins};
pub use sections::{ConfigError, HealthConfig};

use self::hcl::{HclError, Table, UnknownKey};

/// Why a configuration file could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// There is no such file.
    #[error("could not find config file {}: please use the -config flag", path.display())]
    NotFound {
        /// The file, as an absolute path.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("unable to read configuration at {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: OpenError,
    },
    /// The file is not valid HCL or JSON.
    #[error("unable to decode configuration at {path:?}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: HclError,
    },
}

/// A configuration file that was read and parsed.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    text: String,
    table: Table,
}

impl ConfigFile {
    /// Parses the text of a file; `path` names it in errors.
    pub fn parse(path: &Path, text: impl Into<String>) -> Result<Self, LoadError> {
        let text = text.into();
        let table = hcl::parse(&text).map_err(|source| LoadError::Decode {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            text,
            table,
        })
    }

    /// Returns the items of the file, in order.
    pub fn table(&self) -> &Table {
        &self.table
    }
}

/// Reads a configuration file. With `expand`, `$NAME` and `${NAME}` are replaced from the environment first.
pub fn load(path: &Path, expand: bool) -> Result<ConfigFile, LoadError> {
    let text = read_text(path).map_err(|source| {
        if source.is_missing() {
            LoadError::NotFound {
                path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            }
        } else {
            LoadError::Read {
                path: path.to_owned(),
                source,
            }
        }
    })?;
    let text = if expand {
        expand_env(&text, |name| std::env::var(name).ok())
    } else {
        text
    };
    ConfigFile::parse(path, text)
}

/// Keys that no section has; displayed one per line, so that an operator can mend them all at once.
#[derive(Debug, Error)]
#[error("unknown configuration detected{}", unknown_lines(keys))]
pub struct UnknownKeysError {
    /// The keys, in file order.
    pub keys: Vec<UnknownKey>,
}

fn unknown_lines(keys: &[UnknownKey]) -> String {
    match keys {
        [key] => format!(": {key}"),
        keys => {
            let lines: Vec<_> = keys.iter().map(ToString::to_string).collect();
            format!("\n  {}", lines.join("\n  "))
        }
    }
}

/// Refuses a file with unknown keys.
pub fn refuse_unknown(keys: Vec<UnknownKey>) -> Result<(), UnknownKeysError> {
    if keys.is_empty() {
        Ok(())
    } else {
        Err(UnknownKeysError { keys })
    }
}
