//! Messages as the JSON that SPIRE's command line prints: field names of the `.proto` files, fields that are not set
//! included, 64-bit numbers as strings, bytes in base64, enums by name.

use std::sync::OnceLock;

use prost::{DecodeError, Message};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;
use thiserror::Error;

use crate::descriptor::DESCRIPTOR_SET;

/// Why a message could not be rendered.
#[derive(Debug, Error)]
pub enum JsonError {
    /// The name is not that of a message in `proto/`.
    #[error("there is no message {name}")]
    UnknownMessage {
        /// The name.
        name: String,
    },
    /// The message is not of the named type.
    #[error("the message is not a {name}")]
    Decode {
        /// The name.
        name: String,
        /// The cause.
        source: DecodeError,
    },
    /// A value has no JSON form.
    #[error("failed to render message {name}")]
    Render {
        /// The name.
        name: String,
        /// The cause.
        source: serde_json::Error,
    },
}

/// Renders `message`, whose full name is `name`, such as `spire.api.types.Entry`.
pub fn to_json(name: &str, message: &impl Message) -> Result<Value, JsonError> {
    let name = name.to_owned();
    let Some(descriptor) = pool().get_message_by_name(&name) else {
        return Err(JsonError::UnknownMessage { name });
    };
    let message = match DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()) {
        Ok(message) => message,
        Err(source) => return Err(JsonError::Decode { name, source }),
    };
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|source| JsonError::Render { name, source })
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    // Decoding cannot fail: the bytes are ours. A test sees to it.
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTOR_SET).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pb::spire::api::types;

    #[test]
    fn unset_fields_are_shown_and_numbers_of_64_bits_are_strings() {
        let entry = types::Entry {
            id: "e".into(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "td".into(),
                path: "/x".into(),
            }),
            expires_at: 5,
            x509_svid_ttl: 60,
            ..types::Entry::default()
        };
        let value = to_json("spire.api.types.Entry", &entry).unwrap();
        assert_eq!(value["expires_at"], json!("5"));
        assert_eq!(value["x509_svid_ttl"], json!(60));
        assert_eq!(value["selectors"], json!([]));
        assert_eq!(value["admin"], json!(false));
        assert_eq!(
            value["spiffe_id"],
            json!({"trust_domain": "td", "path": "/x"})
        );
    }

    #[test]
    fn bytes_are_base64() {
        let certificate = types::X509Certificate {
            asn1: vec![0xff_u8, 0xfe].into(),
            ..types::X509Certificate::default()
        };
        let value = to_json("spire.api.types.X509Certificate", &certificate).unwrap();
        assert_eq!(value["asn1"], json!("//4="));
    }
}
