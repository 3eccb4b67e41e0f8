//! The `finial-server` program.

use std::process::ExitCode;

use finial_server::cli::APP;

fn main() -> ExitCode {
    APP.main()
}
