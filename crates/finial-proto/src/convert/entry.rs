//! Registration entries.

use spiffe_types::entry::{
    DnsName, Entry, EntryError, EntryId, EntryPatch, MAX_HINT_BYTES, NewEntry, Ttl,
};
use spiffe_types::selector::SelectorSet;
use spiffe_types::{SpiffeId, TrustDomain};

use super::{ConvertError, id, selector, time};
use crate::pb::spire::api::types;
use crate::pb::spire::api::types::entry::AdditionalAttributes;
use crate::pb::spire::api::types::{EntryMask, Spiffeid};

/// The entry as the API shows it. Additional attributes that are all false are left out.
pub fn to_pb(entry: &Entry) -> types::Entry {
    let attributes = AdditionalAttributes {
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    };
    types::Entry {
        id: entry.id.to_string(),
        spiffe_id: Some(id::to_pb(&entry.spiffe_id)),
        parent_id: Some(id::to_pb(&entry.parent_id)),
        selectors: selector::to_pb(&entry.selectors),
        x509_svid_ttl: ttl_to_pb(entry.x509_svid_ttl),
        federates_with: entry
            .federates_with
            .iter()
            .map(ToString::to_string)
            .collect(),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: time::optional_to_unix(entry.expires_at),
        dns_names: entry.dns_names.iter().map(ToString::to_string).collect(),
        revision_number: i64::try_from(entry.revision_number).unwrap_or(i64::MAX),
        store_svid: entry.store_svid,
        jwt_svid_ttl: ttl_to_pb(entry.jwt_svid_ttl),
        hint: entry.hint.clone(),
        created_at: time::to_unix(entry.created_at),
        additional_attributes: (attributes != AdditionalAttributes::default())
            .then_some(attributes),
    }
}

/// An entry that a server sent to an agent, perhaps masked.
///
/// Absent fields take the value of nothing. A masked parent reads as the trust domain of the SPIFFE ID: an agent has no
/// use for it.
pub fn from_pb(entry: types::Entry) -> Result<Entry, ConvertError> {
    let spiffe_id =
        id::from_pb(entry.spiffe_id.as_ref()).map_err(|error| error.within("invalid spiffe ID"))?;
    let parent_id = match &entry.parent_id {
        Some(parent) => {
            id::from_pb(Some(parent)).map_err(|error| error.within("invalid parent ID"))?
        }
        None => spiffe_id.trust_domain().id(),
    };
    let attributes = entry.additional_attributes.unwrap_or_default();
    Ok(Entry {
        id: EntryId::parse(&entry.id).map_err(ConvertError::EntryId)?,
        spiffe_id,
        parent_id,
        selectors: selector::from_pb(&entry.selectors)?,
        x509_svid_ttl: positive_ttl(entry.x509_svid_ttl),
        jwt_svid_ttl: positive_ttl(entry.jwt_svid_ttl),
        federates_with: federated(&entry.federates_with)?,
        admin: entry.admin,
        downstream: entry.downstream,
        store_svid: entry.store_svid,
        expires_at: time::optional_from_unix(entry.expires_at),
        dns_names: dns_names(&entry.dns_names)?,
        hint: entry.hint,
        revision_number: u64::try_from(entry.revision_number).unwrap_or_default(),
        created_at: time::from_unix(entry.created_at),
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    })
}

/// An entry to be created in `trust_domain`. What the server sets itself, revision and creation, is ignored.
pub fn new_from_pb(
    trust_domain: &TrustDomain,
    entry: types::Entry,
) -> Result<NewEntry, ConvertError> {
    // The order of the checks decides which of several errors a client sees.
    let parent_id = parent(trust_domain, entry.parent_id.as_ref())?;
    let spiffe_id = subject(trust_domain, entry.spiffe_id.as_ref())?;
    let dns_names = dns_names(&entry.dns_names)?;
    let federates_with = federated(&entry.federates_with)?;
    let selectors = selectors(&entry.selectors)?;
    let attributes = entry.additional_attributes.unwrap_or_default();
    let mut new = NewEntry {
        federates_with,
        admin: entry.admin,
        downstream: entry.downstream,
        store_svid: entry.store_svid,
        expires_at: time::optional_from_unix(entry.expires_at),
        dns_names,
        hint: hint(entry.hint)?,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        ..NewEntry::new(spiffe_id, parent_id, selectors)
    };
    new.check_storable().map_err(ConvertError::Entry)?;
    if !entry.id.is_empty() {
        let parsed = EntryId::parse(&entry.id);
        new.id =
            Some(parsed.map_err(|reason| ConvertError::Entry(EntryError::EntryId { reason }))?);
    }
    new.x509_svid_ttl = ttl(entry.x509_svid_ttl, EntryError::X509SvidTtl)?;
    new.jwt_svid_ttl = ttl(entry.jwt_svid_ttl, EntryError::JwtSvidTtl)?;
    Ok(new)
}

