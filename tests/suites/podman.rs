//! Containers of Podman and their identities, by the `docker` attestor. Needs root and Podman, and no Docker.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use finial_tests::lab::{AgentLab, Lab, TRUST_DOMAIN};
use finial_tests::process::Process;
use finial_tests::{containers, tools, wait};

/// Podman with a storage of its own, and its service.
struct Podman {
    folder: PathBuf,
    names: Vec<&'static str>,
}

impl Podman {
    fn new(folder: PathBuf) -> Self {
        containers::workload_root(&folder.join("root")).unwrap();
        Self {
            folder,
            names: Vec::new(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        // Podman looks for credentials there, and must not miss what it does not need.
        command.env_remove("DOCKER_CONFIG");
        for (flag, name) in [("--root", "storage"), ("--runroot", "run")] {
            command.arg(flag).arg(self.folder.join(name));
        }
        command.args(["--storage-driver=vfs", "--events-backend=file"]);
        if !Path::new("/run/systemd/system").exists() {
            command.args(["--runtime=runc", "--cgroup-manager=cgroupfs"]);
        }
        command
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("podman.sock")
    }

    fn serve(&self) -> Process {
        let mut command = self.command();
        let address = format!("unix://{}", self.socket().display());
        command.args(["system", "service", "--time=0", &address]);
        let log = self.folder.join("podman.log");
        let service = Process::start("podman", &mut command, &log).unwrap();
        wait::until("podman's socket", Duration::from_secs(30), || {
            self.socket().exists().then_some(())
        });
        service
    }

    /// Starts a container that sleeps and sees the Workload API.
    fn start(&mut self, name: &'static str, agent: &AgentLab, flags: &[&str]) {
        self.names.push(name);
        let socket = agent.socket();
        let volume = format!("{}:/workload:ro", socket.parent().unwrap().display());
        let mut command = self.command();
        command.args(["run", "-d", "--name", name, "--network=none", "-v", &volume]);
        // Root in a sandbox may be unable to raise limits.
        command.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]);
        command.args(flags).arg("--rootfs");
        command.arg(self.folder.join("root"));
        let output = command.args(["/bin/sleep", "3600"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Has a new process in a container fetch its X.509-SVIDs.
    fn fetch(&self, name: &str) -> Output {
        let client = ["/bin/spire-agent", "api", "fetch", "x509"];
        let mut command = self.command();
        command.args(["exec", name]).args(client);
        command.args(["-socketPath", "/workload/api.sock"]);
        command.output().unwrap()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for name in &self.names {
            // Nobody is left to tell.
            drop(self.command().args(["rm", "-f", "-t", "0", name]).output());
        }
    }
}

#[test]
fn a_labelled_container_of_podman_gets_its_identity_and_one_without_is_refused() {
    if tools::podman().is_none() || !tools::is_root() {
        return;
    }
    let lab = Lab::new().unwrap();
    fs::set_permissions(lab.path(), Permissions::from_mode(0o755)).unwrap();
    let _server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let mut podman = Podman::new(lab.path().join("podman"));
    let _service = podman.serve();
    let mut agent_lab = lab.agent("agent");
    let admin = agent_lab.path().join("private/admin.sock");
    agent_lab.settings = format!("admin_socket_path = \"{}\"", admin.display());
    agent_lab.workload_attestor = format!(
        r#"WorkloadAttestor "docker" {{ plugin_data {{
            docker_socket_path = "unix:///nonexistent/docker.sock"
            podman_socket_path = "unix://{}"
        }} }}"#,
        podman.socket().display()
    );
    let _agent = agent_lab.start(Some(&token)).unwrap();
    let parent = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}");
    let selector = "docker:label:org.example.workload:a";
    let id = lab.register_for("/a", &parent, selector, &[]).unwrap();

    podman.start("a", &agent_lab, &["--label=org.example.workload=a"]);
    podman.start("stranger", &agent_lab, &[]);

    wait::until("the identity", Duration::from_secs(30), || {
        let output = podman.fetch("a");
        String::from_utf8_lossy(&output.stdout)
            .contains(&id)
            .then_some(())
    });
    let refused = podman.fetch("stranger");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("no identity issued"), "{error}");

    let explained = Command::new(tools::binary("finial-agent"))
        .arg("explain")
        .arg("-socketPath")
        .arg(&admin)
        .args(["-container", "stranger"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&explained.stdout);
    assert!(
        text.contains(&format!("Missing        : {selector}")),
        "{text}"
    );
}
