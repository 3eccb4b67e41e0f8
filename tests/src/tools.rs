//! The programs of others that suites use. A missing one skips its suite with a word, or fails it when `CI=true`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

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
            let test = std::env::current_exe().expect("a test has a path");
            // …/target/PROFILE/deps/NAME-HASH
            let profile = test
                .parent()
                .and_then(Path::parent)
                .expect("a test lies two folders down");
            let target = profile.parent().expect("a profile lies in a target folder");
            let mut command = Command::new(env!("CARGO"));
            command
                .args(["build", "--quiet", "--target-dir"])
                .arg(target)
                .args([
                    "-p",
                    "finial-server",
                    "-p",
                    "finial-agent",
                    "-p",
                    "finial",
                    "--bins",
                ])
                .current_dir(folder());
            if profile.ends_with("release") {
                command.arg("--release");
            }
            let status = command.status().expect("cargo starts");
            assert!(status.success(), "finial's programs do not build");
            profile.to_owned()
        })
        .join(name)
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

/// A container engine that answers Docker's command line.
pub fn docker() -> Option<()> {
    static FOUND: OnceLock<Option<()>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let answers = succeeds(Command::new("docker").arg("info"));
        found(answers.then_some(()), "a running Docker engine")
    })
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
