//! Support for the whole-system suites: real programs in a folder of their own, driven from outside.
//!
//! Nothing here waits for a duration: [`wait::until`] polls a condition under a deadline, and every process that a test
//! starts is killed when its handle goes.

pub mod containers;
pub mod lab;
pub mod process;
pub mod tools;
pub mod wait;
