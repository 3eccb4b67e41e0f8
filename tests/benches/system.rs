//! The figures that the README states, measured on whole programs: ours and, when `FINIAL_TEST_SPIRE` names a folder with
//! SPIRE's, theirs in the same run.
//!
//! `cargo bench -p finial-tests --bench system` (all), or with names after `--`: `start`, `latency`, `svids`, `fetches`,
//! `streams`, `agents`, `entries`, `docker`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints and ends by panicking"
)]

mod agents;
mod docker;
mod entries;
mod fetches;
mod latency;
mod node;
mod start;
mod streams;
mod svids;

use std::time::Duration;

use finial_tests::lab::Make;
use finial_tests::tools;

/// A measurement and its name.
type Measurement = (&'static str, fn(&Make));

fn main() {
    finial_pki::tls::install_provider();
    // Cargo hands `--bench` on; what remains are names.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let mut makes = vec![Make::Finial];
    makes.extend(tools::spire().map(Make::Spire));
    let measurements: [Measurement; 8] = [
        ("start", start::measure),
        ("latency", latency::measure),
        ("svids", svids::measure),
        ("fetches", fetches::measure),
        ("streams", streams::measure),
        ("agents", agents::measure),
        ("entries", entries::measure),
        ("docker", docker::measure),
    ];
    for (name, measure) in measurements {
        if !wanted.is_empty() && !wanted.iter().any(|word| word == name) {
            continue;
        }
        for make in &makes {
            measure(make);
        }
    }
}

/// Who is measured, for the first column.
fn label(make: &Make) -> &'static str {
    match make {
        Make::Finial => "finial",
        Make::Spire(_) => "SPIRE",
    }
}

/// Prints one figure.
fn figure(make: &Make, what: &str, value: &str) {
    println!("{:<7} {what:<58} {value}", label(make));
}

/// The value below which `share` of the samples lie.
fn quantile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index into a short list"
    )]
    let index = ((samples.len() - 1) as f64 * share).round() as usize;
    samples.get(index).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_micros() as f64 / 1000.0)
}

/// A rate over a measured time.
#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}
