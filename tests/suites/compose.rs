//! Docker Compose: the lab of `deploy/compose`, brought up and judged by the script that its README names, and files written for SPIRE.

use std::process::{Command, Stdio};

use finial_tests::{containers, tools};

/// How long traffic is watched, in minutes, unless `FINIAL_TEST_TRAFFIC_MINUTES` says otherwise.
const MINUTES: u64 = 1;

/// A lab of its own; dropped, it goes with all it has stored.
struct Lab {
    project: String,
    files: &'static str,
    python_image: String,
}

impl Lab {
    fn new(name: &str, files: &'static str, python_image: &str) -> Self {
        Self {
            project: format!("finial-test-{name}-{}", std::process::id()),
            files,
            python_image: python_image.to_owned(),
        }
    }

    /// Runs `lab.sh` with these words, which must succeed; gives what it printed.
    fn does(&self, words: &[&str]) -> String {
        let output = self.script(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{words:?}: {}\n{text}{errors}",
            output.status
        );
        text
    }

    fn script(&self, words: &[&str]) -> Command {
        let (server, agent) = containers::images().unwrap();
        let mut command = Command::new(tools::folder().join("../deploy/compose/lab.sh"));
        command
            .args(words)
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("COMPOSE_FILE", self.files)
            .env("FINIAL_SERVER_IMAGE", server)
            .env("FINIAL_AGENT_IMAGE", agent)
            .env("PYTHON_IMAGE", &self.python_image)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A test that fails already must not fail again here, and one that passed has shown what it had to.
        drop(self.script(&["clean"]).output());
    }
}

#[test]
fn the_lab_proves_itself_and_heals_after_restarts_of_everything() {
    let Some(engine) = tools::docker() else {
        return;
    };
    let (Some(()), Some(python_image)) = (tools::compose(), tools::python_image()) else {
        return;
    };
    let minutes = std::env::var("FINIAL_TEST_TRAFFIC_MINUTES")
        .map_or(MINUTES, |minutes| minutes.parse().unwrap());
    let lab = Lab::new("lab", "docker-compose.yaml", &python_image);

    let proof = lab.does(&["up"]);
    let answer = "Hello spiffe://example.org/agent_a, your message 'proof' was successfully received and validated.";
    assert_eq!(proof.matches(answer).count(), 2, "{proof}");
    for words in [
        "no identity issued (StatusCode.PERMISSION_DENIED)",
        "Missing        : docker:label:org.example.workload:agent_a",
    ] {
        assert!(proof.contains(words), "{words} is missing in: {proof}");
    }

    lab.does(&["traffic", &minutes.to_string()]);
    lab.does(&["restarts"]);

    // As after a week: nothing is left but what is stored.
    lab.does(&["down"]);
    lab.does(&["up"]);

    drop(engine);
    if tools::restart_engine().is_some() {
        let _engine = tools::docker().unwrap();
        lab.does(&["healed"]);
        lab.does(&["proof"]);
    }
}

#[test]
fn the_lab_works_with_a_proxy_between_agent_and_engine() {
    let Some(_engine) = tools::docker() else {
        return;
    };
    let (Some(()), Some(python_image)) = (tools::compose(), tools::python_image()) else {
        return;
    };
    let files = "docker-compose.yaml:socket-proxy.yaml";
    Lab::new("proxy", files, &python_image).does(&["up"]);
}

#[test]
fn files_and_scripts_written_for_spire_work_with_other_names_of_images() {
    let Some(_engine) = tools::docker() else {
        return;
    };
    let (Some(()), Some(_)) = (tools::compose(), tools::openssl()) else {
        return;
    };
    let (server, agent) = containers::images().unwrap();
    let output = Command::new(tools::folder().join("compose/run.sh"))
        .env(
            "COMPOSE_PROJECT_NAME",
            format!("finial-test-spire-{}", std::process::id()),
        )
        .env("SERVER_IMAGE", server)
        .env("AGENT_IMAGE", agent)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}{errors}", output.status);
}
