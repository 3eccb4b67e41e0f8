//! A trust domain in containers: the images of `deploy/docker`, filled with the programs that the tests were built with.
//!
//! Nothing is pulled: what packs the images, and what workloads run, comes from this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::lab::TRUST_DOMAIN;
use crate::{tools, wait};

/// A running server, and whatever is started beside it; dropped, all of it goes.
#[derive(Debug)]
pub struct Containers {
    prefix: String,
    folder: TempDir,
}

impl Containers {
    /// Starts a server on new volumes and waits until its health check is content.
    pub fn start() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        images()?;
        let containers = Self {
            prefix: format!(
                "finial-test-{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            ),
            folder: tempfile::tempdir()?,
        };
        let config = containers.folder.path().join("server.conf");
        fs::write(&config, SERVER_CONFIG)?;
        containers.run(
            "server",
            &[
                "-d",
                "-v",
                &format!("{}-data:/opt/spire/data", containers.prefix),
                "-v",
                &format!("{}:/opt/spire/conf/server/server.conf:ro", config.display()),
                "--health-interval=1s",
                SERVER_IMAGE,
            ],
        )?;
        containers.wait_healthy("server");
        Ok(containers)
    }

    /// Starts an agent on a new volume for its socket, with `flags` for `docker run`, and waits until it is healthy. Gives its SPIFFE ID.
    pub fn start_agent(&self, name: &str, flags: &[&str]) -> Result<String> {
        let id = self.start_lame_agent(name, flags)?;
        self.wait_healthy(name);
        Ok(id)
    }

    /// Like [`Containers::start_agent`], but waits only for the Workload API: an agent whose attestors all fail is up, not healthy.
    pub fn start_lame_agent(&self, name: &str, flags: &[&str]) -> Result<String> {
        let text = self.server_does(&["token", "generate"])?;
        let token = text
            .lines()
            .find_map(|line| line.strip_prefix("Token: "))
            .context("the server printed no token")?;
        let config = self.folder.path().join("agent.conf");
        fs::write(&config, AGENT_CONFIG)?;
        let config = format!("{}:/opt/spire/conf/agent/agent.conf:ro", config.display());
        let socket = format!("{}:/tmp/spire-agent/public", self.volume(name));
        let network = format!("--network=container:{}", self.name("server"));
        let mut arguments = vec!["-d", "-v", &config, "-v", &socket, &network];
        arguments.push("--health-interval=1s");
        arguments.extend_from_slice(flags);
        arguments.extend([AGENT_IMAGE, "-joinToken", token]);
        self.run(name, &arguments)?;
        let what = format!("the Workload API of {name}");
        wait::until(&what, Duration::from_mins(1), || {
            self.logs(name)
                .contains("Starting agent APIs")
                .then_some(())
        });
        Ok(format!(
            "spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}"
        ))
    }

    /// Runs a command of the server's command line, which must succeed; gives its standard output.
    pub fn server_does(&self, arguments: &[&str]) -> Result<String> {
        let name = self.name("server");
        let mut words = vec!["exec", &name, "/opt/spire/bin/spire-server"];
        words.extend_from_slice(arguments);
        succeed(&words)
    }

    /// Registers `path` for the containers whose label `org.example.workload` is `label`. Gives the SPIFFE ID.
    pub fn register(&self, path: &str, parent: &str, label: &str) -> Result<String> {
        let id = format!("spiffe://{TRUST_DOMAIN}{path}");
        let selector = format!("docker:label:org.example.workload:{label}");
        self.server_does(&[
            "entry",
            "create",
            "-spiffeID",
            &id,
            "-parentID",
            parent,
            "-selector",
            &selector,
        ])?;
        Ok(id)
    }

    /// Starts a container that sleeps and sees the socket of the agent called `agent`.
    pub fn start_workload(&self, name: &str, agent: &str, flags: &[&str]) -> Result<()> {
        let socket = format!("{}:/tmp/spire-agent/public:ro", self.volume(agent));
        let mut arguments = vec![
            "-d",
            "-v",
            &socket,
            "--no-healthcheck",
            "--entrypoint=/bin/sleep",
        ];
        arguments.extend_from_slice(flags);
        arguments.extend([WORKLOAD_IMAGE, "3600"]);
        self.run(name, &arguments)?;
        Ok(())
    }

    /// Runs a shell script in a container of its own that sees the socket of the agent called `agent`.
    pub fn run_script(&self, agent: &str, flags: &[&str], script: &str) -> Result<Output> {
        let socket = format!("{}:/tmp/spire-agent/public:ro", self.volume(agent));
        let mut words = vec!["run", "--rm", "-v", &socket, "--no-healthcheck"];
        words.extend(["-e", "PATH=/bin:/usr/bin:/opt/spire/bin"]);
        words.push("--entrypoint=/bin/sh");
        words.extend_from_slice(flags);
        words.extend([WORKLOAD_IMAGE, "-c", script]);
        docker(&words)
    }

