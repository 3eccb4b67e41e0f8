//! The command line of the agent: SPIRE's commands, flags, output and exit codes.

mod admin;
mod client;
mod debug;
mod explain;
mod fetch;
mod health;
mod logger;
mod run;
mod svids;
mod watch;

use finial_runtime::cli::{App, Command};

/// Every command.
pub const APP: App = App {
    name: "finial-agent",
    version: env!("CARGO_PKG_VERSION"),
    commands: &[
        Command {
            name: "api fetch",
            synopsis: "Fetches X509 SVIDs from the Workload API",
            flags: fetch::flags,
            run: fetch::x509,
        },
        Command {
            name: "api fetch jwt",
            synopsis: "Fetches a JWT SVID from the Workload API (not supported yet)",
            flags: fetch::jwt_flags,
            run: fetch::jwt,
        },
        Command {
            name: "api fetch x509",
            synopsis: "Fetches X509 SVIDs from the Workload API",
            flags: fetch::flags,
            run: fetch::x509,
        },
        Command {
            name: "api watch",
            synopsis: "Attaches to the Workload API and prints updates as they're received",
            flags: watch::flags,
            run: watch::run,
        },
        Command {
            name: "debug getinfo",
            synopsis: "Prints debug information about the agent",
            flags: debug::flags,
            run: debug::getinfo,
        },
        Command {
            name: "explain",
            synopsis: "Says why a process has the identities it has, or none",
            flags: explain::flags,
            run: explain::run,
        },
        Command {
            name: "healthcheck",
            synopsis: "Determines agent health status",
            flags: health::flags,
            run: health::run,
        },
        Command {
            name: "logger get",
            synopsis: "Gets the logger details",
            flags: logger::get_flags,
            run: logger::get,
        },
        Command {
            name: "logger reset",
            synopsis: "Reset the logger details to launch level",
            flags: logger::reset_flags,
            run: logger::reset,
        },
        Command {
            name: "logger set",
            synopsis: "Sets the logger details",
            flags: logger::set_flags,
            run: logger::set,
        },
        Command {
            name: "run",
            synopsis: "Runs the agent",
            flags: run::run_flags,
            run: run::run,
        },
        Command {
            name: "validate",
            synopsis: "Validates a SPIRE agent configuration file",
            flags: run::validate_flags,
            run: run::validate,
        },
    ],
};
