use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("private/api.sock");
    drop(bind_unix(&path, 0o777, 0o750).unwrap());
    assert!(
        !path.exists(),
        "what is not listened on any more is removed"
    );
    leave_stale(&path);

    let _socket = bind_unix(&path, 0o770, 0o750).unwrap();

    assert_eq!(mode(&path), 0o770);
    assert_eq!(names(path.parent().unwrap()), ["api.sock"]);
    UnixStream::connect(&path).unwrap();

    let file = dir.path().join("precious");
    std::fs::write(&file, "data").unwrap();
    assert!(matches!(
        bind_unix(&file, 0o770, 0o750),
        Err(ListenError::NotASocket { .. })
    ));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
    assert_eq!(names(dir.path()).len(), 2);
}

#[tokio::test]
async fn a_socket_somebody_listens_on_is_left_alone_and_the_error_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let socket = bind_unix(&path, 0o777, 0o755).unwrap();

    let error = bind_unix(&path, 0o777, 0o755).unwrap_err();

    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {}: another process (PID {}) answers there already; stop it first, or set another socket path",
            path.display(),
            std::process::id()
        )
    );
    assert!(check_unix(&path).is_err());
    assert_eq!(names(dir.path()), ["api.sock"]);
    UnixStream::connect(&path).unwrap();
    socket.listener().accept().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_start_at_once_on_a_stale_socket_one_gets_it_and_it_is_always_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    for _ in 0..50 {
        leave_stale(&path);
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let mut watchers = JoinSet::new();
        watchers.spawn_blocking({
            let (path, stop) = (path.clone(), std::sync::Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::fs::symlink_metadata(&path).expect("there is a socket at any moment");
                }
            }
        });
        let mut starters = JoinSet::new();
        for _ in 0..8 {
            let path = path.clone();
            starters.spawn(async move { bind_unix(&path, 0o777, 0o755) });
        }
        let outcomes = starters.join_all().await;
        stop.store(true, Ordering::Relaxed);
        watchers.join_all().await;

        let winners: Vec<_> = outcomes.iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        for error in refused {
            assert!(matches!(error, ListenError::InUse { .. }), "{error}");
        }
        UnixStream::connect(&path).unwrap();
        winners[0].listener().accept().await.unwrap();
        assert_eq!(names(dir.path()), ["api.sock"]);
    }
}

#[tokio::test]
async fn the_socket_of_a_successor_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let old = bind_unix(&path, 0o777, 0o755).unwrap();
    // As other programs do it, and operators.
    std::fs::remove_file(&path).unwrap();
    let _new = bind_unix(&path, 0o777, 0o755).unwrap();

    drop(old);

    UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn a_path_as_long_as_the_kernel_takes_can_be_listened_on() {
    let dir = tempfile::tempdir().unwrap();
    let room = 107 - dir.path().as_os_str().len() - 1;
    let path = dir.path().join("s".repeat(room));

    let _socket = bind_unix(&path, 0o777, 0o755).unwrap();

    UnixStream::connect(&path).unwrap();
}

#[test]
fn directories_in_which_others_could_replace_the_socket_are_found() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    let user = Uid::effective().as_raw();
    let dir = root.join("open/own");
    std::fs::create_dir_all(&dir).unwrap();
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set(&dir, 0o755);
    set(&root.join("open"), 0o755);
    assert_eq!(find_others(&dir, user), None);

    set(&dir, 0o1777);
    assert_eq!(find_others(&dir, user), None, "sticky");
    set(&dir, 0o777);
    let found = (dir.clone(), Others::Everybody(0o777));
    assert_eq!(find_others(&dir, user), Some(found));
    set(&dir, 0o755);
    set(&root.join("open"), 0o777);
    let found = (root.join("open"), Others::Everybody(0o777));
    assert_eq!(find_others(&dir, user), Some(found));

    set(&root.join("open"), 0o755);
    if user == 0 {
        std::os::unix::fs::chown(&dir, Some(12345), None).unwrap();
        let found = (dir.clone(), Others::Owner(12345));
        assert_eq!(find_others(&dir, user), Some(found));
        assert_eq!(find_others(&dir, 12345), None);
    }
}
