//! The programs of others that suites use. A missing one skips its suite with a word, or fails it when `CI=true`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use crate::wait;

/// The folder of the whole-system tests.
pub fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Our own program of that name, built with the profile that the tests were built with, or taken from the folder that
/// `FINIAL_TEST_PROGRAMS` names.
///
/// # Panics
/// When it does not build.
#[expect(clippy::expect_used, reason = "a test ends by panicking")]
pub fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            if let Some(built) = std::env::var_os("FINIAL_TEST_PROGRAMS") {
                return PathBuf::from(built);
            }
            let profile = profile_folder();
            let mut command = cargo("build", &profile);
            command.args(["-p", "finial-server", "-p", "finial-agent", "-p", "finial"]);
            let status = command.arg("--bins").status().expect("cargo starts");
            assert!(status.success(), "finial's programs do not build");
            profile
        })
        .join(name)
}

/// The folder with `finial-server` and `finial-agent` linked statically, as an image that holds nothing else needs them. Only
/// what is linked last is built anew.
///
/// # Panics
/// When they do not build.
#[expect(clippy::expect_used, reason = "a test ends by panicking")]
pub fn static_programs() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            if let Some(built) = std::env::var_os("FINIAL_TEST_PROGRAMS") {
                return PathBuf::from(built);
            }
            let profile = profile_folder();
            let folder = profile.join("static");
            std::fs::create_dir_all(&folder).expect("the target folder is writable");
            for name in ["finial-server", "finial-agent"] {
                let mut command = cargo("rustc", &profile);
                command.args(["-p", name, "--bin", name, "--", "-C"]);
                // A file of its own: other suites run the program of that name in the folder above.
                let emit = format!("--emit=link={}", folder.join(name).display());
                let status = command.args(["target-feature=+crt-static", &emit]).status();
                assert!(
                    status.expect("cargo starts").success(),
                    "{name} cannot be linked statically; distributions keep libc.a in a package such as glibc-static"
                );
            }
            folder
        })
        .clone()
}

/// The folder of the programs built with the profile of this test: it lies in `…/target/PROFILE/deps`.
#[expect(clippy::expect_used, reason = "a test ends by panicking")]
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.parent().and_then(Path::parent);
    profile.expect("a test lies two folders down").to_owned()
}

fn cargo(verb: &str, profile: &Path) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .args([verb, "--quiet", "--target-dir"])
        .arg(profile.parent().unwrap_or(profile))
        .current_dir(folder());
    if profile.ends_with("release") {
        command.arg("--release");
    }
    command
}

/// A Python interpreter that has the packages of `tests/interop/requirements.txt`.
///
/// `FINIAL_TEST_PYTHON` names one; otherwise `python3` is asked.
pub fn python() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let python = std::env::var_os("FINIAL_TEST_PYTHON")
                .map_or_else(|| PathBuf::from("python3"), PathBuf::from);
            let works =
                succeeds(Command::new(&python).args(["-c", "import grpc, spiffe, cryptography"]));
            found(
                works.then_some(python),
                "python3 with the packages of tests/interop/requirements.txt",
            )
        })
        .clone()
}

/// The `openssl` program.
pub fn openssl() -> Option<PathBuf> {
    let works = succeeds(Command::new("openssl").arg("version"));
    found(works.then(|| PathBuf::from("openssl")), "openssl")
}

/// The go-spiffe watcher of `tests/interop/go`, built here.
///
/// # Panics
/// When Go is there but the watcher does not build.
#[expect(clippy::panic, reason = "a test ends by panicking")]
pub fn go_watcher() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            found(
                succeeds(Command::new("go").arg("version")).then_some(()),
                "go",
            )?;
            let program = binary("go-x509-watch");
            let status = Command::new("go")
                .args(["build", "-o"])
                .arg(&program)
                .arg(".")
                .current_dir(folder().join("interop/go"))
                .status();
            match status {
                Ok(status) if status.success() => Some(program),
                other => panic!("the go-spiffe watcher does not build: {other:?}"),
            }
        })
        .clone()
}

/// A container engine that answers Docker's command line, for as long as the guard is held: whoever restarts the engine waits.
pub fn docker() -> Option<RwLockReadGuard<'static, ()>> {
    static FOUND: OnceLock<Option<()>> = OnceLock::new();
    let engine = ENGINE.read().unwrap_or_else(PoisonError::into_inner);
    let answers = FOUND.get_or_init(|| {
        let answers = succeeds(Command::new("docker").arg("info"));
        found(answers.then_some(()), "a running Docker engine")
    });
    answers.is_some().then_some(engine)
}

/// Restarts the container engine while no other test uses it, with the command that `FINIAL_TEST_ENGINE_RESTART` names, and
/// waits until it answers. `None` when none is named.
///
/// # Panics
/// When the command fails, or the engine does not answer within a minute.
#[expect(clippy::expect_used, reason = "a test ends by panicking")]
pub fn restart_engine() -> Option<()> {
    let command = found(
        std::env::var_os("FINIAL_TEST_ENGINE_RESTART"),
        "a command in FINIAL_TEST_ENGINE_RESTART that restarts the Docker engine",
    )?;
    let _alone = ENGINE.write().unwrap_or_else(PoisonError::into_inner);
    let status = Command::new("sh").arg("-c").arg(command).status();
    assert!(
        status.expect("a shell starts").success(),
        "the engine does not restart"
    );
    wait::until("the engine", Duration::from_mins(1), || {
        succeeds(Command::new("docker").arg("info")).then_some(())
    });
    Some(())
}

/// Podman, as root runs it.
pub fn podman() -> Option<()> {
    let works = succeeds(Command::new("podman").arg("version"));
    found(works.then_some(()), "podman")
}

/// Docker's Compose, from 2.24 on.
pub fn compose() -> Option<()> {
    let works = succeeds(Command::new("docker").args(["compose", "version"]));
    found(works.then_some(()), "docker compose")
}

/// An image with Python and pip: the one that `PYTHON_IMAGE` names, or the official one where it can be pulled.
pub fn python_image() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let name = std::env::var("PYTHON_IMAGE")
                .unwrap_or_else(|_| "docker.io/library/python:3.11-slim".to_owned());
            let there = succeeds(Command::new("docker").args(["image", "inspect", &name]))
                || succeeds(Command::new("docker").args(["pull", "-q", &name]));
            found(there.then_some(name), "an image with Python (PYTHON_IMAGE)")
        })
        .clone()
}

/// Whether this is root, who may run as anybody.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    found(root.then_some(()), "the right to change users").is_some()
}

/// A folder with the programs `spire-server` and `spire-agent`, named by `FINIAL_TEST_SPIRE`. Nothing here can fetch
/// them, so that their absence is no failure even in CI.
pub fn spire() -> Option<PathBuf> {
    let folder = std::env::var_os("FINIAL_TEST_SPIRE").map(PathBuf::from);
    if folder.is_none() {
        say("skipped: FINIAL_TEST_SPIRE does not name a folder with spire-server and spire-agent");
    }
    folder
}

fn found<T>(tool: Option<T>, what: &str) -> Option<T> {
    if tool.is_none() {
        assert!(
            std::env::var_os("CI").is_none_or(|value| value != "true"),
            "{what} is missing, and CI=true forbids to skip"
        );
        say(&format!("skipped: {what} is missing"));
    }
    tool
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Prints one line past the capture of the test runner: a skipped suite must be seen.
fn say(line: &str) {
    // A closed standard error leaves nobody to tell.
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Read by those who use the container engine, written by those who restart it.
static ENGINE: RwLock<()> = RwLock::new(());
