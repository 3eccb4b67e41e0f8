//! Key managers whose keys live in this process.

pub mod disk;
pub mod memory;

mod keys;
