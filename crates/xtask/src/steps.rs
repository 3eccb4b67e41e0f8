//! The steps of `lint`, each a command line that can be run by hand.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::layers;

pub(crate) fn lint() -> Result<()> {
    run("cargo fmt --all --check", &[])?;
    run(
        "cargo clippy --workspace --all-targets --quiet -- -D warnings",
        &[],
    )?;
    layers::check()?;
    run(
        "cargo doc --workspace --no-deps --document-private-items --quiet",
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    if installed("cargo deny --version") {
        // The advisory database lives on a code host; where that can be reached, `cargo deny check` adds it.
        run(
            "cargo deny --config .deny.toml check licenses bans sources",
            &[],
        )?;
    } else {
        say("skipped: cargo deny is not installed (cargo install cargo-deny)");
    }
    Ok(())
}

fn run(line: &str, environment: &[(&str, &str)]) -> Result<()> {
    say(&format!("$ {line}"));
    let status = command(line)
        .envs(environment.iter().copied())
        .status()
        .with_context(|| format!("failed to start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed");
    }
    Ok(())
}

fn installed(line: &str) -> bool {
    command(line)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn command(line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Prints one line to standard error.
pub(crate) fn say(line: &str) {
    // A closed standard error leaves nobody to tell.
    drop(writeln!(std::io::stderr(), "{line}"));
}
