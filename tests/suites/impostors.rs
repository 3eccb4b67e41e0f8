//! Processes that pretend to be others by what they can arrange around themselves. Needs root, for it changes users, and Python.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use finial_tests::lab::{Lab, TRUST_DOMAIN};
use finial_tests::process::Process;
use finial_tests::tools;
use serde_json::Value;

#[test]
fn nobody_gets_the_identity_of_another_by_mounts_cgroups_namespaces_or_shared_files() {
    let Some((played, log)) = play(&[]) else {
        return;
    };
    println!("{played:#}");
    assert!(played["cannot be dumped"].is_array());
    if played["forges cgroups in a subtree of its own"].is_array() {
        assert!(log.contains("but is not that container's"), "{log}");
    }
}

#[test]
fn the_pid_of_a_container_that_has_ended_is_worth_nothing() {
    let Some((played, _log)) = play(&["--lagging"]) else {
        return;
    };
    println!("{played}");
}

/// Plays the tricks against a system of its own; what each got, and the agent's log.
fn play(flags: &[&str]) -> Option<(Value, String)> {
    let python = tools::python()?;
    if !tools::is_root() {
        return None;
    }
    let lab = Lab::new().unwrap();
    // Every user has to reach the socket.
    fs::set_permissions(lab.path(), Permissions::from_mode(0o755)).unwrap();
    let _server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let parent = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}");
    for (path, selector) in [
        ("/root", "unix:uid:0"),
        ("/one", "unix:uid:20001"),
        ("/two", "unix:uid:20002"),
        ("/victim", "docker:label:who:victim"),
    ] {
        lab.register_for(path, &parent, selector, &[]).unwrap();
    }
    let engine = lab.path().join("engine.sock");
    let mut agent_lab = lab.agent("agent");
    agent_lab.workload_attestor = format!(
        "WorkloadAttestor \"unix\" {{ plugin_data {{}} }}
        WorkloadAttestor \"docker\" {{
            plugin_data {{ docker_socket_path = \"unix://{}\" docker_version = \"1.41\" }}
        }}",
        engine.display()
    );
    let agent = agent_lab.start(Some(&token)).unwrap();
    let programs = lab.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::set_permissions(&programs, Permissions::from_mode(0o755)).unwrap();
    let files = agent.open_files();

    let mut command = Command::new(python);
    command
        .arg(tools::folder().join("interop/impostors.py"))
        .arg("--socket")
        .arg(agent_lab.socket())
        .arg("--engine")
        .arg(&engine)
        .arg("--folder")
        .arg(&programs)
        .args(flags);
    let log = lab.path().join("impostors.log");
    let mut impostors = Process::start("the impostors", &mut command, &log).unwrap();
    let status = impostors.wait(Duration::from_mins(3));

    let output = impostors.output();
    assert!(status.success(), "{output}");
    let line = output.lines().find(|line| line.starts_with('{')).unwrap();
    let seen: Value = serde_json::from_str(line).unwrap();
    assert!(agent_lab.cli(&["healthcheck"]).unwrap().status.success());
    assert!(!agent.output().contains("panicked"), "{}", agent.output());
    let left = agent.open_files().saturating_sub(files);
    assert!(left < 50, "{left} files more are open");
    Some((seen, agent.output()))
}
