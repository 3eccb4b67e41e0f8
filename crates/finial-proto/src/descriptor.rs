//! The descriptor set of every file in `proto/`, embedded.

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// The encoded `google.protobuf.FileDescriptorSet`, imports included.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// One RPC.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method {
    /// The service with its package, such as `spire.api.server.entry.v1.Entry`.
    pub service: String,
    /// The bare name, such as `ListEntries`.
    pub name: String,
    /// The path of its HTTP/2 requests: `/service/name`.
    pub full: String,
    /// Whether the client sends a stream.
    pub client_streaming: bool,
    /// Whether the server sends a stream.
    pub server_streaming: bool,
}

/// Every RPC of every file in `proto/`, in the order of the files.
pub fn methods() -> Vec<Method> {
    // Decoding cannot fail: the bytes are ours. A test sees to it.
    let set = FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap_or_default();
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let package = file.package().to_owned();
            let service_name = match package.as_str() {
                "" => service.name().to_owned(),
                package => format!("{package}.{}", service.name()),
            };
            methods.extend(service.method.iter().map(|method| Method {
                full: format!("/{service_name}/{}", method.name()),
                service: service_name.clone(),
                name: method.name().to_owned(),
                client_streaming: method.client_streaming(),
                server_streaming: method.server_streaming(),
            }));
        }
    }
    methods
}
