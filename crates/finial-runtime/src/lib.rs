//! What every finial process stands on: clock, tasks, configuration, logging, health, files and the command line.

pub mod authority;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod fs;
mod go_json;
pub mod go_text;
pub mod health;
pub mod listen;
pub mod log;
pub mod process;
pub mod tasks;