    /// The whole id of a container of ours.
    pub fn id(&self, name: &str) -> Result<String> {
        let id = succeed(&["inspect", "--format={{.Id}}", &self.name(name)])?;
        Ok(id.trim().to_owned())
    }

    /// Has a new process in the container `name` fetch its X.509-SVIDs.
    pub fn fetch(&self, name: &str) -> Result<Output> {
        docker(&[
            "exec",
            &self.name(name),
            "/opt/spire/bin/spire-agent",
            "api",
            "fetch",
            "x509",
        ])
    }

    /// Waits until a new process in the container `name` gets the identity `id` and no other.
    ///
    /// # Panics
    /// When it gets another, or none for half a minute.
    pub fn wait_identity(&self, name: &str, id: &str) {
        let what = format!("{id} in container {name}");
        wait::until(&what, Duration::from_secs(30), || {
            let output = self.fetch(name).ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let ids: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix("SPIFFE ID:\t\t"))
                .collect();
            assert!(ids.iter().all(|found| *found == id), "{name}: {text}");
            (!ids.is_empty()).then_some(())
        });
    }

    /// What a second server says on the folder `data` of this machine; it must not come up.
    pub fn server_fails_on(&self, data: &Path) -> Result<String> {
        let config = self.folder.path().join("server.conf");
        let output = docker(&[
            "run",
            "--rm",
            "-v",
            &format!("{}:/opt/spire/data", data.display()),
            "-v",
            &format!("{}:/opt/spire/conf/server/server.conf:ro", config.display()),
            SERVER_IMAGE,
        ])?;
        ensure!(!output.status.success(), "the server ran");
        Ok(both(&output))
    }

    /// Runs a container of ours.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let name = self.name(name);
        let mut words = vec!["run", "--name", &name];
        words.extend_from_slice(arguments);
        succeed(&words)
    }

    /// Does something with a container of ours: `docker VERB NAME`.
    pub fn act(&self, verb: &str, name: &str) -> Result<String> {
        succeed(&[verb, &self.name(name)])
    }

    /// What the container has printed.
    pub fn logs(&self, name: &str) -> String {
        docker(&["logs", &self.name(name)])
            .map(|output| both(&output))
            .unwrap_or_default()
    }

    /// The engine's name for a container of ours.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn volume(&self, name: &str) -> String {
        format!("{}-{name}-socket", self.prefix)
    }

    fn wait_healthy(&self, name: &str) {
        let full = self.name(name);
        wait::until(&format!("a healthy {name}"), Duration::from_mins(1), || {
            let state = succeed(&[
                "inspect",
                &full,
                "--format={{.State.Running}} {{.State.Health.Status}}",
            ])
            .ok()?;
            assert!(state.starts_with("true"), "{name}:\n{}", self.logs(name));
            state.contains(" healthy").then_some(())
        });
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        for (list, remove) in [
            (["ps", "-aq"].as_slice(), ["rm", "-f"].as_slice()),
            (&["volume", "ls", "-q"], &["volume", "rm", "-f"]),
        ] {
            let filter = format!("--filter=name={}-", self.prefix);
            let mut words = list.to_vec();
            words.push(&filter);
            let found = succeed(&words).unwrap_or_default();
            let mut words = remove.to_vec();
            words.extend(found.split_ascii_whitespace());
            if words.len() > remove.len() {
                // Nobody is left to tell, and the names are never used again.
                drop(docker(&words));
            }
        }
    }
}

/// Runs Docker's command line.
pub fn docker(arguments: &[&str]) -> Result<Output> {
    Command::new("docker")
        .args(arguments)
        .env("DOCKER_BUILDKIT", "0") // the builder that every release has
        .output()
        .context("failed to run docker")
}

