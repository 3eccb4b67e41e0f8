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

impl FakeEngine {
    fn start(version: &str, mut answers: Vec<(u16, &'static str)>) -> Self {
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
                let (status, body) = if answers.len() > 1 {
                    answers.remove(0)
                } else {
                    answers[0]
                };
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self {
            engine: Engine::new(socket, version),
            asked,
            _tasks: tasks,
            _folder: folder,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn texts(selectors: &[Selector]) -> Vec<String> {
    selectors.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn labels_environment_and_image_become_selectors() {
    let fake = FakeEngine::start("", vec![(200, CONTAINER), (200, r#"{"Id":"sha256:aaaa"}"#)]);

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
        "1.41",
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
    let fake = FakeEngine::start("", vec![(404, "{\"message\":\"No such container\"}\n")]);

    let error = inspect(&fake.engine, ID).await.unwrap_err();

    assert_eq!(
        error.to_string(),
        "container engine answered 404 Not Found: {\"message\":\"No such container\"}"
    );
    assert_eq!(fake.asked().len(), 4);
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_named() {
    let engine = Engine::new("/no/such/docker.sock".into(), "");

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
    let kept = KeptSelectors::default();
    let selectors = vec![Selector::new(NAME, "label:a:b").unwrap()];

    kept.keep(Path::new("/one.sock"), ID, &selectors);

    assert_eq!(kept.find(Path::new("/one.sock"), ID), Some(selectors));
    assert_eq!(kept.find(Path::new("/two.sock"), ID), None);
    assert_eq!(kept.find(Path::new("/one.sock"), "other"), None);
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
    let find = |paths: &[&str]| {
        let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
        matchers.find(&paths).ok()
    };

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

#[test]
fn only_unix_sockets_are_engines() {
    for address in [
        "tcp://127.0.0.1:2375",
        "/var/run/docker.sock",
        "unix://docker.sock",
    ] {
        let error = socket_path("docker_socket_path", address).unwrap_err();
        assert!(error.to_string().contains(address), "{error}");
    }
}

#[tokio::test]
async fn the_engine_tells_the_process_of_a_container() {
    let running = r#"{"Id":"30659a","State":{"Pid":4242},"Config":{}}"#;
    let fake = FakeEngine::start("", vec![(200, running)]);
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
        let engine = Engine::new(socket.clone(), "");
        chain(&engine.container(ID).await.unwrap_err()).to_string()
    };

    assert!(reason().await.contains("mount the engine's socket"));
    drop(UnixListener::bind(&socket).unwrap());
    assert!(reason().await.contains("nobody listens there"));
    let proxy = FakeEngine::start("", vec![(403, "Forbidden")]);
    let refused = proxy.engine.container(ID).await.unwrap_err().to_string();
    assert!(refused.contains("a socket proxy must allow"), "{refused}");
}
