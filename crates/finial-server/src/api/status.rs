//! Errors on the wire: the only place where a gRPC status is made.
//!
//! The texts are those SPIRE's clients and operators know: `<what failed>: <why>`. For `NotFound` the reason is left out.

use std::error::Error;

use finial_datastore::StoreError;
use finial_plugin::{AttestError, AttestErrorKind};
use finial_proto::convert::{ConvertError, denied};
use finial_proto::pb::spire::api::types;
use finial_runtime::log::chain;
use tonic::{Code, Status};

use crate::authorize::caller::{CallError, ShareError};
use crate::authorize::{AuthorizeError, DenyReason, Row};

/// The answer to an argument that is wrong.
pub(crate) fn invalid(message: &str) -> Status {
    tracing::error!(subsystem_name = "api", "Invalid argument: {message}");
    Status::invalid_argument(message)
}

/// The answer to an argument that is wrong, with the reason.
pub(crate) fn invalid_because(message: &str, reason: &(dyn Error + 'static)) -> Status {
    let reason = chain(reason).to_string();
    tracing::error!(
        subsystem_name = "api",
        error = reason,
        "Invalid argument: {message}"
    );
    Status::invalid_argument(format!("{message}: {reason}"))
}

/// The answer when there is no such thing.
pub(crate) fn not_found(message: &str) -> Status {
    log(message, None);
    Status::not_found(message)
}

/// The answer with `code` and nothing to add.
pub(crate) fn plain(code: Code, message: &str) -> Status {
    log(message, None);
    Status::new(code, message)
}

/// The answer with `code` and the reason.
pub(crate) fn because(code: Code, message: &str, reason: &(dyn Error + 'static)) -> Status {
    let reason = chain(reason).to_string();
    log(message, Some(&reason));
    Status::new(code, format!("{message}: {reason}"))
}

/// The answer when the server is at fault.
pub(crate) fn internal(message: &str, reason: &(dyn Error + 'static)) -> Status {
    because(Code::Internal, message, reason)
}

/// The answer to a message that cannot be taken; `stored` is what is said of rules SPIRE checks in its store only.
pub(crate) fn convert(message: &str, stored: &str, error: &ConvertError) -> Status {
    match error.code() {
        Code::InvalidArgument => invalid_because(message, error),
        Code::NotFound => not_found(stored),
        code => because(code, stored, error),
    }
}

/// The answer to a failed store operation: the code tells the cases apart that clients act on.
pub(crate) fn store(message: &str, error: &StoreError) -> Status {
    match store_code(error) {
        Code::NotFound => not_found(message),
        code => because(code, message, error),
    }
}

/// The code of a failed store operation.
pub(crate) fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::NotFound { .. } => Code::NotFound,
        StoreError::AlreadyExists { .. } => Code::AlreadyExists,
        StoreError::Conflict { .. } | StoreError::BundleInUse { .. } => Code::FailedPrecondition,
        StoreError::Unavailable { .. } => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// The answer to a caller who asks for more than its share, or may not call any more when its turn comes.
pub(crate) fn limited(message: &str, error: ShareError) -> Status {
    match error {
        ShareError::TooMuch(error) => because(Code::ResourceExhausted, message, &error),
        ShareError::Unauthorized { row, source } => unauthorized(row, &source),
    }
}

/// The answer to a node attestation that failed: the plugin's own words.
pub(crate) fn attest(attestor: &str, error: &AttestError) -> Status {
    let code = match error.kind() {
        AttestErrorKind::Malformed => Code::InvalidArgument,
        AttestErrorKind::Rejected => Code::PermissionDenied,
        AttestErrorKind::Unavailable => Code::Unavailable,
        AttestErrorKind::Unsupported => Code::Unimplemented,
        AttestErrorKind::Misconfigured => Code::FailedPrecondition,
        AttestErrorKind::Internal => Code::Internal,
    };
    let text = format!("nodeattestor({attestor}): {}", chain(error));
    tracing::error!(
        subsystem_name = "api",
        node_attestor_type = attestor,
        error = text,
        "Node attestation failed"
    );
    Status::new(code, text)
}

/// The answer to a handler that was reached the wrong way.
pub(crate) fn call(error: CallError) -> Status {
    log("call refused", Some(&error.to_string()));
    Status::internal(error.to_string())
}

/// The answer to a caller who may not use a method.
pub(crate) fn unauthorized(row: &Row, error: &AuthorizeError) -> Status {
    match error {
        AuthorizeError::Denied(reason) => {
            let text = denied_text(row);
            // Two lines, as SPIRE writes them: scripts look for the first, with the caller's ID in it.
            match reason {
                Some(DenyReason::Expired) => log("Agent SVID is expired", None),
                Some(DenyReason::NotAttested) => log("Agent is not attested", None),
                Some(DenyReason::Banned) => log("Agent is banned", None),
                Some(DenyReason::NotActive) => log("Agent SVID is not active", None),
                Some(DenyReason::MustReattest) | None => {}
            }
            log("Failed to authenticate caller", Some(&text));
            deny(&text, *reason)
        }
        AuthorizeError::LookUpAgent(_) | AuthorizeError::ActivateSerial(_) => {
            let text = chain(error).to_string();
            log("authorization failed", Some(&text));
            Status::internal(text)
        }
    }
}

/// The answer that ends a stream whose caller may not be told any more: what an ordinary call of it would get.
pub(crate) fn ended(row: &Row, error: &AuthorizeError) -> Status {
    if let AuthorizeError::Denied(reason @ Some(DenyReason::NotActive)) = error {
        // Every rotation ends the stream of the SVID before, so that is no error.
        tracing::debug!(
            subsystem_name = "api",
            method = row.method,
            "Stream of a replaced agent SVID ended"
        );
        return deny(&denied_text(row), *reason);
    }
    unauthorized(row, error)
}

/// The answer to an agent that must attest again.
pub(crate) fn must_reattest() -> Status {
    let reason = DenyReason::MustReattest;
    deny(&reason.to_string(), Some(reason))
}

/// The answer to a client whose certificate says nothing the server can use.
pub(crate) fn unauthenticated(message: &str) -> Status {
    log(message, None);
    Status::unauthenticated(message)
}

/// The answer to a path the server does not serve.
pub(crate) fn unknown_method(path: &str, service_exists: bool) -> Status {
    let (service, method) = path
        .trim_start_matches('/')
        .rsplit_once('/')
        .unwrap_or((path, ""));
    Status::unimplemented(if service_exists {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    })
}

/// The answer of a method that is known and deliberately not served.
pub(crate) fn unimplemented(message: &str) -> Status {
    Status::unimplemented(message)
}

/// The answer that ends a stream because the server stops or the caller's SVID ends.
pub(crate) fn closing() -> Status {
    Status::unavailable("the server closes this stream; open it again")
}

/// The answer to a caller who takes too long between two messages of a stream.
pub(crate) fn too_slow(message: &str) -> Status {
    plain(Code::DeadlineExceeded, message)
}

/// The answer to a message that did not arrive whole: one that is too large keeps that as its reason.
pub(crate) fn received(error: &Status, message: &str) -> Status {
    if is_too_large(error) {
        return plain(Code::ResourceExhausted, error.message());
    }
    invalid(&format!("{message}: {}", error.message()))
}

/// gRPC's own code for a message above the limit is `ResourceExhausted`; the codec has another one.
pub(crate) fn is_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange
        && status
            .message()
            .starts_with("Error, decoded message length too large")
}

/// The outcome of one item of a batch that worked.
pub(crate) fn ok_item() -> types::Status {
    types::Status {
        code: Code::Ok as i32,
        message: "OK".to_owned(),
    }
}

/// The outcome of one item of a batch that was there already; what is there goes with it.
pub(crate) fn existing_item(message: &str) -> types::Status {
    types::Status {
        code: Code::AlreadyExists as i32,
        message: message.to_owned(),
    }
}

/// The outcome of one item of a batch that failed.
pub(crate) fn item(status: &Status) -> types::Status {
    types::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
    }
}

fn denied_text(row: &Row) -> String {
    format!("authorization denied for method {}", row.path)
}

fn deny(text: &str, reason: Option<DenyReason>) -> Status {
    match reason {
        None => Status::permission_denied(text),
        Some(reason) => denied::encode(reason.to_wire(), text),
    }
}

fn log(message: &str, reason: Option<&str>) {
    let mut letters = message.chars();
    let sentence = letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    });
    tracing::error!(subsystem_name = "api", error = reason, "{sentence}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::table;

    #[test]
    fn a_denied_agent_learns_why_in_the_details() {
        let row = table::find("/spire.api.server.agent.v1.Agent/RenewAgent").unwrap();
        let status = unauthorized(row, &AuthorizeError::Denied(Some(DenyReason::Banned)));

        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(
            status.message(),
            "authorization denied for method /spire.api.server.agent.v1.Agent/RenewAgent"
        );
        assert_eq!(denied::decode(&status), Some(DenyReason::Banned.to_wire()));
    }

    #[test]
    fn not_found_hides_the_reason() {
        assert_eq!(not_found("agent not found").message(), "agent not found");
    }
}
