//! Clients that nobody here wrote: `PyPI`'s `spiffe` and grpcio, crates.io `spiffe`, go-spiffe, openssl.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use finial_tests::lab::{AgentLab, Lab, TRUST_DOMAIN};
use finial_tests::process::Process;
use finial_tests::tools;
use tokio::time::Instant;

/// A trust domain with one agent and the identity `/web` for this user, at a lifetime of `ttl` seconds.
struct Served {
    lab: Lab,
    agent: AgentLab,
    id: String,
    _processes: [Process; 2],
}

fn served(ttl: &str) -> Served {
    let lab = Lab::new().unwrap();
    let server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let parent = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}");
    let id = lab
        .register("/web", &parent, &["-x509SVIDTTL", ttl, "-dns", "localhost"])
        .unwrap();
    let agent = agent_lab.start(Some(&token)).unwrap();
    Served {
        lab,
        agent: agent_lab,
        id,
        _processes: [server, agent],
    }
}

fn script(python: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(tools::folder().join("interop").join(name));
    command
}

fn run(name: &str, served: &Served, command: &mut Command) -> Process {
    let log = served.lab.path().join(format!("{name}.log"));
    Process::start(name, command, &log).unwrap()
}

#[test]
fn clients_in_three_languages_follow_three_rotations_at_a_lifetime_of_twenty_seconds() {
    let served = served("20");
    let mut clients = Vec::new();
    if let Some(python) = tools::python() {
        let mut command = script(&python, "x509_watch.py");
        command.arg("--socket").arg(served.agent.socket()).args([
            "--rotations",
            "3",
            "--expect-id",
            &served.id,
        ]);
        clients.push(run("PyPI spiffe", &served, &mut command));
    }
    if let Some(watcher) = tools::go_watcher() {
        let mut command = Command::new(watcher);
        command.arg("-socket").arg(served.agent.socket()).args([
            "-rotations",
            "3",
            "-expect-id",
            &served.id,
        ]);
        clients.push(run("go-spiffe", &served, &mut command));
    }
    rust_client_follows(&served, 3);
    for client in &mut clients {
        let status = client.wait(Duration::from_secs(90));
        assert!(status.success(), "{}", client.output());
    }
}

/// crates.io `spiffe`, in this process.
fn rust_client_follows(served: &Served, rotations: usize) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let source = spiffe::X509Source::builder()
            .endpoint(served.agent.endpoint())
            .build()
            .await
            .unwrap();
        let mut updates = source.updated();
        let mut serials = vec![serial(&source, &served.id)];
        let deadline = Instant::now() + Duration::from_secs(90);
        while serials.len() <= rotations {
            tokio::time::timeout_at(deadline, updates.changed())
                .await
                .unwrap()
                .unwrap();
            let serial = serial(&source, &served.id);
            if serials.last() != Some(&serial) {
                serials.push(serial);
            }
        }
    });
}

fn serial(source: &spiffe::X509Source, id: &str) -> Vec<u8> {
    let svid = source.svid().unwrap();
    assert_eq!(svid.spiffe_id().to_string(), id);
    svid.leaf().as_bytes().to_vec()
}

#[test]
fn two_python_programs_talk_mutual_tls_with_their_svids() {
    let Some(python) = tools::python() else {
        return;
    };
    let served = served("60");
    let mut command = script(&python, "mtls_server.py");
    command.arg("--socket").arg(served.agent.socket()).args([
        "--listen",
        "127.0.0.1:0",
        "--accept",
        &served.id,
    ]);
    let mut server = run("mtls server", &served, &mut command);
    server.wait_for("\"listening\"", Duration::from_mins(1));
    let line: serde_json::Value = server
        .output()
        .lines()
        .find_map(|line| {
            serde_json::from_str::<serde_json::Value>(line)
                .ok()
                .filter(|json| json.get("listening").is_some())
        })
        .unwrap();
    let target = format!("127.0.0.1:{}", line["listening"]);

    for flags in [
        vec!["--expect", served.id.as_str()],
        vec!["--expect", &served.id, "--dns", "localhost"],
    ] {
        let mut command = script(&python, "mtls_client.py");
        command
            .arg("--socket")
            .arg(served.agent.socket())
            .args(["--target", &target, "--message", "hello"])
            .args(flags);
        let mut client = run("mtls client", &served, &mut command);
        assert!(
            client.wait(Duration::from_mins(1)).success(),
            "{}",
            client.output()
        );
        assert!(
            client.output().contains(&format!(
                "Hello {}, your message 'hello' was successfully received and validated.",
                served.id
            )),
            "{}",
            client.output()
        );
    }
}

#[test]
fn c_core_clients_are_served_on_both_sockets_and_hostile_ones_are_refused() {
    let Some(python) = tools::python() else {
        return;
    };
    let served = served("60");
    let mut command = script(&python, "admin_client.py");
    command
        .arg("--socket")
        .arg(served.lab.server_socket())
        .args(["--expect", "1", "list"]);
    let mut admin = run("admin client", &served, &mut command);
    assert!(
        admin.wait(Duration::from_mins(1)).success(),
        "{}",
        admin.output()
    );

    let mut command = script(&python, "hostile_client.py");
    command
        .arg("--socket")
        .arg(served.agent.socket())
        .args(["--seed", "1"]);
    let mut hostile = run("hostile client", &served, &mut command);
    assert!(
        hostile.wait(Duration::from_mins(2)).success(),
        "{}",
        hostile.output()
    );
    assert!(served.agent.cli(&["healthcheck"]).unwrap().status.success());
}

#[test]
fn openssl_agrees_with_the_profile() {
    if tools::openssl().is_none() {
        return;
    }
    let served = served("60");
    let folder = served.lab.path();
    let output = served
        .agent
        .cli(&[
            "api",
            "fetch",
            "x509",
            "-silent",
            "-write",
            folder.to_str().unwrap(),
        ])
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let judged = Command::new("sh")
        .arg(tools::folder().join("interop/openssl_profile.sh"))
        .arg(folder.join("svid.0.pem"))
        .arg(folder.join("bundle.0.pem"))
        .args([&served.id, "localhost"])
        .output()
        .unwrap();
    assert!(
        judged.status.success(),
        "{}",
        String::from_utf8_lossy(&judged.stderr)
    );
}
