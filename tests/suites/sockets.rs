//! Two programs and one socket.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use finial_tests::lab::{Lab, Make};
use finial_tests::process::Process;
use finial_tests::tools;
use nix::sys::signal::Signal;

fn refused(process: &mut Process, path: &Path, holder: u32) {
    let status = process.wait(Duration::from_secs(20));
    let output = process.output();
    assert!(!status.success(), "{output}");
    let reason = format!(
        "cannot listen on {}: another process (PID {holder}) answers there already",
        path.display()
    );
    assert!(output.contains(&reason), "{output}");
}

#[test]
fn a_second_agent_on_the_socket_of_one_that_runs_refuses_to_start_and_keeps_its_token() {
    let lab = Lab::new().unwrap();
    let _server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let agent_lab = lab.agent("agent");
    let mut first = agent_lab.start(Some(&lab.join_token().unwrap())).unwrap();
    let token = lab.join_token().unwrap();

    let mut second_lab = lab.agent("second");
    let config = second_lab.write_config().unwrap();
    let text = std::fs::read_to_string(&config).unwrap().replace(
        &second_lab.socket().display().to_string(),
        &agent_lab.socket().display().to_string(),
    );
    let taken = lab.path().join("taken.conf");
    std::fs::write(&taken, text).unwrap();
    let mut command = Command::new(tools::binary("finial-agent"));
    command
        .arg("run")
        .arg("-config")
        .arg(&taken)
        .args(["-joinToken", &token]);
    let log = lab.path().join("second.log");
    let mut second = Process::start("the second agent", &mut command, &log).unwrap();
    refused(&mut second, &agent_lab.socket(), first.pid());
    assert!(agent_lab.cli(&["healthcheck"]).unwrap().status.success());

    // The admin socket counts as much.
    second_lab.settings = format!("admin_socket_path = \"{}\"", agent_lab.socket().display());
    let mut second = second_lab.spawn(&Make::Finial, Some(&token)).unwrap();
    refused(&mut second, &agent_lab.socket(), first.pid());

    // One that was killed leaves a socket behind, which is replaced; and the token is still good.
    first.kill().unwrap();
    assert!(agent_lab.socket().exists());
    let mut second = Process::start("the second agent", &mut command, &log).unwrap();
    second.wait_for("Starting agent APIs", Duration::from_secs(20));
    assert!(agent_lab.cli(&["healthcheck"]).unwrap().status.success());

    second.signal(Signal::SIGTERM).unwrap();
    assert!(second.wait(Duration::from_secs(15)).success());
    assert!(!agent_lab.socket().exists());
}

#[test]
fn a_second_server_on_the_admin_socket_of_one_that_runs_refuses_to_start() {
    let lab = Lab::new().unwrap();
    let server = lab.start_server().unwrap();
    let other = Lab::new().unwrap();
    let config = other.write_server_config().unwrap();
    let text = std::fs::read_to_string(&config).unwrap().replace(
        &other.server_socket().display().to_string(),
        &lab.server_socket().display().to_string(),
    );
    std::fs::write(&config, text).unwrap();

    let mut command = Command::new(tools::binary("finial-server"));
    command.arg("run").arg("-config").arg(&config);
    let log = other.path().join("second.log");
    let mut second = Process::start("the second server", &mut command, &log).unwrap();

    refused(&mut second, &lab.server_socket(), server.pid());
    assert!(lab.server_cli(&["healthcheck"]).unwrap().status.success());
}
