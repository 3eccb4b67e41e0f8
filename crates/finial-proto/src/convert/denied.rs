//! Why an agent was denied: `spire.api.types.PermissionDeniedDetails` within the details of a status.
//!
//! Agents act on the reason (they attest again, or stop), so its form is part of the contract: the details of a gRPC
//! status are a `google.rpc.Status`, which repeats code and message and holds each detail as an `Any`.

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use crate::pb::spire::api::types::PermissionDeniedDetails;
pub use crate::pb::spire::api::types::permission_denied_details::Reason;

const TYPE_NAME: &str = "spire.api.types.PermissionDeniedDetails";
const TYPE_URL: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";

/// A `PERMISSION_DENIED` status that carries `reason`.
pub fn encode(reason: Reason, message: impl Into<String>) -> Status {
    let message = message.into();
    let detail = PermissionDeniedDetails {
        reason: reason.into(),
    };
    let details = RpcStatus {
        code: Code::PermissionDenied.into(),
        message: message.clone(),
        details: vec![Any {
            type_url: TYPE_URL.to_owned(),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(
        Code::PermissionDenied,
        message,
        details.encode_to_vec().into(),
    )
}

/// The reason that a `PERMISSION_DENIED` status carries. Other codes carry none.
pub fn decode(status: &Status) -> Option<Reason> {
    if status.code() != Code::PermissionDenied {
        return None;
    }
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let detail = details
        .iter()
        .find(|any| any.type_url.rsplit('/').next() == Some(TYPE_NAME))?;
    let detail = PermissionDeniedDetails::decode(detail.value.as_slice()).ok()?;
    Reason::try_from(detail.reason).ok()
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}
