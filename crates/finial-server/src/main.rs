//! The `finial-server` program.

use std::process::ExitCode;

use finial_runtime::cli::Console;
use finial_server::cli::APP;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    ExitCode::from(APP.run(&words, &mut Console::standard()))
}
