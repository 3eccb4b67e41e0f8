//! The command line as SPIRE's users and their scripts know it.
//!
//! Flags follow Go's rules, not POSIX's: one dash or two, `-x v` or `-x=v`, booleans only with `=`, and the first word
//! that is not a flag ends them. Exit codes are part of the contract: 127 for a command that does not exist, 1 for
//! everything that failed.

mod app;
mod console;
pub mod flags;
mod output;
pub mod socket;

pub use app::{App, Command};
pub use console::Console;
pub use flags::{FlagSet, Flags};
pub use output::{OUTPUT_FLAG, Output, drop_nulls, print_json};

/// The exit code of a command.
pub type Code = u8;

/// Success.
pub const OK: Code = 0;
/// The command failed.
pub const FAILED: Code = 1;
/// There is no such command.
pub const UNKNOWN_COMMAND: Code = 127;
