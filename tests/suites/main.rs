//! Whole-system suites: the real programs, driven by clients that nobody here wrote.
#![expect(clippy::unwrap_used, reason = "a test ends by panicking")]

mod crashes;
mod first_identity;
mod hostile;
mod interop;
mod spire;
