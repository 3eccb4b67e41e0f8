//! Which version of the API an engine is asked in.

use super::*;

/// What an engine, or a proxy before it, accepts.
#[derive(Debug, Clone, Copy)]
struct Accepts {
    oldest: (u32, u32),
    newest: (u32, u32),
    /// What `/_ping` is answered with.
    ping: Ping,
}

#[derive(Debug, Clone, Copy)]
enum Ping {
    Tells,
    Silent,
    Fails(u16),
}

impl Accepts {
    fn versions(oldest: (u32, u32), newest: (u32, u32)) -> Self {
        Self {
            oldest,
            newest,
            ping: Ping::Tells,
        }
    }

    fn answer(self, path: &str) -> Reply {
        let (major, minor) = self.newest;
        if path == "/_ping" {
            return match self.ping {
                Ping::Tells => Reply::ping(&format!("{major}.{minor}")),
                Ping::Silent => Reply::of(200, "OK"),
                Ping::Fails(status) => Reply::of(status, "no"),
            };
        }
        let version = path.strip_prefix("/v").and_then(|path| {
            let (version, _) = path.split_once('/')?;
            let (major, minor) = version.split_once('.')?;
            Some((version, (major.parse().ok()?, minor.parse().ok()?)))
        });
        match version {
            Some((version, asked)) if asked < self.oldest => Reply::of(
                400,
                &format!(
                    r#"{{"message":"client version {version} is too old. Minimum supported API version is {}.{}, please upgrade your client to a newer version"}}"#,
                    self.oldest.0, self.oldest.1
                ),
            ),
            Some((version, asked)) if asked > self.newest => Reply::of(
                400,
                &format!(
                    r#"{{"message":"client version {version} is too new. Maximum supported API version is {major}.{minor}"}}"#
                ),
            ),
            _ => Reply::of(200, CONTAINER),
        }
    }
}

/// An engine whose rules can be changed, and which does what it likes to answer by them.
fn start(version: &str, accepts: Accepts) -> (FakeEngine, Arc<Mutex<Accepts>>) {
    let rules = Arc::new(Mutex::new(accepts));
    let version = Version::configured(version).unwrap();
    let fake = FakeEngine::serve(version, {
        let rules = Arc::clone(&rules);
        move |path| rules.lock().unwrap().answer(path)
    });
    (fake, rules)
}

fn path(version: &str) -> String {
    format!("{version}/containers/{ID}/json")
}

#[tokio::test]
async fn the_newest_version_that_both_sides_know_is_agreed_on_once() {
    for (accepts, version) in [
        (Accepts::versions((1, 44), (1, 55)), "/v1.47"),
        (Accepts::versions((1, 24), (1, 47)), "/v1.47"),
        (Accepts::versions((1, 12), (1, 41)), "/v1.41"),
        (Accepts::versions((1, 24), (1, 24)), "/v1.24"),
    ] {
        let (fake, _) = start("", accepts);
        for _ in 0..2 {
            fake.engine.container(ID).await.unwrap();
        }
        let asked = ["/_ping".to_owned(), path(version), path(version)];
        assert_eq!(fake.asked(), asked);
    }
}

#[tokio::test]
async fn no_version_is_named_to_an_engine_that_does_not_tell() {
    for ping in [
        Ping::Fails(403),
        Ping::Fails(404),
        Ping::Fails(405),
        Ping::Silent,
    ] {
        let accepts = Accepts {
            ping,
            ..Accepts::versions((1, 44), (1, 55))
        };
        let (fake, _) = start("", accepts);
        for _ in 0..2 {
            fake.engine.container(ID).await.unwrap();
        }
        assert_eq!(fake.asked(), ["/_ping".to_owned(), path(""), path("")]);
    }
}

#[tokio::test]
async fn an_engine_in_no_state_to_tell_is_asked_again_the_next_time() {
    let accepts = Accepts {
        ping: Ping::Fails(503),
        ..Accepts::versions((1, 24), (1, 41))
    };
    let (fake, rules) = start("", accepts);
    fake.engine.container(ID).await.unwrap();
    rules.lock().unwrap().ping = Ping::Tells;
    fake.engine.container(ID).await.unwrap();
    assert_eq!(
        fake.asked(),
        [
            "/_ping".to_owned(),
            path(""),
            "/_ping".to_owned(),
            path("/v1.41")
        ]
    );
}

#[tokio::test]
async fn another_engine_at_the_same_address_is_agreed_with_anew() {
    let (fake, rules) = start("", Accepts::versions((1, 12), (1, 41)));
    fake.engine.container(ID).await.unwrap();
    // Upgraded beyond the version in use, then taken back.
    *rules.lock().unwrap() = Accepts::versions((1, 44), (1, 52));
    fake.engine.container(ID).await.unwrap();
    fake.engine.container(ID).await.unwrap();
    *rules.lock().unwrap() = Accepts::versions((1, 12), (1, 41));
    fake.engine.container(ID).await.unwrap();
    assert_eq!(
        fake.asked(),
        [
            "/_ping".to_owned(),
            path("/v1.41"),
            path("/v1.41"),
            "/_ping".to_owned(),
            path("/v1.47"),
            path("/v1.47"),
            path("/v1.47"),
            "/_ping".to_owned(),
            path("/v1.41"),
        ]
    );
}

#[tokio::test]
async fn an_engine_of_the_future_is_asked_in_its_own_version() {
    let (fake, _) = start("", Accepts::versions((1, 60), (1, 70)));
    for _ in 0..2 {
        fake.engine.container(ID).await.unwrap();
    }
    assert_eq!(
        fake.asked(),
        [
            "/_ping".to_owned(),
            path("/v1.47"),
            "/_ping".to_owned(),
            path(""),
            path(""),
        ]
    );
}

#[tokio::test]
async fn an_engine_that_was_out_of_reach_is_agreed_with_anew() {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("docker.sock");
    let client = Engine::new(
        Address::Unix {
            path: address.clone(),
            owner: None,
        },
        Version::configured("").unwrap(),
    );
    for newest in [(1, 41), (1, 44)] {
        let (fake, _) = start("", Accepts::versions((1, 24), newest));
        std::os::unix::fs::symlink(fake.socket(), &address).unwrap();
        client.container(ID).await.unwrap();
        let version = format!("/v{}.{}", newest.0, newest.1);
        assert_eq!(fake.asked(), ["/_ping".to_owned(), path(&version)]);
        std::fs::remove_file(&address).unwrap();
        client.container(ID).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_version_of_the_configuration_is_used_as_it_is() {
    let accepts = Accepts::versions((1, 44), (1, 55));
    let (fake, _) = start(" v1.45 ", accepts);
    fake.engine.container(ID).await.unwrap();
    assert_eq!(fake.asked(), [path("/v1.45")]);

    let (fake, _) = start("1.41", accepts);
    let error = fake.engine.container(ID).await.unwrap_err().to_string();
    assert!(error.contains("Minimum supported API version"), "{error}");
    assert!(error.contains("correct docker_version"), "{error}");
    assert_eq!(fake.asked(), [path("/v1.41")]);
    for wrong in ["latest", "vv1.41", "1", "1.41.1", "v"] {
        let found = Version::configured(wrong);
        assert_eq!(found.is_err(), wrong != "v", "{wrong}");
    }
}
