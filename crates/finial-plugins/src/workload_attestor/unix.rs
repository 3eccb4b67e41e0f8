//! The `unix` workload attestor: user, groups and executable of a process.
//!
//! Numbers come from the kernel, names from the agent's own user database. A name that does not resolve is left out, as in an image
//! without `/etc/passwd`; databases behind NSS may be slow, so names are looked up off the async threads and kept for a moment.

mod digests;
mod names;

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use finial_plugin::workload::{STATUS_LIMIT_BYTES, Workload, WorkloadError};
use finial_plugin::workload_attestor::WorkloadAttestor;
use finial_plugin::{AttestError, PluginContext, PluginError};
use finial_runtime::clock::SharedClock;
use finial_runtime::config::PluginConfig;
use serde::Deserialize;
use spiffe_types::selector::{Selector, SelectorError};
use thiserror::Error;
use tokio::sync::Semaphore;

use self::digests::{Asked, Asker, Digests};
use self::names::Names;

/// Finds `uid`, `user`, `gid`, `group`, `supplementary_gid` and `supplementary_group`; `path` and `sha256` on demand.
#[derive(Debug)]
pub struct UnixAttestor {
    config: UnixConfig,
    names: Arc<Names>,
    digests: Arc<Digests>,
    /// Executables that are looked at.
    looking: Arc<Semaphore>,
    clock: SharedClock,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct UnixConfig {
    /// Whether to look at the executable.
    discover_workload_path: bool,
    /// Largest executable that is hashed, in bytes. 0: any; negative: none is.
    workload_size_limit: i64,
}

impl UnixAttestor {
    /// Builds the attestor from its part of the configuration.
    pub fn build(
        context: &PluginContext,
        config: &PluginConfig,
    ) -> Result<Arc<dyn WorkloadAttestor>, PluginError> {
        let config = config.decode().map_err(|error| {
            PluginError::misconfigured(
                "failed to decode configuration of the unix workload attestor",
            )
            .with_source(error)
        })?;
        Ok(Arc::new(Self::new(config, Arc::clone(&context.clock))))
    }

    fn new(config: UnixConfig, clock: SharedClock) -> Self {
        Self {
            config,
            names: Arc::new(Names::default()),
            digests: Arc::new(Digests::default()),
            looking: Arc::new(Semaphore::new(EXECUTABLES_AT_ONCE)),
            clock,
        }
    }

    async fn executable(&self, workload: &Workload) -> Result<Executable, ExecutableError> {
        // The semaphore is never closed; without a permit it is looked at all the same.
        let looking = Arc::clone(&self.looking).acquire_owned().await.ok();
        let workload = workload.clone();
        let limit = self.config.workload_size_limit;
        let digests = Arc::clone(&self.digests);
        let now = self.clock.now();
        let asker = Asker::new();
        let asked = asker.asked();
        let examine = move || {
            // Held here: a file system may keep the thread for longer than anybody waits.
            let _looking = looking;
            Executable::examine(&workload, limit, &digests, now, &asked)
        };
        let examined = tokio::task::spawn_blocking(examine).await;
        drop(asker);
        examined.map_err(ExecutableError::Stopped)?
    }
}

#[async_trait]
impl WorkloadAttestor for UnixAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, workload: &Workload) -> Result<Vec<Selector>, AttestError> {
        let status = workload.read_text("status", STATUS_LIMIT_BYTES)?;
        let supplementary = supplementary_groups(&status);
        let names = self
            .names
            .find(workload.uid(), workload.gid(), &supplementary)
            .await;

        let mut found = Found::default();
        found.add("uid", workload.uid())?;
        if let Some(user) = &names.user {
            found.add("user", user)?;
        }
        found.add("gid", workload.gid())?;
        if let Some(group) = &names.group {
            found.add("group", group)?;
        }
        for (gid, name) in supplementary.iter().zip(&names.supplementary) {
            found.add("supplementary_gid", gid)?;
            if let Some(name) = name {
                found.add("supplementary_group", name)?;
            }
        }
        if self.config.discover_workload_path {
            let executable = self.executable(workload).await.map_err(|error| {
                AttestError::internal("failed to examine the executable").with_source(error)
            })?;
            found.add("path", executable.path.display())?;
            if let Some(digest) = executable.sha256 {
                found.add("sha256", digest)?;
            }
        }
        Ok(found.selectors)
    }
}

/// Selectors on the way to the host.
#[derive(Debug, Default)]
struct Found {
    selectors: Vec<Selector>,
}

impl Found {
    fn add(&mut self, kind: &str, value: impl std::fmt::Display) -> Result<(), AttestError> {
        let selector = Selector::new(NAME, &format!("{kind}:{value}"));
        self.selectors
            .push(selector.map_err(|error: SelectorError| {
                AttestError::internal("failed to make a selector").with_source(error)
            })?);
        Ok(())
    }
}

/// What is known of the program a process runs.
#[derive(Debug)]
struct Executable {
    path: PathBuf,
    sha256: Option<Arc<str>>,
}

impl Executable {
    fn examine(
        workload: &Workload,
        size_limit: i64,
        digests: &Digests,
        now: SystemTime,
        asked: &Asked,
    ) -> Result<Self, ExecutableError> {
        let path = workload.exe_path().map_err(ExecutableError::Path)?;
        if path.as_os_str().as_bytes().is_empty() {
            return Err(ExecutableError::NoPath);
        }
        let sha256 = match u64::try_from(size_limit) {
            Ok(limit) => {
                let mut file = workload.open_exe().map_err(ExecutableError::Open)?;
                check_size(&file, &path, limit)?;
                let digest = digests.find_or_hash(&mut file, now, asked);
                Some(digest.map_err(|source| ExecutableError::Read {
                    path: path.clone(),
                    source,
                })?)
            }
            Err(_negative) => None,
        };
        Ok(Self { path, sha256 })
    }
}

/// Why nothing can be said about an executable.
#[derive(Debug, Error)]
enum ExecutableError {
    #[error(
        "failed to get the path of the executable; the agent needs CAP_SYS_PTRACE to see those of other users"
    )]
    Path(#[source] WorkloadError),
    #[error("the process has no executable")]
    NoPath,
    #[error(
        "SHA256 digest: failed to open the executable; the agent needs CAP_SYS_PTRACE to open those of other users"
    )]
    Open(#[source] WorkloadError),
    #[error("SHA256 digest: failed to read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("SHA256 digest: workload {} exceeds size limit ({size} > {limit})", path.display())]
    TooLarge {
        path: PathBuf,
        size: u64,
        limit: u64,
    },
    #[error("the agent is stopping")]
    Stopped(#[source] tokio::task::JoinError),
}

/// Refuses a file of more than `limit` bytes; 0 means any size.
fn check_size(file: &File, path: &Path, limit: u64) -> Result<(), ExecutableError> {
    let metadata = file.metadata().map_err(|source| ExecutableError::Read {
        path: path.to_owned(),
        source,
    })?;
    if limit > 0 && metadata.len() > limit {
        return Err(ExecutableError::TooLarge {
            path: path.to_owned(),
            size: metadata.len(),
            limit,
        });
    }
    Ok(())
}

/// Reads the line `Groups:` of `/proc/<pid>/status`.
fn supplementary_groups(status: &str) -> Vec<u32> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .unwrap_or_default();
    line.split_ascii_whitespace()
        .filter_map(|gid| gid.parse().ok())
        .collect()
}

/// The name in configurations, and the type of the selectors.
pub const NAME: &str = "unix";
/// Enough for any disk, and few beside the threads the agent has for everything that blocks.
const EXECUTABLES_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests;
