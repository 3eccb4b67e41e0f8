use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use finial_plugin::workload::Peer;
use finial_runtime::clock::SystemClock;
use nix::unistd::{getegid, geteuid};
use sha2::{Digest as _, Sha256};

use super::*;

fn myself() -> Workload {
    let (socket, _other) = UnixStream::pair().unwrap();
    Peer::capture(&socket).unwrap().open().unwrap()
}

async fn attest(config: UnixConfig) -> Vec<String> {
    let found = UnixAttestor::new(config, SystemClock::shared())
        .attest(&myself())
        .await
        .unwrap();
    found.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn ids_of_the_process_become_selectors() {
    let found = attest(UnixConfig::default()).await;

    assert_eq!(found[0], format!("unix:uid:{}", geteuid()));
    assert!(
        found.contains(&format!("unix:gid:{}", getegid())),
        "{found:?}"
    );
    if geteuid().is_root() {
        assert!(found.contains(&"unix:user:root".to_owned()), "{found:?}");
        assert!(found.contains(&"unix:group:root".to_owned()), "{found:?}");
    }
    assert!(
        !found
            .iter()
            .any(|selector| selector.starts_with("unix:path:")),
        "{found:?}"
    );
}

#[tokio::test]
async fn the_executable_is_named_and_hashed_on_demand() {
    let found = attest(UnixConfig {
        discover_workload_path: true,
        workload_size_limit: 0,
    })
    .await;

    let exe = std::env::current_exe().unwrap();
    let digest = hex::encode(Sha256::digest(std::fs::read(&exe).unwrap()));
    assert!(
        found.contains(&format!("unix:path:{}", exe.display())),
        "{found:?}"
    );
    assert!(
        found.contains(&format!("unix:sha256:{digest}")),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_negative_size_limit_leaves_the_digest_out() {
    let found = attest(UnixConfig {
        discover_workload_path: true,
        workload_size_limit: -1,
    })
    .await;

    assert!(
        found
            .iter()
            .any(|selector| selector.starts_with("unix:path:")),
        "{found:?}"
    );
    assert!(
        !found
            .iter()
            .any(|selector| selector.starts_with("unix:sha256:")),
        "{found:?}"
    );
}

#[test]
fn an_executable_beyond_the_limit_is_refused_by_name_and_size() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"12345").unwrap();

    let error = check_size(file.as_file(), Path::new("/bin/web"), 4).unwrap_err();

    assert_eq!(
        error.to_string(),
        "SHA256 digest: workload /bin/web exceeds size limit (5 > 4)"
    );
    check_size(file.as_file(), Path::new("/bin/web"), 5).unwrap();
    check_size(file.as_file(), Path::new("/bin/web"), 0).unwrap();
}

#[tokio::test]
async fn an_executable_beyond_the_limit_fails_the_attestor() {
    let config = UnixConfig {
        discover_workload_path: true,
        workload_size_limit: 1,
    };
    let attestor = UnixAttestor::new(config, SystemClock::shared());

    assert!(attestor.attest(&myself()).await.is_err());
}

#[test]
fn supplementary_groups_are_read_from_status() {
    assert_eq!(
        supplementary_groups("Gid:\t1\t2\t3\t4\nGroups:\t4 24 27 \nNStgid:\t9\n"),
        [4, 24, 27]
    );
    assert_eq!(supplementary_groups("Groups:\t \n"), [0; 0]);
    assert_eq!(supplementary_groups("Name:\tx\n"), [0; 0]);
}

/// A program that would take minutes to read: most of it is a hole.
struct Endless {
    _folder: tempfile::TempDir,
    process: std::process::Child,
}

impl Endless {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endless");
        std::fs::copy("/bin/sleep", &path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        drop(file);
        let process = std::process::Command::new(&path).arg("600").spawn();
        Self {
            _folder: folder,
            process: process.unwrap(),
        }
    }

    fn workload(&self) -> Workload {
        let pid = i32::try_from(self.process.id()).unwrap();
        Peer::of_pid(pid).unwrap().open().unwrap()
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn an_executable_is_read_only_while_somebody_waits() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let program = Endless::start();

    let free = runtime.block_on(async {
        let config = UnixConfig {
            discover_workload_path: true,
            workload_size_limit: 0,
        };
        let attestor = UnixAttestor::new(config, SystemClock::shared());
        let workload = program.workload();
        let attested = tokio::time::timeout(Duration::from_secs(1), attestor.attest(&workload));
        assert!(attested.await.is_err(), "a terabyte in a second");
        let next = tokio::task::spawn_blocking(|| ());
        tokio::time::timeout(Duration::from_secs(10), next).await
    });
    runtime.shutdown_background();

    assert!(free.is_ok(), "the only thread goes on reading");
}
