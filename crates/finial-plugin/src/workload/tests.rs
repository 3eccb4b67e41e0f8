use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command};

use nix::unistd::{getegid, geteuid};

use super::*;

type Capture = fn(&UnixStream) -> Result<Peer, CaptureError>;

/// Both ways to hold a process, so that old kernels are tested too.
const WAYS: [Capture; 2] = [
    |socket| Peer::capture(socket),
    |socket| Peer::capture_without_pidfd(socket),
];

/// Not a test of its own: what a child process of the tests below does.
#[test]
fn a_child_connects_and_waits_for_the_end() {
    let Some(path) = std::env::var_os("FINIAL_TEST_CONNECT_TO") else {
        return;
    };
    let mut socket = UnixStream::connect(path).unwrap();
    let mut end = Vec::new();
    socket.read_to_end(&mut end).unwrap();
}

fn connect_from_child(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "workload::tests::a_child_connects_and_waits_for_the_end",
        ])
        .env("FINIAL_TEST_CONNECT_TO", path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

struct Connected {
    child: Child,
    socket: UnixStream,
    _folder: Folder,
}

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn connected_child(name: &str) -> Connected {
    let folder =
        std::env::temp_dir().join(format!("finial-workload-{name}-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let child = connect_from_child(&path);
    let (socket, _) = listener.accept().unwrap();
    Connected {
        child,
        socket,
        _folder: Folder(folder),
    }
}

#[test]
fn the_peer_of_a_connection_is_read_and_verified() {
    for (way, capture) in WAYS.iter().enumerate() {
        let mut connected = connected_child(&format!("verified-{way}"));

        let peer = capture(&connected.socket).unwrap();
        let workload = peer.open().unwrap();

        assert_eq!(peer.pid(), i32::try_from(connected.child.id()).unwrap());
        assert_eq!(
            (peer.uid(), peer.gid()),
            (geteuid().as_raw(), getegid().as_raw())
        );
        assert_eq!(
            workload.exe_path().unwrap(),
            std::env::current_exe().unwrap()
        );
        let status = workload.read_text("status", STATUS_LIMIT_BYTES).unwrap();
        assert!(
            status.contains(&format!("\nPid:\t{}\n", peer.pid())),
            "{status}"
        );
        workload.verify().unwrap();
        drop(connected.socket);
        connected.child.wait().unwrap();
    }
}

#[test]
fn a_peer_that_exits_while_it_is_attested_is_refused() {
    for (way, capture) in WAYS.iter().enumerate() {
        let mut connected = connected_child(&format!("exits-{way}"));
        let peer = capture(&connected.socket).unwrap();
        let workload = peer.open().unwrap();

        drop(connected.socket);
        connected.child.wait().unwrap();

        assert!(!workload.is_alive());
        assert!(matches!(workload.verify(), Err(WorkloadError::Gone { .. })));
        assert!(matches!(
            workload.read("status", STATUS_LIMIT_BYTES),
            Err(WorkloadError::Gone { .. })
        ));
        assert!(matches!(peer.open(), Err(WorkloadError::Gone { .. })));
    }
}

#[test]
fn a_peer_that_exited_before_accept_is_refused() {
    let folder = std::env::temp_dir().join(format!("finial-workload-early-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let folder = Folder(folder);
    let path = folder.0.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut child = connect_from_child(&path);
    let (socket, _) = listener.accept().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();

    for capture in WAYS {
        match capture(&socket) {
            // Linux 6.16 and later still give a pidfd, of a process that has exited.
            Ok(peer) => assert!(matches!(peer.open(), Err(WorkloadError::Gone { .. }))),
            Err(error) => assert!(matches!(error, CaptureError::Gone { .. }), "{error}"),
        }
    }
}

#[test]
fn a_zombie_is_refused() {
    for (way, capture) in WAYS.iter().enumerate() {
        let mut connected = connected_child(&format!("zombie-{way}"));
        let peer = capture(&connected.socket).unwrap();
        let workload = peer.open().unwrap();

        connected.child.kill().unwrap();
        let mut end = Vec::new();
        // The kernel closes it when the process is on its way out; unread bytes make that an error.
        drop(connected.socket.read_to_end(&mut end));
        let deadline =
            std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() + Duration::from_secs(10);
        while workload.is_alive() && std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() < deadline
        {
            std::thread::yield_now();
        }

        assert!(matches!(workload.verify(), Err(WorkloadError::Gone { .. })));
        connected.child.wait().unwrap();
    }
}

#[test]
fn a_process_that_took_over_the_number_of_the_peer_is_refused() {
    let (socket, _other) = UnixStream::pair().unwrap();
    let genuine = Peer::capture_without_pidfd(&socket).unwrap();
    let directory = Arc::new(open_directory(genuine.pid()).unwrap());
    let handle = Arc::new(Handle::Directory {
        directory,
        start_time: 1,
    });
    let recycled = Peer { handle, ..genuine };

    assert!(genuine.open().is_ok());
    assert!(matches!(recycled.open(), Err(WorkloadError::Gone { .. })));
}

#[test]
fn a_process_that_became_another_user_is_refused() {
    let (socket, _other) = UnixStream::pair().unwrap();
    let peer = Peer::capture(&socket).unwrap();
    let before = Peer {
        uid: peer.uid() + 1,
        ..peer
    };

    let verified = before.open().unwrap().verify();

    assert!(
        matches!(verified, Err(WorkloadError::Changed { .. })),
        "{verified:?}"
    );
}

#[test]
fn a_file_beyond_its_limit_is_refused() {
    let (socket, _other) = UnixStream::pair().unwrap();
    let workload = Peer::capture(&socket).unwrap().open().unwrap();

    assert!(matches!(
        workload.read("status", 10),
        Err(WorkloadError::TooLarge {
            limit_bytes: 10,
            ..
        })
    ));
    assert!(
        workload
            .read("no-such-file", 10)
            .unwrap_err()
            .is_missing_file()
    );
}

#[test]
fn the_name_of_a_command_cannot_move_the_start_time() {
    let stat = |name: &str, state: &str| {
        let numbers: Vec<_> = (4..=52).map(|field| field.to_string()).collect();
        format!("77 ({name}) {state} {}\n", numbers.join(" "))
    };

    assert_eq!(parse_start_time(stat("web", "S").as_bytes()), Some(22));
    assert_eq!(
        parse_start_time(stat("a) R 1 2 (b", "S").as_bytes()),
        Some(22)
    );
    assert_eq!(parse_start_time(stat("web", "Z").as_bytes()), None);
    assert_eq!(parse_start_time(b"77 (web) S 1 2"), None);
    assert_eq!(parse_start_time(b""), None);
}

#[test]
fn a_process_can_be_taken_by_its_number() {
    let pid = i32::try_from(std::process::id()).unwrap();
    let peer = Peer::of_pid(pid).unwrap();

    assert_eq!(peer.uid(), geteuid().as_raw());
    peer.open().unwrap().verify().unwrap();
    for nobody in [0, -1, i32::MAX] {
        assert!(matches!(
            Peer::of_pid(nobody),
            Err(WorkloadError::Gone { .. })
        ));
    }
}
