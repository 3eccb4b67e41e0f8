//! SPIFFE IDs and trust domains.

use spiffe_types::{SpiffeId, TrustDomain};

use super::ConvertError;
use crate::pb::spire::api::types::federates_with_match::MatchBehavior;
use crate::pb::spire::api::types::{FederatesWithMatch, Spiffeid};

/// The two parts of an id.
pub fn to_pb(id: &SpiffeId) -> Spiffeid {
    Spiffeid {
        trust_domain: id.trust_domain_name().to_owned(),
        path: id.path().to_owned(),
    }
}

/// Any SPIFFE ID.
pub fn from_pb(id: Option<&Spiffeid>) -> Result<SpiffeId, ConvertError> {
    let id = id.ok_or(ConvertError::MissingId)?;
    let trust_domain = trust_domain(&id.trust_domain)?;
    SpiffeId::from_path(&trust_domain, &id.path).map_err(ConvertError::Id)
}

/// An id with a path in `trust_domain`.
pub fn member_id(
    trust_domain: &TrustDomain,
    id: Option<&Spiffeid>,
) -> Result<SpiffeId, ConvertError> {
    let id = from_pb(id)?;
    id.check_member(trust_domain)
        .map_err(ConvertError::Membership)?;
    Ok(id)
}

/// The id of an agent of `trust_domain`.
pub fn agent_id(
    trust_domain: &TrustDomain,
    id: Option<&Spiffeid>,
) -> Result<SpiffeId, ConvertError> {
    let id = from_pb(id)?;
    id.check_agent(trust_domain)
        .map_err(ConvertError::Membership)?;
    Ok(id)
}

/// An id that a workload of `trust_domain` may carry.
pub fn workload_id(
    trust_domain: &TrustDomain,
    id: Option<&Spiffeid>,
) -> Result<SpiffeId, ConvertError> {
    let id = from_pb(id)?;
    id.check_workload(trust_domain)
        .map_err(ConvertError::Membership)?;
    Ok(id)
}

/// A trust domain, by its name or any of its ids.
pub fn trust_domain(name: &str) -> Result<TrustDomain, ConvertError> {
    TrustDomain::parse(name).map_err(ConvertError::Id)
}

/// The trust domains of an entry filter, at least one, and how they are compared.
pub fn federates_with_filter(
    filter: &FederatesWithMatch,
) -> Result<(Vec<TrustDomain>, MatchBehavior), ConvertError> {
    let trust_domains = filter
        .trust_domains
        .iter()
        .map(|name| trust_domain(name))
        .collect::<Result<Vec<_>, _>>()?;
    if trust_domains.is_empty() {
        return Err(ConvertError::EmptyTrustDomainSet);
    }
    Ok((trust_domains, filter.r#match()))
}
