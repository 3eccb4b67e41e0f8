use std::path::PathBuf;
use std::sync::Mutex;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::*;

const ID: &str = "30659a8817cc0e16b3fc4fb1253423552ce7db0949766eb573f8cce785c28684";
const CONTAINER: &str = r#"{"Id":"30659a","Image":"sha256:aaaa","Config":{"Image":"web:1","Env":["A=1","PATH=/bin"],
    "Labels":{"org.integration.name":"web","empty":""}}}"#;

/// An engine that gives each path the answers in turn, the last one for ever.
struct FakeEngine {
    engine: Engine,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
    _folder: TempDir,
}

/// Status, header lines and body.
#[derive(Clone, Copy)]
struct Reply(u16, &'static str, &'static str);

impl Reply {
    fn of(status: u16, body: &'static str) -> Self {
        Self(status, "", body)
    }

    fn ping(version: &'static str) -> Self {
        let header = format!("Api-Version: {version}\r\n");
        Self(200, header.leak(), "OK")
    }
}

impl FakeEngine {
    fn start(version: Version, answers: Vec<(u16, &'static str)>) -> Self {
        let replies = answers
            .into_iter()
            .map(|(status, body)| Reply::of(status, body));
        Self::start_with(version, replies.collect())
    }

    fn start_with(version: Version, mut answers: Vec<Reply>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                let text = String::from_utf8(request).unwrap();
                log.lock()
                    .unwrap()
                    .push(text.split(' ').nth(1).unwrap().to_owned());
                let Reply(status, header, body) = if answers.len() > 1 {
                    answers.remove(0)
                } else {
                    answers[0]
                };
                let answer = format!(
                    "HTTP/1.1 {status} x\r\n{header}Content-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self {
            engine: Engine::new(Address::Unix(socket), version),
            asked,
            _tasks: tasks,
            _folder: folder,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn engine_at(socket: PathBuf) -> Engine {
    Engine::new(Address::Unix(socket), Version::newest())
}

fn texts(selectors: &[Selector]) -> Vec<String> {
    selectors.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn labels_environment_and_image_become_selectors() {
    let fake = FakeEngine::start(
        Version::newest(),
        vec![(200, CONTAINER), (200, r#"{"Id":"sha256:aaaa"}"#)],
    );

    let container = inspect(&fake.engine, ID).await.unwrap();
    let digest = fake.engine.image_id(&container.image).await.unwrap();

    assert_eq!(
        texts(&selectors(&container, digest.as_deref()).unwrap()),
        [
            "docker:label:empty:",
            "docker:label:org.integration.name:web",
            "docker:env:A=1",
            "docker:env:PATH=/bin",
            "docker:image_id:web:1",
            "docker:image_config_digest:sha256:aaaa",
        ]
    );
    assert_eq!(
        fake.asked(),
        [
            format!("/containers/{ID}/json"),
            "/images/sha256:aaaa/json".to_owned()
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_busy_engine_is_asked_again_up_to_four_times() {
    let fake = FakeEngine::start(
        Version::configured("1.41"),
        vec![
            (500, "busy"),
            (500, "busy"),
            (500, "busy"),
            (200, CONTAINER),
        ],
    );

    inspect(&fake.engine, ID).await.unwrap();

    assert_eq!(
        fake.asked(),
        vec![format!("/v1.41/containers/{ID}/json"); 4]
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_never_knows_the_container_is_quoted() {
    let fake = FakeEngine::start(
        Version::newest(),
        vec![(404, "{\"message\":\"No such container\"}\n")],
    );

    let error = inspect(&fake.engine, ID).await.unwrap_err();

    assert_eq!(
        error.to_string(),
        "container engine answered 404 Not Found: {\"message\":\"No such container\"}"
    );
    assert_eq!(fake.asked().len(), 4);
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_named() {
    let engine = engine_at("/no/such/docker.sock".into());

    let error = engine.container(ID).await.unwrap_err();

    assert!(
        error.to_string().contains("/no/such/docker.sock"),
        "{error}"
    );
}

#[test]
fn an_answer_without_labels_and_environment_is_understood() {
    let container: InspectedContainer =
        serde_json::from_str(r#"{"Config":{"Image":"","Labels":null,"Env":null}}"#).unwrap();

    assert_eq!(selectors(&container, None).unwrap(), []);
}

#[tokio::test]
async fn answers_are_kept_for_their_container_and_engine_alone() {
    let kept = KeptAnswers::default();
    let known = Known {
        selectors: vec![Selector::new(NAME, "label:a:b").unwrap()],
        cgroups: Vec::new(),
    };

    kept.keep("/one.sock", ID, &known);

    assert_eq!(kept.find("/one.sock", ID), Some(known));
    assert_eq!(kept.find("/two.sock", ID), None);
    assert_eq!(kept.find("/one.sock", "other"), None);
}

#[test]
fn matchers_and_the_new_locator_exclude_each_other() {
    let config = |use_new_container_locator| DockerConfig {
        container_id_cgroup_matchers: vec!["/docker/<id>".into()],
        use_new_container_locator,
        ..DockerConfig::default()
    };

    assert!(DockerAttestor::new(&config(None)).is_err());
    assert!(DockerAttestor::new(&config(Some(true))).is_err());
    assert!(DockerAttestor::new(&config(Some(false))).is_ok());
    assert!(DockerAttestor::new(&DockerConfig::default()).is_ok());
}

#[test]
fn matchers_find_the_one_id() {
    let matchers = Matchers::parse(&["/docker/<id>".into(), "/my.slice/*/<id>/*".into()]).unwrap();
    let find = |paths: &[&str]| matchers.find(paths.iter().copied()).ok();

    assert_eq!(find(&["/docker/7"]), Some(Some("7".to_owned())));
    assert_eq!(
        find(&["/", "/my.slice/a/7/b", "/docker/7"]),
        Some(Some("7".to_owned()))
    );
    assert_eq!(find(&["/docker", "/docker/7/8", "/other/7"]), Some(None));
    assert_eq!(find(&["/docker/7", "/docker/8"]), None);
    assert_eq!(find(&["/docker/"]), None);
}

#[test]
fn ambiguous_or_pointless_matchers_are_refused() {
    for patterns in [
        &["/a/b/<id>", "/*/b/<id>"][..],
        &["/a"],
        &["/<id>/<id>"],
        &["/<id>", "/<id>"],
    ] {
        let patterns: Vec<_> = patterns
            .iter()
            .map(|pattern| (*pattern).to_owned())
            .collect();
        assert!(Matchers::parse(&patterns).is_err(), "{patterns:?}");
    }
    assert!(Matchers::parse(&["/a/<id>".into(), "/b/<id>".into(), "/a/<id>/c".into()]).is_ok());
}

#[tokio::test]
async fn the_engine_tells_the_process_of_a_container() {
    let running = r#"{"Id":"30659a","State":{"Pid":4242},"Config":{}}"#;
    let fake = FakeEngine::start(Version::newest(), vec![(200, running)]);
    let attestor = DockerAttestor {
        docker: fake.engine.clone(),
        ..DockerAttestor::new(&DockerConfig::default()).unwrap()
    };

    assert_eq!(
        attestor.find_process("web/..").await.unwrap(),
        Some(ContainerProcess {
            container_id: "30659a".to_owned(),
            pid: 4242
        })
    );
    assert_eq!(fake.asked(), ["/containers/web%2F../json"]);
}

#[tokio::test]
async fn an_engine_out_of_reach_is_named_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let reason = async || {
        let engine = engine_at(socket.clone());
        chain(&engine.container(ID).await.unwrap_err()).to_string()
    };

    assert!(reason().await.contains("mount the engine's socket"));
    drop(UnixListener::bind(&socket).unwrap());
    assert!(reason().await.contains("nobody listens there"));
    let proxy = FakeEngine::start(Version::newest(), vec![(403, "Forbidden")]);
    let refused = proxy.engine.container(ID).await.unwrap_err().to_string();
    assert!(refused.contains("a socket proxy must allow"), "{refused}");
}

fn config(text: &str) -> Result<DockerAttestor, PluginError> {
    DockerAttestor::new(&serde_json::from_str(text).unwrap())
}

#[test]
fn an_engine_is_a_socket_or_a_port() {
    let address = |text: &str| Address::parse("docker_socket_path", text, None);
    for (text, shown, exposed) in [
        ("unix:///run/docker.sock", "/run/docker.sock", false),
        ("tcp://127.0.0.1:2000", "tcp://127.0.0.1:2000", false),
        ("tcp://[::1]:2000", "tcp://[::1]:2000", false),
        ("tcp://localhost", "tcp://localhost:2375", false),
        ("tcp://engine.example", "tcp://engine.example:2375", true),
    ] {
        let address = address(text).unwrap();
        assert_eq!(address.to_string(), shown);
        assert_eq!(address.is_exposed(), exposed, "{text}");
    }
    for text in [
        "/var/run/docker.sock",
        "unix://docker.sock",
        "tcp://",
        "tcp://host:port",
        "tcp://user@host:1",
        "https://host:1",
    ] {
        let error = address(text).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn settings_for_tls_must_make_sense_together() {
    let all = r#""docker_tls_ca_path":"ca","docker_tls_certificate_path":"c","docker_tls_private_key_path":"k""#;
    let tcp = r#""docker_socket_path":"tcp://engine""#;
    let attestor = config(&format!("{{{tcp},{all}}}")).unwrap();
    assert_eq!(attestor.docker.address().to_string(), "tcp://engine:2376");
    assert!(!attestor.docker.address().is_exposed());
    for (text, cure) in [
        (format!("{{{all}}}"), "tcp://host:port"),
        (
            format!(r#"{{{tcp},"docker_tls_certificate_path":"c","docker_tls_ca_path":"ca"}}"#),
            "set both or neither",
        ),
        (
            format!(
                r#"{{{tcp},"docker_tls_certificate_path":"c","docker_tls_private_key_path":"k"}}"#
            ),
            "docker_tls_ca_path",
        ),
    ] {
        let error = config(&text).unwrap_err().to_string();
        assert!(error.contains(cure), "{error}");
    }
}

/// What one engine after another answers, the first of them `engine`, to a client that negotiates.
async fn negotiated(answers: Vec<Reply>, questions: usize) -> Vec<String> {
    let fake = FakeEngine::start_with(Version::configured(""), answers);
    for _ in 0..questions {
        // Whether it succeeds is the script's business.
        drop(fake.engine.container(ID).await);
    }
    fake.asked()
}

#[tokio::test]
async fn the_version_of_the_api_is_agreed_on_once() {
    let path = format!("/containers/{ID}/json");
    let old = || Reply::ping("1.24");
    let container = || Reply::of(200, CONTAINER);
    assert_eq!(
        negotiated(vec![old(), container()], 2).await,
        [
            "/_ping".to_owned(),
            format!("/v1.24{path}"),
            format!("/v1.24{path}")
        ]
    );
    assert_eq!(
        negotiated(vec![Reply::ping("1.99"), container()], 1).await,
        ["/_ping".to_owned(), format!("/v1.47{path}")]
    );
    // A proxy in between, or an engine that does not tell.
    for silent in [Reply::of(403, "no"), Reply::of(200, "OK")] {
        assert_eq!(
            negotiated(vec![silent, container()], 1).await,
            ["/_ping".to_owned(), path.clone()]
        );
    }
}

#[tokio::test]
async fn an_engine_that_refuses_the_version_is_asked_again() {
    let path = format!("/containers/{ID}/json");
    let container = || Reply::of(200, CONTAINER);
    let too_new = "client version 1.47 is too new. Maximum supported API version is 1.41";
    let too_old = "client version 1.47 is too old. Minimum supported API version is 1.60";
    // Another engine listens at the address by now.
    let replaced = vec![
        Reply::ping("1.47"),
        container(),
        Reply::of(400, too_new),
        Reply::ping("1.41"),
        container(),
    ];
    assert_eq!(
        negotiated(replaced, 3).await,
        [
            "/_ping".to_owned(),
            format!("/v1.47{path}"),
            format!("/v1.47{path}"),
            "/_ping".to_owned(),
            format!("/v1.41{path}"),
            format!("/v1.41{path}"),
        ]
    );
    // An engine of the future.
    let newer = vec![
        Reply::ping("1.70"),
        Reply::of(400, too_old),
        Reply::ping("1.70"),
        container(),
    ];
    assert_eq!(
        negotiated(newer, 1).await,
        [
            "/_ping".to_owned(),
            format!("/v1.47{path}"),
            "/_ping".to_owned(),
            path
        ]
    );
}

#[tokio::test]
async fn a_process_is_in_a_container_only_with_its_first_process() {
    let rows = |path: &str| {
        vec![Cgroup {
            hierarchy: String::new(),
            path: path.to_owned(),
        }]
    };
    let started_with = |pid: i32| InspectedContainer {
        state: engine::ContainerState { pid },
        ..serde_json::from_str(CONTAINER).unwrap()
    };
    let own = i32::try_from(std::process::id()).unwrap();
    let claimed = rows(&format!("/user.slice/docker-{ID}.scope"));

    // This process is in no container at all.
    let error = confirm(&claimed, &started_with(own), ID, false).unwrap_err();
    assert!(
        error.to_string().contains("is not that container's"),
        "{error}"
    );
    assert_eq!(
        confirm(&claimed, &started_with(own), ID, true).unwrap(),
        None
    );
    let error = confirm(&claimed, &started_with(0), ID, true).unwrap_err();
    assert!(error.to_string().contains("does not run"), "{error}");
    let error = confirm(&claimed, &started_with(i32::MAX), ID, false).unwrap_err();
    assert!(error.to_string().contains("cannot be seen"), "{error}");
    assert_eq!(
        confirm(&claimed, &started_with(i32::MAX), ID, true).unwrap(),
        None
    );

    let first = Peer::of_pid(own).unwrap().open().unwrap();
    let cgroups = cgroups(&first, false).unwrap();
    assert_eq!(
        confirm(&cgroups, &started_with(own), ID, false).unwrap(),
        Some(cgroups)
    );
}
