//! The one writer of a command.

use std::fmt;
use std::io::Write as _;

/// Where a command prints. A reader that went away is not an error worth reporting to it.
#[derive(Debug)]
pub struct Console {
    captured: Option<(String, String)>,
}

impl Console {
    /// The standard streams of the process.
    pub fn standard() -> Self {
        Self { captured: None }
    }

    /// Keeps what is printed, for tests.
    pub fn captured() -> Self {
        Self {
            captured: Some((String::new(), String::new())),
        }
    }

    /// Returns what was printed to standard output and standard error, when it was captured.
    pub fn into_captured(self) -> (String, String) {
        self.captured.unwrap_or_default()
    }

    /// Prints text to standard output.
    pub fn out(&mut self, text: impl fmt::Display) {
        match &mut self.captured {
            Some((out, _)) => out.push_str(&text.to_string()),
            None => drop(write!(std::io::stdout().lock(), "{text}")),
        }
    }

    /// Prints a line to standard output.
    pub fn outln(&mut self, text: impl fmt::Display) {
        self.out(format_args!("{text}\n"));
    }

    /// Prints text to standard error.
    pub fn err(&mut self, text: impl fmt::Display) {
        match &mut self.captured {
            Some((_, err)) => err.push_str(&text.to_string()),
            None => drop(write!(std::io::stderr().lock(), "{text}")),
        }
    }

    /// Prints a line to standard error.
    pub fn errln(&mut self, text: impl fmt::Display) {
        self.err(format_args!("{text}\n"));
    }
}
