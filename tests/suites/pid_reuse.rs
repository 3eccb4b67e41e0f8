//! Processes that pretend to be others, by their PIDs. Needs root, for it changes users, and Python.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use finial_tests::lab::{Lab, TRUST_DOMAIN};
use finial_tests::process::Process;
use finial_tests::tools;

/// How long it goes on, in seconds, unless `FINIAL_TEST_PID_REUSE_SECONDS` says otherwise.
const SECONDS: u64 = 20;

#[test]
fn nobody_gets_the_identity_of_another_user_by_a_recycled_pid_or_a_passed_socket() {
    let Some(python) = tools::python() else {
        return;
    };
    if !tools::is_root() {
        return;
    }
    let seconds = std::env::var("FINIAL_TEST_PID_REUSE_SECONDS")
        .map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let lab = Lab::new().unwrap();
    // Every user has to reach the socket.
    fs::set_permissions(lab.path(), Permissions::from_mode(0o755)).unwrap();
    let _server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let parent = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}");
    for (path, uid) in [("/root", "0"), ("/one", "20001"), ("/two", "20002")] {
        let selector = format!("unix:uid:{uid}");
        lab.register_for(path, &parent, &selector, &[]).unwrap();
    }
    let agent_lab = lab.agent("agent");
    let agent = agent_lab.start(Some(&token)).unwrap();
    let programs = lab.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::set_permissions(&programs, Permissions::from_mode(0o755)).unwrap();

    let mut command = Command::new(python);
    command
        .arg(tools::folder().join("interop/pid_reuse.py"))
        .arg("--socket")
        .arg(agent_lab.socket())
        .args(["--agent", &agent.pid().to_string()])
        .arg("--folder")
        .arg(&programs)
        .args(["--seconds", &seconds.to_string()]);
    let mut fuzzer =
        Process::start("the fuzzer", &mut command, &lab.path().join("fuzzer.log")).unwrap();
    let status = fuzzer.wait(Duration::from_secs(seconds + 60));

    println!("{}", fuzzer.output());
    assert!(status.success(), "{}", fuzzer.output());
    assert!(agent_lab.cli(&["healthcheck"]).unwrap().status.success());
}
