//! Who may call what.
//!
//! Every RPC the server knows has a row in [`table`]; a caller is allowed when its row names one of the roles the caller
//! has. The roles are looked at in one fixed order (anyone, local, admin by configuration, admin by entry, downstream,
//! agent), from what the [`Registry`] holds in memory, and before any argument of the call is read.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use finial_datastore::StoreError;
use finial_runtime::clock::SharedClock;
use spiffe_types::id::{SpiffeId, TrustDomain};

use crate::registry::Registry;

pub mod agents;
pub mod caller;
pub mod table;

pub use agents::DenyReason;
pub use caller::{Call, Caller, LocalPeer, TlsPeer};
pub use table::{Roles, Row};

/// Decides whether a caller may use a method.
#[derive(Debug)]
pub struct Authorizer {
    trust_domain: TrustDomain,
    admin_ids: HashSet<SpiffeId>,
    registry: Arc<Registry>,
    agents: agents::AgentCheck,
    clock: SharedClock,
}

/// As what a caller was let in, as the audit log words it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authorized {
    /// The role that opened the door.
    pub role: Role,
    /// Where that role comes from.
    pub via: Via,
}

/// The roles of the audit log's `authorized_as`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The method is open to everyone.
    Nobody,
    /// A process on the admin socket.
    Local,
    /// An SVID named in `admin_ids`, or of an entry marked `admin`.
    Admin,
    /// An SVID of an entry marked `downstream`.
    Downstream,
    /// An attested agent's current SVID.
    Agent,
}

/// The sources of the audit log's `authorized_via`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// Nothing had to be known.
    Nothing,
    /// The kind of socket.
    Transport,
    /// The configuration.
    Config,
    /// Registration entries.
    Entries,
    /// The list of attested agents.
    Datastore,
}

/// Why a caller is turned away.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizeError {
    /// No role of the caller is named in the method's row; agents are told why they are not (or no longer) one.
    #[error("caller has no role that may call this method")]
    Denied(Option<DenyReason>),
    /// The store had to be asked and failed.
    #[error("unable to look up agent information")]
    LookUpAgent(#[source] StoreError),
    /// The new serial number could not be made the current one.
    #[error("unable to activate the new agent SVID")]
    ActivateSerial(#[source] StoreError),
}

impl Authorizer {
    /// Makes the rules for one trust domain; `admin_ids` may name foreign SPIFFE IDs.
    pub fn new(
        trust_domain: TrustDomain,
        admin_ids: impl IntoIterator<Item = SpiffeId>,
        registry: Arc<Registry>,
        store: Arc<dyn finial_datastore::DataStore>,
        clock: SharedClock,
    ) -> Self {
        Self {
            trust_domain,
            admin_ids: admin_ids.into_iter().collect(),
            agents: agents::AgentCheck::new(Arc::clone(&registry), store),
            registry,
            clock,
        }
    }

    /// Decides about one call. Cancel-safe: a serial number that is being promoted when the caller goes away stays valid
    /// as the new one.
    pub async fn authorize(
        &self,
        caller: &Caller,
        row: &Row,
    ) -> Result<Authorized, AuthorizeError> {
        let allowed = row.allowed;
        if allowed.contains(Roles::ANYONE) {
            return Ok(Authorized::new(Role::Nobody, Via::Nothing));
        }
        let peer = match caller {
            Caller::Local(_) if allowed.contains(Roles::LOCAL) => {
                return Ok(Authorized::new(Role::Local, Via::Transport));
            }
            Caller::Local(_) => return Err(AuthorizeError::Denied(None)),
            Caller::Tls(peer) => peer,
        };
        let Some(svid) = &peer.svid else {
            return Err(AuthorizeError::Denied(None));
        };
        let now = self.clock.now();
        // A connection outlives the handshake that checked the certificate.
        let expired = now > svid.not_after;
        if !expired && let Some(authorized) = self.authorize_by_id(&svid.id, allowed, now) {
            return Ok(authorized);
        }
        if !allowed.contains(Roles::AGENT) || !svid.id.is_member_of(&self.trust_domain) {
            return Err(AuthorizeError::Denied(None));
        }
        self.agents.check(svid, now).await?;
        Ok(Authorized::new(Role::Agent, Via::Datastore))
    }

    /// How long it is until `at`; zero when it has passed.
    pub(crate) fn time_until(&self, at: SystemTime) -> Duration {
        at.duration_since(self.clock.now()).unwrap_or_default()
    }

    fn authorize_by_id(
        &self,
        id: &SpiffeId,
        allowed: Roles,
        now: SystemTime,
    ) -> Option<Authorized> {
        if allowed.contains(Roles::ADMIN) && self.admin_ids.contains(id) {
            return Some(Authorized::new(Role::Admin, Via::Config));
        }
        let marks = Roles::ADMIN.or(Roles::DOWNSTREAM);
        if !allowed.intersects(marks) || !id.is_member_of(&self.trust_domain) {
            return None;
        }
        let entries = self.registry.entries_of(id);
        let live = |expires_at: Option<SystemTime>| expires_at.is_none_or(|at| at > now);
        if allowed.contains(Roles::ADMIN)
            && entries
                .iter()
                .any(|entry| entry.admin && live(entry.expires_at))
        {
            return Some(Authorized::new(Role::Admin, Via::Entries));
        }
        if allowed.contains(Roles::DOWNSTREAM)
            && entries
                .iter()
                .any(|entry| entry.downstream && live(entry.expires_at))
        {
            return Some(Authorized::new(Role::Downstream, Via::Entries));
        }
        None
    }
}

impl Authorized {
    const fn new(role: Role, via: Via) -> Self {
        Self { role, via }
    }
}

impl Role {
    /// The word in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Local => "local",
            Self::Admin => "admin",
            Self::Downstream => "downstream",
            Self::Agent => "agent",
        }
    }
}

impl Via {
    /// The word in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Transport => "transport",
            Self::Config => "config",
            Self::Entries => "entries",
            Self::Datastore => "datastore",
        }
    }
}
