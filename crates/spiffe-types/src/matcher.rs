//! Which SPIFFE IDs a peer may have.

use std::collections::BTreeSet;

use crate::id::{SpiffeId, TrustDomain};

/// A decision about a SPIFFE ID that was already verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matcher {
    /// Every id.
    Any,
    /// This id alone.
    Exact(SpiffeId),
    /// One of these; none when the set is empty.
    OneOf(BTreeSet<SpiffeId>),
    /// Every id of this trust domain, its own included.
    MemberOf(TrustDomain),
}

impl Matcher {
    /// Tells whether `id` is among those meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == id,
            Self::OneOf(ids) => ids.contains(id),
            Self::MemberOf(trust_domain) => id.is_member_of(trust_domain),
        }
    }
}
