//! What attestation costs with the `docker` attestor: for a container's first call, and for those that follow.
//!
//! This process enters the cgroups of containers, as their processes are in them; that takes root and an engine on this machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use finial_tests::containers::{images, succeed};
use finial_tests::lab::{Lab, Make, TRUST_DOMAIN};
use finial_tests::tools;
use tokio::time::Instant;

use crate::fetches::open;
use crate::{figure, milliseconds, per_second, quantile, runtime};

const CONTAINERS: usize = 12;
const WARM_CALLS: usize = 1_000;
const LABEL: &str = "org.example.bench";

pub(crate) fn measure(make: &Make) {
    let Some(_engine) = tools::docker() else {
        return;
    };
    if !tools::is_root() {
        return;
    }
    images().unwrap();
    let lab = Lab::new().unwrap();
    let _server = lab.start_server_of(make).unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let mut agent_lab = lab.agent("agent");
    "WorkloadAttestor \"docker\" { plugin_data {} }".clone_into(&mut agent_lab.workload_attestor);
    let agent = agent_lab.start_of(make, Some(&token)).unwrap();
    let selector = format!("docker:label:{LABEL}:yes");
    let parent = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}");
    lab.register_for("/web", &parent, &selector, &[]).unwrap();

    let containers = Containers::start();
    let home = Cgroups::of("self");
    let socket = agent_lab.socket();
    runtime().block_on(async {
        // The first container waits until the entry is there; it is not counted.
        let (first, others) = containers.cgroups.split_first().unwrap();
        first.enter();
        crate::fetches::wait_for_identity(&socket).await;
        let mut cold = Vec::new();
        for container in others {
            container.enter();
            cold.push(call(&socket).await);
        }
        let before = agent.processor_time();
        let mut warm = Vec::new();
        for _ in 0..WARM_CALLS {
            warm.push(call(&socket).await);
        }
        let processor = agent.processor_time().saturating_sub(before);
        home.enter();
        figure(
            make,
            "FetchX509SVID, docker attestor",
            &format!(
                "first call of a container p50 {}, slowest {}; later calls p50 {}, p99 {}, {:.0} per core-second of the agent",
                milliseconds(quantile(&mut cold, 0.5)),
                milliseconds(quantile(&mut cold, 1.0)),
                milliseconds(quantile(&mut warm, 0.5)),
                milliseconds(quantile(&mut warm, 0.99)),
                per_second(WARM_CALLS, processor),
            ),
        );
    });
}

/// One call on a connection of its own.
async fn call(socket: &Path) -> Duration {
    let start = Instant::now();
    let answer = open(socket).await.message().await.unwrap().unwrap();
    assert_eq!(answer.svids.len(), 1);
    start.elapsed()
}

/// Labelled containers that sleep; dropped, they go.
struct Containers {
    ids: Vec<String>,
    cgroups: Vec<Cgroups>,
}

impl Containers {
    fn start() -> Self {
        let mut containers = Self {
            ids: Vec::new(),
            cgroups: Vec::new(),
        };
        for _ in 0..CONTAINERS {
            let label = format!("--label={LABEL}=yes");
            let words = ["run", "-d", "--no-healthcheck", "--entrypoint=/bin/sleep"];
            let image = ["finial-test-workload", "3600"];
            let id = succeed(&[&words[..], &[&label], &image].concat()).unwrap();
            let id = id.trim().to_owned();
            let pid = succeed(&["inspect", "-f", "{{.State.Pid}}", &id]).unwrap();
            containers.ids.push(id);
            containers.cgroups.push(Cgroups::of(pid.trim()));
        }
        containers
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let mut words = vec!["rm", "-f"];
        words.extend(self.ids.iter().map(String::as_str));
        // Nothing is lost if one stays behind.
        drop(succeed(&words));
    }
}

/// The `cgroup.procs` of each hierarchy a process is in.
struct Cgroups(Vec<String>);

impl Cgroups {
    fn of(pid: &str) -> Self {
        let rows = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let files = rows.lines().filter_map(|row| {
            let mut fields = row.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let hierarchy = controllers.strip_prefix("name=").unwrap_or(controllers);
            let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
            let mounts = if hierarchy.is_empty() {
                unified.map(str::to_owned).to_vec()
            } else {
                vec![format!("/sys/fs/cgroup/{hierarchy}")]
            };
            let files = mounts
                .into_iter()
                .map(|mount| format!("{mount}{path}/cgroup.procs"));
            files
                .into_iter()
                .find(|file| fs::exists(file).unwrap_or(false))
        });
        Self(files.collect())
    }

    /// Moves this process there, with all of its threads.
    fn enter(&self) {
        for file in &self.0 {
            fs::write(file, std::process::id().to_string()).unwrap();
        }
    }
}
