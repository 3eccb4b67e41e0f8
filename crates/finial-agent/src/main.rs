//! The `finial-agent` program.

use std::process::ExitCode;

use finial_agent::cli::APP;

fn main() -> ExitCode {
    APP.main()
}
