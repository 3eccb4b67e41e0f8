//! What an operator asks when a workload has no identity, and what the agent answers.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use finial_tests::lab::{AgentLab, Lab, START_LIMIT, TRUST_DOMAIN};
use finial_tests::process::Process;
use finial_tests::{tools, wait};
use serde_json::Value;

struct Scene {
    lab: Lab,
    _server: Process,
    agent: Process,
    agent_lab: AgentLab,
    parent: String,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let server = lab.start_server().unwrap();
        lab.write_bundle().unwrap();
        let token = lab.join_token().unwrap();
        let mut agent_lab = lab.agent("agent");
        let admin = agent_lab.path().join("private/admin.sock");
        agent_lab.settings = format!("admin_socket_path = \"{}\"", admin.display());
        let agent = agent_lab.start(Some(&token)).unwrap();
        Self {
            parent: format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}"),
            lab,
            _server: server,
            agent,
            agent_lab,
        }
    }

    /// Runs a command of the agent's command line against the admin socket.
    fn ask(&self, words: &[&str], flags: &[&str]) -> (bool, String) {
        let output = Command::new(tools::binary("finial-agent"))
            .args(words)
            .arg("-socketPath")
            .arg(self.agent_lab.path().join("private/admin.sock"))
            .args(flags)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// What the agent says of a process.
    fn explain(&self, pid: u32) -> Value {
        let (ok, text) = self.ask(&["explain"], &["-pid", &pid.to_string(), "-output", "json"]);
        assert!(ok, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Runs the command that the first next step with `begin` names.
    fn run_step(&self, found: &Value, begin: &str) {
        let steps = found["next_steps"].as_array().unwrap();
        let command = steps
            .iter()
            .filter_map(|step| step["command"].as_str())
            .find(|command| command.starts_with(begin))
            .unwrap_or_else(|| panic!("no {begin:?} in {steps:?}"));
        let command = command.replacen(
            "finial-server",
            &tools::binary("finial-server").display().to_string(),
            1,
        );
        let script = format!(
            "{command} -socketPath {}",
            self.lab.server_socket().display()
        );
        let output = Command::new("sh").arg("-c").arg(&script).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
    }
}

/// A process that waits, told of the agent by its environment.
fn workload(lab: &AgentLab) -> Process {
    let mut command = Command::new("sleep");
    command
        .arg("600")
        .env("SPIFFE_ENDPOINT_SOCKET", lab.endpoint())
        .stdin(Stdio::null());
    Process::start("a workload", &mut command, &lab.path().join("workload.log")).unwrap()
}

#[test]
fn the_commands_that_explain_names_give_a_stranger_its_identity() {
    let scene = Scene::new();
    let workload = workload(&scene.agent_lab);

    let found = scene.explain(workload.pid());
    assert_eq!(found["answer"]["code"], "PermissionDenied");
    assert_eq!(found["answer"]["message"], "no identity issued");
    assert_eq!(found["workload_socket"]["reachable"], true);
    assert_eq!(found["sync"]["push"], true);
    scene.run_step(&found, "finial-server entry create");

    let found = wait::until("the SVID", Duration::from_secs(10), || {
        let found = scene.explain(workload.pid());
        (found["matches"][0]["svid_state"] == "VALID").then_some(found)
    });
    assert_eq!(found["answer"]["code"], "OK");
    assert_eq!(
        found["matches"][0]["entry"]["spiffe_id"],
        format!("spiffe://{TRUST_DOMAIN}/sleep")
    );
    assert_ne!(found["matches"][0]["svid"]["serial"], "");

    // Without DNS names, the command that adds them.
    scene.run_step(&found, "finial-server entry update");
    wait::until("the DNS name in the SVID", Duration::from_secs(10), || {
        let found = scene.explain(workload.pid());
        (found["matches"][0]["svid"]["dns_names"] == serde_json::json!(["NAME"])).then_some(())
    });
    let (ok, text) = scene.ask(&["explain"], &["-pid", &workload.pid().to_string()]);
    assert!(ok && text.contains("DNS names      : NAME"), "{text}");
}

#[test]
fn a_near_miss_is_named_and_its_command_mends_the_entry() {
    let scene = Scene::new();
    let workload = workload(&scene.agent_lab);
    scene
        .lab
        .register(
            "/web",
            &scene.parent,
            &["-selector", "unix:gid:12345", "-dns", "web.example.org"],
        )
        .unwrap();

    let found = wait::until("the near miss", Duration::from_secs(10), || {
        let found = scene.explain(workload.pid());
        (found["near_misses_total"] == 1).then_some(found)
    });
    let missing = &found["near_misses"][0]["missing"];
    assert_eq!(missing.as_array().unwrap().len(), 1);
    assert_eq!(missing[0]["selector"]["value"], "gid:12345");
    scene.run_step(&found, "finial-server entry update");

    let found = wait::until("the identity", Duration::from_secs(10), || {
        let found = scene.explain(workload.pid());
        (found["matches"][0]["svid_state"] == "VALID").then_some(found)
    });
    assert_eq!(
        found["matches"][0]["svid"]["dns_names"],
        serde_json::json!(["web.example.org"])
    );
}

#[test]
fn a_socket_that_leads_to_a_dead_agent_is_told_from_other_trouble() {
    let mut scene = Scene::new();
    let socket = scene.agent_lab.socket();
    // What a bind mount of the socket file is: another name of the same file.
    let mounted = scene.lab.path().join("mounted.sock");
    fs::hard_link(&socket, &mounted).unwrap();
    let health = |path: &Path| {
        let output = Command::new(tools::binary("finial-agent"))
            .args(["healthcheck", "-socketPath"])
            .arg(path)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert!(health(&mounted).0);

    scene.agent.kill().unwrap();
    scene.agent = scene.agent_lab.start(None).unwrap();

    assert!(health(&socket).0, "a stale socket is replaced");
    let (ok, error) = health(&mounted);
    assert!(!ok && error.contains("Nobody listens at"), "{error}");
    assert!(error.contains("mount the directory"), "{error}");
    let (ok, error) = health(scene.lab.path());
    assert!(!ok && error.contains("is a directory"), "{error}");

    // The workload's own view of it.
    let mut command = Command::new("sleep");
    command.arg("600").env(
        "SPIFFE_ENDPOINT_SOCKET",
        format!("unix://{}", mounted.display()),
    );
    let workload =
        Process::start("a workload", &mut command, &scene.lab.path().join("w.log")).unwrap();
    let found = wait::until("an agent that explains", START_LIMIT, || {
        let found = scene.explain(workload.pid());
        found["workload_socket"].is_object().then_some(found)
    });
    assert_eq!(found["workload_socket"]["reachable"], false);
    let problem = found["workload_socket"]["problem"].as_str().unwrap();
    assert!(problem.contains("nobody listens at"), "{problem}");
}

#[test]
fn the_admin_socket_answers_debug_and_logger_and_is_the_operators_alone() {
    let scene = Scene::new();
    let folder = scene.agent_lab.path().join("private");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o750);
    assert_eq!(mode(&folder.join("admin.sock")), 0o770);

    let (ok, text) = scene.ask(&["debug", "getinfo"], &[]);
    assert!(
        ok && text.contains(&format!("SPIFFE ID:  {}", scene.parent)),
        "{text}"
    );
    let (ok, text) = scene.ask(&["logger", "set"], &["-level", "warn"]);
    assert!(ok, "{text}");
    assert_eq!(text, "Logger Level : warning\nLaunch Level : debug\n\n");
    let (ok, text) = scene.ask(&["logger", "reset"], &["-output", "json"]);
    assert!(ok, "{text}");
    assert_eq!(
        text,
        "{\"current_level\":\"DEBUG\",\"launch_level\":\"DEBUG\"}\n"
    );
    let (ok, text) = scene.ask(&["logger", "get"], &[]);
    assert!(ok && text.starts_with("Logger Level : debug\n"), "{text}");
}

/// An agent that was started in a way of its own, and asked in the usual one.
fn start_by(scene: &mut Scene, wrapper: &[&str]) {
    scene.agent.kill().unwrap();
    let config = scene.agent_lab.write_config().unwrap();
    let [program, arguments @ ..] = wrapper else {
        panic!("no program");
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(tools::binary("finial-agent"))
        .args(["run", "-config"])
        .arg(config);
    let log = scene.agent_lab.path().join("agent-again.log");
    scene.agent = Process::start("the agent", &mut command, &log).unwrap();
    scene
        .agent
        .wait_for("apis=\"Workload API\"", Duration::from_secs(20));
}

/// What a workload here reads when it asks for its identity.
fn refusal(scene: &Scene) -> String {
    let output = scene.agent_lab.cli(&["api", "fetch", "x509"]).unwrap();
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_agent_in_a_pid_namespace_of_its_own_says_so_wherever_it_is_asked() {
    if !tools::is_root() {
        return;
    }
    let mut scene = Scene::new();
    start_by(
        &mut scene,
        &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"],
    );
    let workload = workload(&scene.agent_lab);

    let error = refusal(&scene);

    for word in ["code = Unavailable", "PID namespace", "`pid: host`"] {
        assert!(error.contains(word), "{word} is missing in: {error}");
    }
    let log = scene.agent.output();
    let line = log.lines().find(|line| line.contains("PID namespace"));
    assert!(
        line.is_some_and(|line| line.contains("level=warning")),
        "{log}"
    );

    // The number means nothing to it, and that may be why.
    let (ok, text) = scene.ask(&["explain"], &["-pid", &workload.pid().to_string()]);
    assert!(!ok, "{text}");
    for word in [
        "PID namespace of its own",
        "`pid: host`",
        "(PID 0), the last with uid 0",
    ] {
        assert!(text.contains(word), "{word} is missing in: {text}");
    }
    // Of a process it does see it tells, and of the others too.
    let (ok, text) = scene.ask(&["explain"], &["-pid", "1"]);
    assert!(ok, "{text}");
    assert!(text.contains("could not see the process (PID 0)"), "{text}");
    assert!(text.contains("`pid: host`"), "{text}");
}

#[test]
fn an_engine_that_is_gone_stale_or_forbidden_is_named_with_its_cure_everywhere() {
    if !tools::is_root() {
        return;
    }
    let mut scene = Scene::new();
    let engine = scene.lab.path().join("engine.sock");
    scene.agent_lab.workload_attestor = format!(
        "WorkloadAttestor \"unix\" {{ plugin_data {{}} }}
        WorkloadAttestor \"docker\" {{ plugin_data {{ docker_socket_path = \"unix://{}\" }} }}",
        engine.display()
    );
    scene
        .lab
        .server_does(&[
            "entry",
            "create",
            "-spiffeID",
            &format!("spiffe://{TRUST_DOMAIN}/web"),
            "-parentID",
            &scene.parent,
            "-selector",
            "docker:label:app:web",
        ])
        .unwrap();
    // Root as it is in a container: others' files are forbidden.
    let caps = "-dac_override,-dac_read_search";
    start_by(&mut scene, &["setpriv", "--bounding-set", caps]);
    let Some(contained) = Contained::start() else {
        return;
    };
    let named = engine.display().to_string();

    for (state, cure) in [
        (EngineState::Gone, "mount the engine's socket"),
        (EngineState::Stale, "nobody listens"),
        (EngineState::Forbidden, "group"),
    ] {
        state.arrange(&engine);
        let error = contained.fetch(&scene);
        for word in ["code = Unavailable", "docker", &named] {
            assert!(
                error.contains(word),
                "{state:?}: {word} is missing in: {error}"
            );
        }
        let found = scene.explain(contained.pid());
        let failure = found["attestors"]
            .as_array()
            .unwrap()
            .iter()
            .find(|attestor| attestor["name"] == "docker")
            .map(|attestor| attestor["failure"].to_string())
            .unwrap();
        println!("{state:?}: {failure}");
        assert!(failure.contains(&named), "{state:?}: {failure}");
        assert!(failure.contains(cure), "{state:?}: {failure}");
        assert_eq!(found["answer"]["code"], "Unavailable");
        let step = found["next_steps"][0]["text"].as_str().unwrap();
        assert!(step.contains("docker") && step.contains(&named), "{step}");
        let log = scene.agent.output();
        assert!(
            log.lines()
                .any(|line| line.contains(&named) && line.contains(cure)),
            "{state:?}: {log}"
        );
    }
}

/// What an agent may find where its engine should be.
#[derive(Debug, Clone, Copy)]
enum EngineState {
    Gone,
    Stale,
    Forbidden,
}

impl EngineState {
    fn arrange(self, path: &Path) {
        match self {
            Self::Gone => assert!(!path.exists()),
            Self::Stale => drop(UnixListener::bind(path).unwrap()),
            Self::Forbidden => {
                fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
            }
        }
    }
}

/// Processes in a cgroup as a container has one.
struct Contained {
    cgroup: PathBuf,
    process: Option<Process>,
    folder: tempfile::TempDir,
}

impl Contained {
    /// `None` where no cgroups can be made.
    fn start() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })?;
        let cgroup = root.join("c0ffee".repeat(10) + "c0de");
        fs::create_dir(&cgroup).ok()?;
        let folder = tempfile::tempdir().unwrap();
        let mut contained = Self {
            cgroup,
            process: None,
            folder,
        };
        let mut command = contained.command("exec sleep 600");
        let log = contained.folder.path().join("log");
        contained.process = Some(Process::start("the container", &mut command, &log).unwrap());
        let pid = contained.pid();
        wait::until("the container", START_LIMIT, || {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            name.starts_with("sleep").then_some(())
        });
        Some(contained)
    }

    fn command(&self, script: &str) -> Command {
        let enter = format!("echo $$ >{}/cgroup.procs", self.cgroup.display());
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{enter} && {script}"));
        command
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    /// What a call from within is refused with.
    fn fetch(&self, scene: &Scene) -> String {
        let program = tools::binary("finial-agent");
        let output = self
            .command(&format!(
                "exec {} api fetch x509 -timeout 30s -socketPath {}",
                program.display(),
                scene.agent_lab.socket().display()
            ))
            .output()
            .unwrap();
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        drop(self.process.take());
        // Left behind, it is empty.
        drop(fs::remove_dir(&self.cgroup));
    }
}
