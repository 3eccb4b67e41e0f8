//! The `finial-agent` program.

use std::process::ExitCode;

use finial_agent::cli::APP;
use finial_runtime::cli::Console;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    ExitCode::from(APP.run(&words, &mut Console::standard()))
}
