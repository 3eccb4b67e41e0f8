//! What an operator asks when a workload has no identity, and what the agent answers.

use std::fs;
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
    let health = |path: &std::path::Path| {
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
    use std::os::unix::fs::PermissionsExt as _;

    let scene = Scene::new();
    let folder = scene.agent_lab.path().join("private");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
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