/// A change of an entry of `trust_domain`: the fields `mask` names, all without a mask. Fields the server sets itself
/// never change.
///
/// An id that no entry can have is found last, so that a client hears of a bad field first, as from SPIRE.
pub fn patch_from_pb(
    trust_domain: &TrustDomain,
    entry: types::Entry,
    mask: Option<&EntryMask>,
) -> Result<(EntryId, EntryPatch), ConvertError> {
    let mask = mask.copied().unwrap_or(EVERYTHING);
    let parent_id = mask
        .parent_id
        .then(|| parent(trust_domain, entry.parent_id.as_ref()))
        .transpose()?;
    let spiffe_id = mask
        .spiffe_id
        .then(|| subject(trust_domain, entry.spiffe_id.as_ref()))
        .transpose()?;
    let dns_names = mask
        .dns_names
        .then(|| dns_names(&entry.dns_names))
        .transpose()?;
    let federates_with = mask
        .federates_with
        .then(|| federated(&entry.federates_with))
        .transpose()?;
    let selectors = mask
        .selectors
        .then(|| selectors(&entry.selectors))
        .transpose()?;
    let hint = mask.hint.then(|| hint(entry.hint)).transpose()?;
    let x509_svid_ttl = mask
        .x509_svid_ttl
        .then(|| ttl(entry.x509_svid_ttl, EntryError::X509SvidTtl))
        .transpose()?;
    let jwt_svid_ttl = mask
        .jwt_svid_ttl
        .then(|| ttl(entry.jwt_svid_ttl, EntryError::JwtSvidTtl))
        .transpose()?;
    let attributes = mask
        .additional_attributes
        .then(|| entry.additional_attributes.unwrap_or_default());
    let patch = EntryPatch {
        spiffe_id,
        parent_id,
        selectors,
        x509_svid_ttl,
        jwt_svid_ttl,
        federates_with,
        admin: mask.admin.then_some(entry.admin),
        downstream: mask.downstream.then_some(entry.downstream),
        store_svid: mask.store_svid.then_some(entry.store_svid),
        expires_at: mask
            .expires_at
            .then(|| time::optional_from_unix(entry.expires_at)),
        dns_names,
        hint,
        disable_x509_svid_prefetch: attributes
            .map(|attributes| attributes.disable_x509_svid_prefetch),
        jwt_svid_include_jti: attributes.map(|attributes| attributes.jwt_svid_include_jti),
    };
    let id = EntryId::parse(&entry.id).map_err(ConvertError::EntryId)?;
    Ok((id, patch))
}

const EVERYTHING: EntryMask = EntryMask {
    spiffe_id: true,
    parent_id: true,
    selectors: true,
    x509_svid_ttl: true,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: true,
    dns_names: true,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: true,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

fn parent(trust_domain: &TrustDomain, id: Option<&Spiffeid>) -> Result<SpiffeId, ConvertError> {
    id::member_id(trust_domain, id).map_err(|error| error.within("invalid parent ID"))
}

fn subject(trust_domain: &TrustDomain, id: Option<&Spiffeid>) -> Result<SpiffeId, ConvertError> {
    id::workload_id(trust_domain, id).map_err(|error| error.within("invalid spiffe ID"))
}

fn selectors(selectors: &[types::Selector]) -> Result<SelectorSet, ConvertError> {
    if selectors.is_empty() {
        return Err(ConvertError::Entry(EntryError::NoSelectors));
    }
    selector::from_pb(selectors)
}

fn federated(names: &[String]) -> Result<Vec<TrustDomain>, ConvertError> {
    let parse = |name: &String| {
        let parsed = TrustDomain::parse(name);
        parsed.map_err(|reason| ConvertError::Entry(EntryError::FederatedTrustDomain { reason }))
    };
    names.iter().map(parse).collect()
}

fn dns_names(names: &[String]) -> Result<Vec<DnsName>, ConvertError> {
    let parse = |name: &String| {
        let parsed = DnsName::parse(name);
        parsed.map_err(|reason| ConvertError::Entry(EntryError::DnsName { reason }))
    };
    names.iter().map(parse).collect()
}

fn hint(hint: String) -> Result<String, ConvertError> {
    if hint.len() > MAX_HINT_BYTES {
        return Err(ConvertError::Entry(EntryError::HintTooLong));
    }
    Ok(hint)
}

fn ttl(seconds: i32, negative: EntryError) -> Result<Option<Ttl>, ConvertError> {
    let seconds = u32::try_from(seconds).map_err(|_negative| ConvertError::Entry(negative))?;
    Ok(Ttl::from_seconds(seconds))
}

fn positive_ttl(seconds: i32) -> Option<Ttl> {
    u32::try_from(seconds).ok().and_then(Ttl::from_seconds)
}

fn ttl_to_pb(ttl: Option<Ttl>) -> i32 {
    // A `Ttl` is never longer than the API can carry.
    ttl.map_or(0, |ttl| i32::try_from(ttl.seconds()).unwrap_or(i32::MAX))
}
