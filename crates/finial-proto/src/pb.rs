//! Everything generated, module for package. The SPIFFE Workload API has no package: its items stand here, at the root.
#![expect(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    unused_qualifications,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/protos.rs"));
