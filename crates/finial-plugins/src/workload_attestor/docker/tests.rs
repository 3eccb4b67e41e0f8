use std::path::PathBuf;
use std::sync::Mutex;

use finial_plugin::workload::Peer;
use finial_runtime::clock::SystemClock;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::*;

mod checks;
mod versions;

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
#[derive(Debug, Clone)]
struct Reply(u16, String, String);

impl Reply {
    fn of(status: u16, body: &str) -> Self {
        Self(status, String::new(), body.to_owned())
    }

    fn ping(version: &str) -> Self {
        Self(200, format!("Api-Version: {version}\r\n"), "OK".to_owned())
    }
}

impl FakeEngine {
    fn start(version: Version, answers: Vec<(u16, &'static str)>) -> Self {
        let mut answers = answers
            .into_iter()
            .map(|(status, body)| Reply::of(status, body));
        let mut last = answers.next().unwrap();
        let mut is_first = true;
        Self::serve(version, move |_| {
            if !std::mem::take(&mut is_first) {
                last = answers.next().unwrap_or_else(|| last.clone());
            }
            last.clone()
        })
    }

    fn serve(version: Version, mut answer: impl FnMut(&str) -> Reply + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n")
                    && stream.read_buf(&mut request).await.unwrap() > 0
                {}
                let text = String::from_utf8(request).unwrap();
                if text.is_empty() {
                    continue; // somebody only looked who listens
                }
                let path = text.split(' ').nth(1).unwrap().to_owned();
                let Reply(status, header, body) = answer(&path);
                log.lock().unwrap().push(path);
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} x\r\n{header}Content-Length: {length}\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self {
            engine: Engine::new(Address::Unix { path, owner: None }, version),
            asked,
            _tasks: tasks,
            _folder: folder,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn socket(&self) -> String {
        self.engine.address().to_string()
    }
}

fn engine_at(path: PathBuf) -> Engine {
    Engine::new(Address::Unix { path, owner: None }, Version::newest())
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
        Version::configured("1.41").unwrap(),
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

    assert!(DockerAttestor::new(&config(None), SystemClock::shared()).is_err());
    assert!(DockerAttestor::new(&config(Some(true)), SystemClock::shared()).is_err());
    assert!(DockerAttestor::new(&config(Some(false)), SystemClock::shared()).is_ok());
    assert!(DockerAttestor::new(&DockerConfig::default(), SystemClock::shared()).is_ok());
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
    DockerAttestor::new(&serde_json::from_str(text).unwrap(), SystemClock::shared())
}

#[test]
fn an_engine_is_a_socket_or_a_port() {
    let address = |text: &str| Address::parse("docker_socket_path", text, None);
    for (text, shown, exposed) in [
        ("unix:///run/docker.sock", "/run/docker.sock", false),
        ("tcp://127.0.0.1:2000", "tcp://127.0.0.1:2000", false),
        ("tcp://[::1]:2000", "tcp://[::1]:2000", false),
        ("tcp://[fe80::1]", "tcp://[fe80::1]:80", true),
        ("tcp://localhost", "tcp://localhost:80", false),
        ("http://engine.example:1", "tcp://engine.example:1", true),
        ("tcp://proxy:1/a/b/", "tcp://proxy:1/a/b", true),
    ] {
        let address = address(text).unwrap();
        assert_eq!(address.to_string(), shown);
        assert_eq!(address.is_exposed(), exposed, "{text}");
    }
    for text in [
        "/var/run/docker.sock",
        "unix:/var/run/docker.sock",
        "unix://docker.sock",
        "tcp://",
        "tcp://host:port",
        "tcp://user@host:1",
        "TCP://host:1",
        "npipe:////./pipe/docker_engine",
        "ssh://host",
    ] {
        let error = address(text).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    for (text, cure) in [
        (
            "https://host:1",
            "with TLS is tcp://host:1, and docker_tls_ca_path",
        ),
        ("tcp://host:1/a?b", "the path in docker_socket_path"),
    ] {
        let error = address(text).unwrap_err().to_string();
        assert!(error.contains(cure), "{error}");
    }
}

#[test]
fn a_key_that_is_set_to_nothing_is_not_set_unless_it_is_about_trust() {
    let attestor = config(
        r#"{"docker_socket_path":"","docker_version":"","podman_socket_path":"","podman_socket_path_template":""}"#,
    );
    let attestor = attestor.unwrap();
    assert_eq!(
        attestor.docker.address().to_string(),
        "/var/run/docker.sock"
    );
    assert_eq!(
        attestor.podman.rootful().address().to_string(),
        "/run/podman/podman.sock"
    );
    assert!(!attestor.podman.trusts_users());
    let error = config(r#"{"docker_socket_path":"tcp://engine:1","docker_tls_ca_path":""}"#);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("must name files"), "{error}");
    for podman in ["podman_socket_path", "podman_socket_path_template"] {
        let error = config(&format!(r#"{{"{podman}":"tcp://engine:%d"}}"#)).unwrap_err();
        assert!(error.to_string().contains("unix:///path"), "{error}");
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
