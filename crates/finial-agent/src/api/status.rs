//! What callers of the agent are told. Clients match some of these texts: they are part of the interface.

use tonic::Status;

use crate::workload::attest::{AttestWorkloadError, AttestorFailure, describe};

/// Answer to a caller nothing was registered for.
pub const NO_IDENTITY_ISSUED: &str = "no identity issued";
/// Answer to a caller that could not be identified.
pub const ATTESTATION_FAILED: &str = "workload attestation failed";
/// Answer to a call without the security header.
pub const SECURITY_HEADER_MISSING: &str = "security header missing from request";
/// Answer to a health check that names a service.
pub const PER_SERVICE_HEALTH: &str = "per-service health is not supported";

/// Answers a caller that could not be attested. Whoever the agent cannot see, or its attestors cannot tell about, reads why, instead
/// of a broken connection; what concerns the caller's process alone stays in the agent's log.
pub fn attestation_failed(error: &AttestWorkloadError) -> Status {
    match error {
        AttestWorkloadError::UnknownCaller { reason, .. } => {
            Status::unavailable(format!("{ATTESTATION_FAILED}: {reason}"))
        }
        AttestWorkloadError::AllFailed { failures } => incomplete(failures),
        AttestWorkloadError::Process(_) | AttestWorkloadError::Stopping(_) => {
            Status::unavailable(ATTESTATION_FAILED)
        }
    }
}

/// Answers a caller whose identity hangs on attestors that failed: it may have one, so it is to come back.
pub fn incomplete(failures: &[AttestorFailure]) -> Status {
    Status::unavailable(format!("{ATTESTATION_FAILED}: {}", describe(failures)))
}

/// Answers a caller without an identity.
pub fn no_identity_issued() -> Status {
    Status::permission_denied(NO_IDENTITY_ISSUED)
}
