//! The layer rules that `cargo deny` cannot express: what a pure crate may use, and who may switch on test support.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// `spiffe-types` parses and nothing else: no runtime, no I/O, no other crate of ours.
const PURE: (&str, &[&str]) = (
    "spiffe-types",
    &[
        "finial-", "rcgen", "rustls", "sqlx", "tokio", "tonic", "tracing",
    ],
);

/// The libraries see plugins only through traits; their binaries, which are `main.rs` and `cli`, hand the registry in.
const WIRED_IN_BINARY: &[&str] = &["finial-server", "finial-agent"];

pub(crate) fn check() -> Result<()> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the manifest lies in a folder")?
        .to_owned();
    let mut faults = Vec::new();

    let (pure, banned) = PURE;
    for name in section(&crates.join(pure).join("Cargo.toml"), "[dependencies]")? {
        if banned.iter().any(|prefix| name.starts_with(prefix)) {
            faults.push(format!("{pure} must not depend on {name}"));
        }
    }

    for name in WIRED_IN_BINARY {
        let root = crates.join(name).join("src");
        for file in sources(&root)? {
            if file == root.join("main.rs") || file.starts_with(root.join("cli")) {
                continue;
            }
            if fs::read_to_string(&file)?.contains("finial_plugins::") {
                faults.push(format!(
                    "{} names finial_plugins; only main.rs and cli may",
                    file.display()
                ));
            }
        }
    }

    for folder in fs::read_dir(&crates)? {
        let manifest = folder?.path().join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        for line in lines_of(&manifest, "[dependencies]")? {
            if line.contains("\"testing\"") {
                faults.push(format!(
                    "{} switches on a `testing` feature outside its tests",
                    manifest.display()
                ));
            }
        }
    }

    if !faults.is_empty() {
        bail!("layer rules broken:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// The names in one table of a manifest.
fn section(manifest: &Path, header: &str) -> Result<Vec<String>> {
    Ok(lines_of(manifest, header)?
        .iter()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

fn lines_of(manifest: &Path, header: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(manifest)
        .with_context(|| format!("failed to read {}", manifest.display()))?;
    Ok(text
        .lines()
        .skip_while(|line| line.trim() != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .map(str::to_owned)
        .collect())
}

fn sources(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}
