//! Developer tasks: `cargo xtask lint` runs everything that CI checks, in the same order, and stops at the first failure.

mod layers;
mod steps;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Developer tasks of finial")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Format, Clippy, layers, rustdoc and `cargo deny` (skipped with a word when it is not installed).
    Lint,
    /// Only the layer rules that `cargo deny` cannot express.
    Layers,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Lint => steps::lint(),
        Task::Layers => layers::check(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            steps::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
