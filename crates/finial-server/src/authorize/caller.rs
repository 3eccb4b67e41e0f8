//! Who calls, and what a handler knows about the call it serves.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use finial_pki::tls::PeerSvid;
use spiffe_types::id::SpiffeId;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{AuthorizeError, Authorized, Authorizer, Row};
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
pub struct Call {
    inner: Arc<Inner>,
    /// Who decided to let the call in, and may be asked again.
    authorizer: Option<Arc<Authorizer>>,
}

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

/// Why a call does not get its share of what is limited.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It asks for more than there ever is.
    #[error(transparent)]
    TooMuch(#[from] LimitError),
    /// While it waited for its turn, its caller ceased to be one who may call.
    #[error("caller may not call {} any more", row.path)]
    Unauthorized {
        /// The method.
        row: &'static Row,
        /// Why not.
        source: AuthorizeError,
    },
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
        self.svid().map(|svid| &svid.id)
    }

    /// The SVID the caller proved to have.
    pub fn svid(&self) -> Option<&PeerSvid> {
        match self {
            Self::Local(_) => None,
            Self::Tls(peer) => peer.svid.as_ref(),
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
        let inner = Arc::new(Inner {
            caller,
            authorized,
            row,
            request_id,
            limits,
            audit,
            closing,
        });
        Self {
            inner,
            authorizer: None,
        }
    }

    /// Has `authorizer` asked when the call must be judged again. Without one it is refused then.
    #[must_use]
    pub(crate) fn judged_by(self, authorizer: Arc<Authorizer>) -> Self {
        Self {
            authorizer: Some(authorizer),
            ..self
        }
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
        &self.inner.caller
    }

    /// The caller's SPIFFE ID. Methods for agents and downstream servers always have one.
    pub fn caller_id(&self) -> Result<&SpiffeId, CallError> {
        self.inner.caller.id().ok_or(CallError::NoCallerId)
    }

    /// The caller's SVID; see [`caller_id`](Self::caller_id).
    pub fn caller_svid(&self) -> Result<&PeerSvid, CallError> {
        self.caller().svid().ok_or(CallError::NoCallerId)
    }

    /// As what the caller was let in.
    pub fn authorized(&self) -> Authorized {
        self.inner.authorized
    }

    /// The method's row.
    pub fn row(&self) -> &'static Row {
        self.inner.row
    }

    /// The identifier of this call in the log.
    pub fn request_id(&self) -> Uuid {
        self.inner.request_id
    }

    /// Cancelled when the server stops; streams without an end must end then.
    pub fn closing(&self) -> &CancellationToken {
        &self.inner.closing
    }

    /// The record of the call that is written when it ends.
    pub(crate) fn audit(&self) -> &AuditTrail {
        &self.inner.audit
    }

    /// Decides anew whether the caller may use the method: a call may wait for long after it was let in, and whoever is banned
    /// meanwhile must gain nothing by having come early.
    pub(crate) async fn authorize_again(&self) -> Result<(), AuthorizeError> {
        let Some(authorizer) = &self.authorizer else {
            return Err(AuthorizeError::Denied(None));
        };
        let authorized = authorizer.authorize(self.caller(), self.row()).await;
        authorized.map(|_role| ())
    }

    /// Waits until `count` more units of the method's limit are free for this caller, who must still be one who may call then.
    /// Callers on the admin socket are not limited. Cancel-safe: what was reserved is given back.
    pub async fn limit(&self, count: u32) -> Result<(), ShareError> {
        let (Some(bucket), Some(ip)) = (self.inner.row.bucket, self.inner.caller.ip()) else {
            return Ok(());
        };
        let waited = self.inner.limits.wait(bucket, ip, count).await?;
        if waited.is_zero() {
            return Ok(());
        }
        let judged = self.authorize_again().await;
        judged.map_err(|source| ShareError::Unauthorized {
            row: self.inner.row,
            source,
        })
    }
}
