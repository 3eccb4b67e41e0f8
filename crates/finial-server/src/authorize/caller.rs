//! Who calls, and what a handler knows about the call it serves.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use finial_pki::tls::PeerSvid;
use spiffe_types::id::SpiffeId;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Authorized, Row};
use crate::api::audit::AuditTrail;
use crate::api::limits::{LimitError, Limits};

/// The other end of a connection.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A process on the admin socket.
    Local(LocalPeer),
    /// A TLS client, with or without an SVID.
    Tls(TlsPeer),
}

/// What the kernel says about a process on the admin socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalPeer {
    /// Its process, as this process's PID namespace knows it.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: Option<u32>,
    /// Its effective group.
    pub gid: Option<u32>,
    /// Its program, if this process may know; looked up for the audit log only.
    pub path: Option<PathBuf>,
}

/// A TLS client whose certificate, if it presented one, was verified.
#[derive(Debug, Clone)]
pub struct TlsPeer {
    /// Where it connects from.
    pub addr: SocketAddr,
    /// Its SVID.
    pub svid: Option<PeerSvid>,
}

/// One call on its way through the server; travels in the extensions of the request.
#[derive(Debug, Clone)]
pub struct Call(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    caller: Caller,
    authorized: Authorized,
    row: &'static Row,
    request_id: Uuid,
    limits: Arc<Limits>,
    audit: AuditTrail,
    closing: CancellationToken,
}

/// A handler was reached around the layer that authorizes: a defect of the wiring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request carries no [`Call`].
    #[error("request was not authorized")]
    Unauthorized,
    /// The method was opened to callers that have no SPIFFE ID.
    #[error("caller ID missing from request context")]
    NoCallerId,
}

impl Caller {
    /// The SPIFFE ID the caller proved to have.
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Local(_) => None,
            Self::Tls(peer) => peer.svid.as_ref().map(|svid| &svid.id),
        }
    }

    /// Where the caller connects from; nothing on the admin socket.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Local(_) => None,
            Self::Tls(peer) => Some(peer.addr),
        }
    }

    /// The address rate limits go by.
    pub fn ip(&self) -> Option<IpAddr> {
        self.addr().map(|addr| addr.ip().to_canonical())
    }
}

impl Call {
    pub(crate) fn new(
        caller: Caller,
        authorized: Authorized,
        row: &'static Row,
        request_id: Uuid,
        limits: Arc<Limits>,
        audit: AuditTrail,
        closing: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            caller,
            authorized,
            row,
            request_id,
            limits,
            audit,
            closing,
        }))
    }

    /// The call `request` belongs to.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, CallError> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or(CallError::Unauthorized)
    }

    /// The other end.
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// The caller's SPIFFE ID. Methods for agents and downstream servers always have one.
    pub fn caller_id(&self) -> Result<&SpiffeId, CallError> {
        self.0.caller.id().ok_or(CallError::NoCallerId)
    }

    /// As what the caller was let in.
    pub fn authorized(&self) -> Authorized {
        self.0.authorized
    }

    /// The method's row.
    pub fn row(&self) -> &'static Row {
        self.0.row
    }

    /// The identifier of this call in the log.
    pub fn request_id(&self) -> Uuid {
        self.0.request_id
    }

    /// Cancelled when the server stops; streams without an end must end then.
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// The record of the call that is written when it ends.
    pub(crate) fn audit(&self) -> &AuditTrail {
        &self.0.audit
    }

    /// Waits until `count` more units of the method's limit are free for this caller. Callers on the admin socket are not
    /// limited. Cancel-safe: what was reserved is given back.
    pub async fn limit(&self, count: u32) -> Result<(), LimitError> {
        let (Some(bucket), Some(ip)) = (self.0.row.bucket, self.0.caller.ip()) else {
            return Ok(());
        };
        self.0.limits.wait(bucket, ip, count).await
    }
}