/// Like [`docker`], but it must succeed; gives its standard output.
pub fn succeed(arguments: &[&str]) -> Result<String> {
    let output = docker(arguments)?;
    ensure!(
        output.status.success(),
        "docker {arguments:?} failed with {}:\n{}",
        output.status,
        both(&output)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn both(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Builds the images of server, agent and workloads once; gives the names of the first two.
pub fn images() -> Result<(&'static str, &'static str)> {
    static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    BUILT
        .get_or_init(|| build_images().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)?;
    Ok((SERVER_IMAGE, AGENT_IMAGE))
}

fn build_images() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let base = folder.path().join("base");
    install(
        &base,
        &["sh", "cp", "mkdir", "chmod", "ln", "touch", "find"].map(found),
    )?;
    fs::create_dir_all(base.join("tmp"))?;
    let archive = folder.path().join("base.tar");
    tar(&base, &archive)?;
    let archive = archive.display().to_string();
    succeed(&["import", &archive, BASE_IMAGE])?;

    let context = folder.path().join("context");
    let prebuilt = context.join("prebuilt");
    fs::create_dir_all(&prebuilt)?;
    let programs = tools::static_programs();
    for name in ["finial-server", "finial-agent"] {
        fs::copy(programs.join(name), prebuilt.join(name))?;
    }
    // What is in it does not matter here, only that it is carried along.
    fs::write(prebuilt.join("ca-certificates.crt"), "")?;
    let dockerfile = tools::folder().join("../deploy/docker/Dockerfile");
    fs::copy(dockerfile, context.join("Dockerfile"))?;
    for (target, image) in [("server", SERVER_IMAGE), ("agent", AGENT_IMAGE)] {
        let base = format!("BASE_IMAGE={BASE_IMAGE}");
        let mut words = vec!["build", "-q", "--target", target, "-t", image];
        words.extend(["--build-arg", &base, "--build-arg", "PREBUILT=prebuilt"]);
        let context = context.display().to_string();
        words.push(&context);
        succeed(&words)?;
    }

    // An agent's image that can sleep is a workload's: `spire-agent api fetch` is its client. The others are for those who forge.
    let workload = folder.path().join("workload");
    let programs = ["sleep", "sh", "mkdir", "mount"].map(found);
    install(&workload.join("root"), &programs)?;
    fs::write(
        workload.join("Dockerfile"),
        format!("FROM {AGENT_IMAGE}\nCOPY root/ /\n"),
    )?;
    let context = workload.display().to_string();
    succeed(&["build", "-q", "-t", WORKLOAD_IMAGE, &context])?;
    Ok(())
}

/// Fills a folder with what a workload's container needs: `sleep`, and an agent's command line as its client.
pub fn workload_root(folder: &Path) -> Result<()> {
    install(folder, &[found("sleep")])?;
    let client = tools::static_programs().join("finial-agent");
    fs::copy(client, folder.join("bin/spire-agent"))?;
    Ok(())
}

fn found(name: &str) -> PathBuf {
    ["/bin", "/usr/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| name.into())
}

/// Copies programs and the libraries they are linked to into `root`, each to the path it has here.
fn install(root: &Path, programs: &[PathBuf]) -> Result<()> {
    for program in programs {
        let output = Command::new("ldd").arg(program).output()?;
        let text = String::from_utf8(output.stdout)?;
        let libraries = text
            .split_ascii_whitespace()
            .filter(|word| word.starts_with('/'))
            .map(PathBuf::from);
        for file in libraries.chain([program.clone()]) {
            let target = below(root, &file);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::copy(&file, &target)
                .with_context(|| format!("failed to copy {}", file.display()))?;
        }
    }
    Ok(())
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn tar(folder: &Path, archive: &Path) -> Result<()> {
    let status = Command::new("tar")
        .arg("-C")
        .arg(folder)
        .args(["--owner=0", "--group=0", "-cf"])
        .arg(archive)
        .arg(".")
        .status()?;
    ensure!(status.success(), "tar failed with {status}");
    Ok(())
}

const BASE_IMAGE: &str = "finial-test-base";
const SERVER_IMAGE: &str = "finial-test-server";
const AGENT_IMAGE: &str = "finial-test-agent";
const WORKLOAD_IMAGE: &str = "finial-test-workload";

/// Where the images expect it, with the defaults they rely on: relative paths start at the working directory.
const SERVER_CONFIG: &str = r#"
server {
    trust_domain = "example.org"
    data_dir = "./data"
}
plugins {
    DataStore "sql" {
        plugin_data {
            database_type = "sqlite3"
            connection_string = "./data/datastore.sqlite3"
        }
    }
    KeyManager "disk" {
        plugin_data {
            keys_path = "./data/keys.json"
        }
    }
    NodeAttestor "join_token" {
        plugin_data {}
    }
}
"#;
const AGENT_CONFIG: &str = r#"
agent {
    trust_domain = "example.org"
    data_dir = "./data"
    server_address = "127.0.0.1"
    server_port = "8081"
    insecure_bootstrap = true
}
plugins {
    KeyManager "memory" {
        plugin_data {}
    }
    NodeAttestor "join_token" {
        plugin_data {}
    }
    WorkloadAttestor "docker" {
        plugin_data {}
    }
}
"#;
