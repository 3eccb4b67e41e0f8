//! The descriptor set of every file in `proto/`, embedded.

/// The encoded `google.protobuf.FileDescriptorSet`, imports included.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
