use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use finial_plugin::AttestError;
use finial_plugin::workload_attestor::{ContainerProcess, WorkloadAttestor};
use finial_runtime::clock::SystemClock;
use pb::r#match::SvidState;
use spiffe_types::entry::Entry;
use spiffe_types::selector::Selector;
use tonic::Code;

use super::*;
use crate::cache::Change;
use crate::cache::fixtures::{bundle, entry, svid, trust_domain};

/// An attestor that finds what it is told, or is down.
#[derive(Debug)]
struct Fixed(&'static str, Option<&'static [&'static str]>);

#[async_trait]
impl WorkloadAttestor for Fixed {
    fn name(&self) -> &str {
        self.0
    }

    async fn attest(&self, _: &Workload) -> Result<Vec<Selector>, AttestError> {
        self.1
            .map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
            .ok_or_else(|| AttestError::unavailable("engine is down"))
    }

    async fn find_process(&self, _: &str) -> Result<Option<ContainerProcess>, AttestError> {
        match self.1 {
            Some(_) => Ok(None),
            None => Err(AttestError::unavailable("engine is down")),
        }
    }
}

struct World {
    service: ExplainService,
    cache: Cache,
    status: watch::Sender<SyncStatus>,
}

impl World {
    fn new(attestors: Vec<Fixed>, entries: Vec<Arc<Entry>>) -> Self {
        let cache = Cache::new(trust_domain());
        cache.apply(Change {
            full: true,
            entries,
            bundle: Some(bundle("example.org", 1)),
            revision: Some(7),
            ..Change::default()
        });
        let (status, sync) = watch::channel(SyncStatus {
            mode: Mode::Push,
            last_sync: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(5)),
            last_error: None,
        });
        let attestors = attestors.into_iter().map(|fixed| Arc::new(fixed) as _);
        let service = ExplainService::new(ExplainParts {
            agent_id: SpiffeId::from_path(&trust_domain(), "/spire/agent/a").unwrap(),
            server_address: "server:8081".to_owned(),
            socket_path: None,
            cache: cache.clone(),
            attestors: Arc::new(Attestors::new(attestors.collect())),
            sync,
            unseen: Arc::default(),
            clock: SystemClock::shared(),
        });
        Self {
            service,
            cache,
            status,
        }
    }

    async fn explain(&self, target: Target) -> Result<pb::ExplainResponse, Status> {
        let request = pb::ExplainRequest {
            target: Some(target),
        };
        let answer = self.service.explain(Request::new(request)).await;
        answer.map(Response::into_inner)
    }

    /// Explains this process.
    async fn explain_me(&self) -> pb::ExplainResponse {
        let pid = i32::try_from(std::process::id()).unwrap();
        self.explain(Target::Pid(pid)).await.unwrap()
    }
}

fn commands(found: &pb::ExplainResponse) -> Vec<&str> {
    found
        .next_steps
        .iter()
        .map(|step| step.command.as_str())
        .collect()
}

#[tokio::test]
async fn a_stranger_is_told_the_command_that_registers_it() {
    let world = World::new(
        vec![Fixed(
            "docker",
            Some(&["docker:label:app:my web", "docker:image_id:web:1"]),
        )],
        Vec::new(),
    );

    let found = world.explain_me().await;

    assert_eq!(found.answer.as_ref().unwrap().code, "PermissionDenied");
    assert_eq!(
        commands(&found),
        [
            "finial-server entry create -parentID spiffe://example.org/spire/agent/a -spiffeID spiffe://example.org/my-web \
             -selector 'docker:label:app:my web'"
        ]
    );
}

#[tokio::test]
async fn another_value_of_a_label_is_named_with_the_command_that_changes_the_entry() {
    let mut web = entry("web", &["docker:label:app:agent_a", "unix:uid:0"])
        .as_ref()
        .clone();
    web.dns_names = vec!["web.example.org".parse().unwrap()];
    let world = World::new(
        vec![
            Fixed("unix", Some(&["unix:uid:0"])),
            Fixed("docker", Some(&["docker:label:app:agent-a"])),
        ],
        vec![
            entry("far", &["k8s:ns:a", "k8s:sa:b"]),
            entry("other", &["k8s:ns:a"]),
            Arc::new(web),
        ],
    );

    let found = world.explain_me().await;

    let misses: Vec<_> = found
        .near_misses
        .iter()
        .map(|miss| miss.entry.as_ref().unwrap().id.as_str())
        .collect();
    assert_eq!(misses, ["web", "other", "far"]);
    assert_eq!(
        describe_missing(&found.near_misses[0].missing[0]),
        "docker:label:app:agent_a (the process has docker:label:app:agent-a)"
    );
    assert_eq!(
        commands(&found)[0],
        "finial-server entry update -entryID web -parentID spiffe://example.org/spire/agent/x509pop/a \
         -spiffeID spiffe://example.org/web -selector docker:label:app:agent-a -selector unix:uid:0 -dns web.example.org"
    );
}

#[tokio::test]
async fn a_missing_label_is_named_with_the_way_to_set_it() {
    let world = World::new(
        vec![Fixed("docker", Some(&["docker:image_id:python:3"]))],
        vec![entry("web", &["docker:label:app:web"])],
    );

    let found = world.explain_me().await;

    assert!(
        found.next_steps[0].text.contains("docker:label:app:web"),
        "{:?}",
        found.next_steps
    );
    assert_eq!(commands(&found)[0], "docker run --label app=web …");
}

#[tokio::test]
async fn a_failed_attestor_is_named_and_no_change_of_entries_advised() {
    let world = World::new(
        vec![Fixed("unix", Some(&["unix:uid:0"])), Fixed("docker", None)],
        vec![entry("web", &["docker:label:app:web", "unix:uid:0"])],
    );

    let found = world.explain_me().await;

    let answer = found.answer.as_ref().unwrap();
    assert_eq!(
        (answer.code.as_str(), answer.message.as_str()),
        (
            "Unavailable",
            "workload attestation failed: workload attestor \"docker\" failed: engine is down"
        )
    );
    assert_eq!(found.attestors[1].failure, "engine is down");
    assert!(found.near_misses[0].missing[0].unknown);
    assert!(found.next_steps[0].text.contains("engine is down"));
    assert!(
        !commands(&found)
            .iter()
            .any(|command| command.contains("entry update"))
    );
}

#[tokio::test]
async fn a_match_shows_its_names_and_how_its_svid_stands() {
    let mut web = entry("web", &["unix:uid:0"]).as_ref().clone();
    web.dns_names = vec!["web.example.org".parse().unwrap()];
    let web = Arc::new(web);
    let world = World::new(
        vec![Fixed("unix", Some(&["unix:uid:0"]))],
        vec![Arc::clone(&web)],
    );

    let found = world.explain_me().await;
    assert_eq!(found.matches[0].svid_state(), SvidState::Pending);
    assert_eq!(
        found.answer.unwrap().message,
        "held until all SVIDs are signed: 0 of 1 are"
    );

    let work = world.cache.take_work(SystemTime::UNIX_EPOCH, 10);
    let work = work
        .into_iter()
        .map(|work| (work, svid(&web, 4_000_000_000)));
    world.cache.put(work.collect());
    let found = world.explain_me().await;
    let matched = &found.matches[0];
    assert_eq!(matched.svid_state(), SvidState::Valid);
    assert_eq!(
        matched.entry.as_ref().unwrap().dns_names,
        ["web.example.org"]
    );
    assert!(matched.svid.as_ref().unwrap().not_after > 4_000_000_000);
    assert_eq!(found.answer.unwrap().message, "1 X.509-SVID");
}

#[tokio::test]
async fn the_state_of_synchronization_is_told_and_a_lost_server_comes_first() {
    let world = World::new(vec![Fixed("unix", Some(&["unix:uid:0"]))], Vec::new());
    world
        .status
        .send_modify(|status| status.last_error = Some("connection refused".into()));

    let found = world.explain_me().await;

    assert_eq!(
        found.sync,
        Some(pb::Sync {
            agent_id: "spiffe://example.org/spire/agent/a".to_owned(),
            server_address: "server:8081".to_owned(),
            mode: "finial.sync.v1.Follow".to_owned(),
            push: true,
            revision: 7,
            last_contact: 5,
            last_error: "connection refused".to_owned(),
            entries: 0,
        })
    );
    assert_eq!(commands(&found)[0], "finial-server healthcheck");
}

#[tokio::test]
async fn callers_nobody_could_see_are_counted_with_the_cure() {
    let world = World::new(vec![Fixed("unix", Some(&["unix:uid:0"]))], Vec::new());
    for uid in [1, 2] {
        world.service.parts.unseen.note(uid);
    }

    let found = world.explain_me().await;

    assert_eq!(
        found.unseen_callers,
        Some(pb::UnseenCallers {
            count: 2,
            last_uid: 2
        })
    );
    assert!(found.next_steps[0].text.contains("(PID 0) of 2 callers"));
}

#[tokio::test]
async fn what_cannot_be_found_is_said_with_the_reason() {
    let world = World::new(vec![Fixed("docker", None)], Vec::new());

    let status = world.explain(Target::Pid(i32::MAX)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("namespace"), "{status}");
    assert!(!status.message().contains("PID 0"), "{status}");

    world.service.parts.unseen.note(7);
    let seen =
        "1 caller of the Workload API had a process it could not see (PID 0), the last with uid 7";
    let status = world.explain(Target::Pid(i32::MAX)).await.unwrap_err();
    assert!(status.message().contains(seen), "{status}");

    let nowhere = Target::Container("0d".repeat(32));
    let status = world.explain(nowhere).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("engine is down"), "{status}");
    assert!(status.message().contains(seen), "{status}");

    for target in [Target::Pid(0), Target::Container(String::new())] {
        let status = world.explain(target).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}
