//! What an attestor believes of engines, and what it says when there is nothing to believe.

use std::time::SystemTime;

use finial_runtime::clock::Clock as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::*;

/// Podman's engine at `podman`, or nobody's, and Docker's.
fn attestor(docker: &Engine, podman: &str) -> DockerAttestor {
    let podman = Podman::new(Some(&format!("unix://{podman}")), None).unwrap();
    DockerAttestor {
        docker: docker.clone(),
        podman,
        is_nested: false,
        ..DockerAttestor::new(&DockerConfig::default(), SystemClock::shared()).unwrap()
    }
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap()
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn own_cgroups() -> Vec<Cgroup> {
    let own = Peer::of_pid(own_pid()).unwrap().open().unwrap();
    cgroups(&own, false).unwrap()
}

/// An engine that knows one container, which this process is the first of, and started just now.
fn engine_of_this_process(id: &'static str) -> FakeEngine {
    engine_of(id, |_| (own_pid(), ago(Duration::ZERO)))
}

fn ago(time: Duration) -> String {
    let started = OffsetDateTime::from(SystemClock.now() - time);
    started.format(&Rfc3339).unwrap()
}

/// An engine that knows one container; the number of its first process and when it started are what `state` says to each question.
fn engine_of(
    id: &'static str,
    state: impl Fn(usize) -> (i32, String) + Send + 'static,
) -> FakeEngine {
    let mut questions = 0;
    FakeEngine::serve(Version::newest(), move |path| {
        if path.starts_with("/containers/") {
            let (pid, started) = state(questions);
            questions += 1;
            Reply::of(
                200,
                &format!(
                    r#"{{"Id":"{id}","State":{{"Pid":{pid},"StartedAt":"{started}"}},"Image":"sha256:aaaa","Config":{{"Image":"web:1","Labels":{{"a":"b"}}}}}}"#
                ),
            )
        } else {
            Reply::of(200, r#"{"Id":"sha256:aaaa"}"#)
        }
    })
}

/// This process's claim to be in the container, to be checked with the engine at `socket`, which must be `owner`'s.
fn claim(socket: &str, owner: Option<u32>) -> Claim {
    let path = PathBuf::from(socket);
    let turns = owner.map(|_| Arc::new(Semaphore::new(1)));
    Claim {
        id: ID.to_owned(),
        asked: Asked {
            engine: Engine::new(Address::Unix { path, owner }, Version::newest()),
            turns,
        },
        cgroups: own_cgroups(),
    }
}

const SELECTORS: [&str; 3] = [
    "docker:label:a:b",
    "docker:image_id:web:1",
    "docker:image_config_digest:sha256:aaaa",
];

#[tokio::test]
async fn the_answer_of_an_engine_is_kept_unless_it_is_a_users() {
    let fake = engine_of_this_process(ID);
    let attestor = attestor(&fake.engine, "/none");
    for (owner, questions) in [(None, 2), (Some(own_uid()), 6)] {
        for _ in 0..2 {
            let claim = claim(&fake.socket(), owner);
            let selectors = attestor.check(claim).await.unwrap();
            assert_eq!(texts(&selectors), SELECTORS);
        }
        assert_eq!(fake.asked().len(), questions);
    }
}

#[tokio::test(start_paused = true)]
async fn a_users_engine_counts_only_where_that_user_listens() {
    let fake = engine_of_this_process(ID);
    let attestor = attestor(&fake.engine, "/none");
    let user = own_uid() + 1;
    let error = attestor
        .check(claim(&fake.socket(), Some(user)))
        .await
        .unwrap_err();
    let error = chain(&error).to_string();
    let reason = format!(
        "user {} listens there, where only user {user} may",
        own_uid()
    );
    assert!(error.contains(&reason), "{error}");
    assert_eq!(fake.asked(), [""; 0]);

    // A link from the user's folder to the engine of another.
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("podman.sock");
    std::os::unix::fs::symlink(fake.socket(), &link).unwrap();
    let error = attestor
        .check(claim(link.to_str().unwrap(), Some(user)))
        .await
        .unwrap_err();
    let error = chain(&error).to_string();
    assert!(error.contains(&reason), "{error}");
    assert_eq!(fake.asked(), [""; 0]);
}

#[tokio::test]
async fn a_users_engine_gets_few_questions_at_a_time() {
    let fake = engine_of_this_process(ID);
    let attestor = attestor(&fake.engine, "/none");
    let claim = claim(&fake.socket(), Some(own_uid()));
    let turns = claim.asked.turns.clone().unwrap();
    let turn = turns.try_acquire().unwrap();
    let error = attestor.check(claim).await.unwrap_err().to_string();
    assert!(error.contains("as many questions"), "{error}");
    drop(turn);
    assert_eq!(fake.asked(), [""; 0]);
}

#[tokio::test]
async fn a_name_that_looks_like_an_id_is_no_id() {
    let other = "bc6dcca632c48528b4024723cfe3d4ec7287ca6fc88ce123de424f38c1ab2a7f";
    let fake = engine_of_this_process(other);
    let attestor = attestor(&fake.engine, "/none");
    let error = attestor
        .check(claim(&fake.socket(), None))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("for a name of container bc6d"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_is_named_and_not_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = inspect(&engine_at(socket.clone()), ID).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "container engine at {} did not answer within 4 s",
            socket.display()
        )
    );
}

const RUNNING: &str = r#"{"Id":"30659a","State":{"Pid":4242},"Config":{}}"#;
const UNKNOWN: &str = r#"{"message":"No such container: web"}"#;

#[tokio::test]
async fn docker_or_else_podman_tells_the_process_of_a_container() {
    let process = Some(ContainerProcess {
        container_id: "30659a".to_owned(),
        pid: 4242,
    });
    let knows = FakeEngine::start(Version::newest(), vec![(200, RUNNING)]);
    let does_not = FakeEngine::start(Version::newest(), vec![(404, UNKNOWN)]);
    let is_down = engine_at("/none/docker.sock".into());

    for (docker, podman) in [
        (&knows.engine, "/none"),
        (&knows.engine, &does_not.socket()),
        (&does_not.engine, &knows.socket()),
        (&is_down, &knows.socket()),
    ] {
        let found = attestor(docker, podman).find_process("web/..").await;
        assert_eq!(found.unwrap(), process);
    }
    assert_eq!(knows.asked().first().unwrap(), "/containers/web%2F../json");
}

#[tokio::test]
async fn engines_that_do_not_tell_of_a_container_are_both_named() {
    let docker = FakeEngine::start(Version::newest(), vec![(404, UNKNOWN)]);
    let podman = FakeEngine::start(Version::newest(), vec![(404, "no such container")]);
    let down = attestor(&docker.engine, "/none/podman.sock");
    let both = attestor(&docker.engine, &podman.socket());

    let error = both.find_process("web").await.unwrap_err();
    assert_eq!(error.kind(), AttestErrorKind::Rejected);
    for part in [
        "a container web",
        &docker.socket(),
        "No such container: web",
        &podman.socket(),
        "no such container",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = down.find_process("web").await.unwrap_err();
    assert_eq!(error.kind(), AttestErrorKind::Unavailable);
    for part in [
        "No such container: web",
        "/none/podman.sock",
        "there is no such socket",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_process_younger_than_its_container_is_asked_about_twice() {
    let long_ago = || ago(Duration::from_hours(24 * 365));
    // The clock was set since, or the engine does not say.
    for started in [long_ago(), "0001-01-01T00:00:00Z".to_owned(), String::new()] {
        let fake = engine_of(ID, move |_| (own_pid(), started.clone()));
        let attestor = attestor(&fake.engine, "/none");
        let selectors = attestor.check(claim(&fake.socket(), None)).await.unwrap();
        assert_eq!(texts(&selectors), SELECTORS);
        assert_eq!(fake.asked().len(), 3);
    }
    // The container had ended, and its number has gone to the caller.
    let started = long_ago();
    let fake = engine_of(ID, move |question| match question {
        0 => (own_pid(), started.clone()),
        _ => (0, started.clone()),
    });
    let attestor = attestor(&fake.engine, "/none");
    let error = attestor.check(claim(&fake.socket(), None)).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("does not run"), "{error}");
}

#[test]
fn a_process_is_in_a_container_only_with_its_first_process() {
    let rows = |path: &str| {
        vec![Cgroup {
            hierarchy: String::new(),
            path: path.to_owned(),
        }]
    };
    let now = SystemClock.now();
    let started_with = |pid: i32| InspectedContainer {
        state: engine::ContainerState {
            pid,
            started_at: ago(Duration::ZERO),
        },
        ..serde_json::from_str(CONTAINER).unwrap()
    };
    let claimed = rows(&format!("/user.slice/docker-{ID}.scope"));
    let confirm = |pid, is_nested| confirm(&claimed, &started_with(pid), ID, is_nested, now);

    // This process is in no container at all.
    let error = confirm(own_pid(), false).unwrap_err().to_string();
    assert!(error.contains("is not that container's"), "{error}");
    assert_eq!(confirm(own_pid(), true).unwrap(), Verdict::Unseen);
    let error = confirm(0, true).unwrap_err().to_string();
    assert!(error.contains("does not run"), "{error}");
    let error = confirm(i32::MAX, false).unwrap_err().to_string();
    assert!(error.contains("cannot be seen"), "{error}");
    assert_eq!(confirm(i32::MAX, true).unwrap(), Verdict::Unseen);
}

#[test]
fn a_first_process_is_not_younger_than_its_container() {
    let process = Peer::of_pid(own_pid()).unwrap().open().unwrap();
    let now = SystemClock.now();
    let confirm_at = |started: SystemTime| {
        let container = InspectedContainer {
            state: engine::ContainerState {
                pid: own_pid(),
                started_at: OffsetDateTime::from(started).format(&Rfc3339).unwrap(),
            },
            ..serde_json::from_str(CONTAINER).unwrap()
        };
        confirm(&own_cgroups(), &container, ID, false, now).unwrap()
    };
    let boot: Duration = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .unwrap()
        .into();
    let started = now - boot.saturating_sub(process.start_time().unwrap());
    let inside = || Verdict::Inside(own_cgroups());
    let doubtful = || Verdict::Doubtful(own_cgroups());
    for (container_started, expected) in [
        (started + Duration::from_millis(5), inside()),
        (started + Duration::from_secs(9), inside()),
        (now + Duration::from_secs(9), inside()),
        (started - Duration::from_millis(150), doubtful()),
        (started - Duration::from_hours(9), doubtful()),
    ] {
        assert_eq!(confirm_at(container_started), expected);
    }
}
