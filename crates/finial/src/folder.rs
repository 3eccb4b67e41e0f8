//! The folder of a `dev` run: two configuration files, as an operator would write them, and what the programs keep.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use finial_runtime::fs;
use tempfile::TempDir;

/// Only the caller may look into it: it holds the authority's key.
const PRIVATE: u32 = 0o700;
const FILE: u32 = 0o600;

/// The folder, which goes with this value when it is temporary.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

impl Folder {
    /// Creates the folder if it is not there.
    pub(crate) fn open(wanted: Option<&Path>) -> Result<Self> {
        let Some(path) = wanted else {
            let temporary = tempfile::Builder::new()
                .prefix("finial-dev-")
                .tempdir()
                .context("failed to create a temporary folder")?;
            return Ok(Self {
                path: temporary.path().to_owned(),
                _temporary: Some(temporary),
            });
        };
        fs::create_dir(path, PRIVATE)
            .with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self {
            path: std::path::absolute(path)?,
            _temporary: None,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn server_socket(&self) -> PathBuf {
        self.path.join("server/api.sock")
    }

    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.path.join("agent/api.sock")
    }

    /// Whether an agent has been attested from here before.
    pub(crate) fn has_agent(&self) -> bool {
        self.path.join("agent-data/agent-data.json").exists()
    }

    /// Writes the server's configuration.
    pub(crate) fn write_server_config(&self, trust_domain: &str, port: u16) -> Result<PathBuf> {
        let folder = self.path.display();
        self.write(
            "server.conf",
            &format!(
                r#"server {{
    bind_address = "127.0.0.1"
    bind_port = {port}
    trust_domain = "{trust_domain}"
    data_dir = "{folder}/server-data"
    socket_path = "{folder}/server/api.sock"
    log_level = "WARN"
}}

plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = "{folder}/server-data/datastore.sqlite3"
        }}
    }}
    KeyManager "disk" {{
        plugin_data {{
            keys_path = "{folder}/server-data/keys.json"
        }}
    }}
    NodeAttestor "join_token" {{
        plugin_data {{}}
    }}
}}
"#
            ),
        )
    }

    /// Writes the agent's configuration, and the bundle it starts from.
    pub(crate) fn write_agent_config(
        &self,
        trust_domain: &str,
        port: u16,
        bundle: &str,
    ) -> Result<PathBuf> {
        self.write("bundle.pem", bundle)?;
        let folder = self.path.display();
        self.write(
            "agent.conf",
            &format!(
                r#"agent {{
    data_dir = "{folder}/agent-data"
    log_level = "WARN"
    server_address = "127.0.0.1"
    server_port = {port}
    socket_path = "{folder}/agent/api.sock"
    trust_bundle_path = "{folder}/bundle.pem"
    trust_domain = "{trust_domain}"
}}

plugins {{
    KeyManager "disk" {{
        plugin_data {{
            directory = "{folder}/agent-data"
        }}
    }}
    NodeAttestor "join_token" {{
        plugin_data {{}}
    }}
    WorkloadAttestor "unix" {{
        plugin_data {{}}
    }}
}}
"#
            ),
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write_atomic(&path, text.as_bytes(), FILE)
            .with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }
}
