//! A trust domain in a folder: one server, any number of agents, configured by files as an operator writes them.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::process::Process;
use crate::{tools, wait};

/// The trust domain of every lab.
pub const TRUST_DOMAIN: &str = "example.org";

/// How long a program may take to come up on a busy machine.
pub const START_LIMIT: Duration = Duration::from_secs(30);

/// Who wrote a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Make {
    /// Ours.
    Finial,
    /// SPIRE's, in this folder.
    Spire(PathBuf),
}

impl Make {
    fn server(&self) -> PathBuf {
        match self {
            Self::Finial => tools::binary("finial-server"),
            Self::Spire(folder) => folder.join("spire-server"),
        }
    }

    fn agent(&self) -> PathBuf {
        match self {
            Self::Finial => tools::binary("finial-agent"),
            Self::Spire(folder) => folder.join("spire-agent"),
        }
    }
}

/// The folder, the port and the server's settings.
#[derive(Debug)]
pub struct Lab {
    folder: TempDir,
    port: u16,
    /// Extra lines for the `server` block.
    pub server_settings: String,
    /// The key manager block of the server.
    pub server_key_manager: String,
    /// Extra lines for the `plugins` block of the server.
    pub server_plugins: String,
}

impl Lab {
    /// An empty lab on a free port of the loopback address.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("finial-lab-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let keys = folder.path().join("server-keys.json");
        Ok(Self {
            server_key_manager: format!(
                "KeyManager \"disk\" {{ plugin_data {{ keys_path = \"{}\" }} }}",
                keys.display()
            ),
            folder,
            port,
            server_settings: String::new(),
            server_plugins: String::new(),
        })
    }

    /// The lab's folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's admin socket.
    pub fn server_socket(&self) -> PathBuf {
        self.path().join("server/api.sock")
    }

    /// Writes the server's configuration file and returns its path.
    pub fn write_server_config(&self) -> Result<PathBuf> {
        let path = self.path().join("server.conf");
        let text = format!(
            r#"server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{folder}/server/api.sock"
    trust_domain = "{TRUST_DOMAIN}"
    data_dir = "{folder}/server-data"
    log_level = "DEBUG"
    ratelimit {{
        attestation = false
        signing = false
    }}
    {settings}
}}

plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = "{folder}/server-data/datastore.sqlite3"
        }}
    }}
    NodeAttestor "join_token" {{
        plugin_data {{}}
    }}
    {key_manager}
    {plugins}
}}
"#,
            port = self.port,
            folder = self.path().display(),
            settings = self.server_settings,
            key_manager = self.server_key_manager,
            plugins = self.server_plugins,
        );
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts our server and waits until it is healthy.
    pub fn start_server(&self) -> Result<Process> {
        self.start_server_of(&Make::Finial)
    }

    /// Starts a server and waits until it is healthy.
    pub fn start_server_of(&self, make: &Make) -> Result<Process> {
        let config = self.write_server_config()?;
        let mut command = Command::new(make.server());
        command.arg("run").arg("-config").arg(config);
        let mut server =
            Process::start("the server", &mut command, &self.path().join("server.log"))?;
        wait::until("a healthy server", START_LIMIT, || {
            if let Some(status) = server.ended() {
                return Some(Err(anyhow::anyhow!(
                    "the server ended with {status}:\n{}",
                    server.output()
                )));
            }
            self.server_cli(&["healthcheck"])
                .is_ok_and(|output| output.status.success())
                .then_some(Ok(()))
        })?;
        Ok(server)
    }

    /// Runs a command of our server's command line against the admin socket. The socket flag goes behind the command's
    /// words: flags come first in `arguments` after them.
    pub fn server_cli(&self, arguments: &[&str]) -> Result<Output> {
        let words = arguments
            .iter()
            .take_while(|argument| !argument.starts_with('-'))
            .count();
        let (command, flags) = arguments.split_at(words);
        Command::new(tools::binary("finial-server"))
            .args(command)
            .arg("-socketPath")
            .arg(self.server_socket())
            .args(flags)
            .output()
            .context("failed to run the server's command line")
    }

    /// Like [`Lab::server_cli`], but the command must succeed; gives its standard output.
    pub fn server_does(&self, arguments: &[&str]) -> Result<String> {
        let output = self.server_cli(arguments)?;
        ensure!(
            output.status.success(),
            "{arguments:?} failed with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A fresh join token.
    pub fn join_token(&self) -> Result<String> {
        let text = self.server_does(&["token", "generate"])?;
        text.lines()
            .find_map(|line| line.strip_prefix("Token: "))
            .map(str::to_owned)
            .context("the server printed no token")
    }

    /// Writes the trust bundle where agents look for it.
    pub fn write_bundle(&self) -> Result<PathBuf> {
        let path = self.path().join("bundle.pem");
        fs::write(&path, self.server_does(&["bundle", "show"])?)?;
        Ok(path)
    }

    /// Describes an agent with a data folder and socket of its own.
    pub fn agent(&self, name: &str) -> AgentLab {
        AgentLab {
            folder: self.path().join(name),
            port: self.port,
            settings: String::new(),
            bootstrap: format!(
                "trust_bundle_path = \"{}\"",
                self.path().join("bundle.pem").display()
            ),
            node_attestor: "NodeAttestor \"join_token\" { plugin_data {} }".to_owned(),
            workload_attestor: "WorkloadAttestor \"unix\" { plugin_data {} }".to_owned(),
        }
    }

    /// Registers an identity for the processes of the calling user under the agent `parent`; `flags` are appended.
    pub fn register(&self, path: &str, parent: &str, flags: &[&str]) -> Result<String> {
        let selector = format!("unix:uid:{}", nix::unistd::getuid());
        self.register_for(path, parent, &selector, flags)
    }

    /// Registers an identity for what `selector` tells under the agent `parent`; `flags` are appended. Gives the SPIFFE ID.
    pub fn register_for(
        &self,
        path: &str,
        parent: &str,
        selector: &str,
        flags: &[&str],
    ) -> Result<String> {
        let id = format!("spiffe://{TRUST_DOMAIN}{path}");
        let mut arguments = vec!["entry", "create", "-spiffeID", &id];
        arguments.extend(["-parentID", parent, "-selector", selector]);
        arguments.extend_from_slice(flags);
        self.server_does(&arguments)?;
        Ok(id)
    }
}

/// An agent's folder and settings.
#[derive(Debug, Clone)]
pub struct AgentLab {
    folder: PathBuf,
    port: u16,
    /// Extra lines for the `agent` block.
    pub settings: String,
    /// How the agent comes to trust the server.
    pub bootstrap: String,
    /// The node attestor block.
    pub node_attestor: String,
    /// The workload attestor block.
    pub workload_attestor: String,
}

impl AgentLab {
    /// The agent's folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The Workload API's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("public/api.sock")
    }

    /// The socket as clients are told of it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Writes the configuration file and returns its path.
    pub fn write_config(&self) -> Result<PathBuf> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join("agent.conf");
        let text = format!(
            r#"agent {{
    data_dir = "{folder}/data"
    log_level = "DEBUG"
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = "{folder}/public/api.sock"
    trust_domain = "{TRUST_DOMAIN}"
    {bootstrap}
    {settings}
}}

plugins {{
    {node_attestor}
    KeyManager "disk" {{
        plugin_data {{
            directory = "{folder}/data"
        }}
    }}
    {workload_attestor}
}}
"#,
            folder = self.folder.display(),
            port = self.port,
            bootstrap = self.bootstrap,
            settings = self.settings,
            node_attestor = self.node_attestor,
            workload_attestor = self.workload_attestor,
        );
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts the agent without waiting for anything.
    pub fn spawn(&self, make: &Make, token: Option<&str>) -> Result<Process> {
        let config = self.write_config()?;
        let mut command = Command::new(make.agent());
        command.arg("run").arg("-config").arg(config);
        if let Some(token) = token {
            command.arg("-joinToken").arg(token);
        }
        Process::start("the agent", &mut command, &self.folder.join("agent.log"))
    }

    /// Starts our agent and waits until it is healthy.
    pub fn start(&self, token: Option<&str>) -> Result<Process> {
        self.start_of(&Make::Finial, token)
    }

    /// Starts an agent and waits until it is healthy.
    pub fn start_of(&self, make: &Make, token: Option<&str>) -> Result<Process> {
        let mut agent = self.spawn(make, token)?;
        wait::until("a healthy agent", START_LIMIT, || {
            if let Some(status) = agent.ended() {
                return Some(Err(anyhow::anyhow!(
                    "the agent ended with {status}:\n{}",
                    agent.output()
                )));
            }
            self.cli(&["healthcheck"])
                .is_ok_and(|output| output.status.success())
                .then_some(Ok(()))
        })?;
        Ok(agent)
    }

    /// Runs a command of our agent's command line against the socket.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let words = arguments
            .iter()
            .take_while(|argument| !argument.starts_with('-'))
            .count();
        let (command, flags) = arguments.split_at(words);
        Command::new(tools::binary("finial-agent"))
            .args(command)
            .arg("-socketPath")
            .arg(self.socket())
            .args(flags)
            .output()
            .context("failed to run the agent's command line")
    }
}
