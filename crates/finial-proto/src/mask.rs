//! Output masks: fields that were not asked for are cleared. No mask asks for everything; the key of a message stays.
//!
//! Every mask is taken apart field by field, so that a field added to a message cannot be forgotten here.

use crate::pb::spire::api::types::{
    Agent, AgentMask, Bundle, BundleMask, Entry, EntryMask, FederationRelationship,
    FederationRelationshipMask,
};

/// Clears what `mask` does not ask for. The id stays.
pub fn entry(entry: &mut Entry, mask: Option<&EntryMask>) {
    let Some(mask) = mask else { return };
    let EntryMask {
        spiffe_id,
        parent_id,
        selectors,
        x509_svid_ttl,
        federates_with,
        admin,
        downstream,
        expires_at,
        dns_names,
        revision_number,
        store_svid,
        jwt_svid_ttl,
        hint,
        created_at,
        additional_attributes,
    } = *mask;
    keep(&mut entry.spiffe_id, spiffe_id);
    keep(&mut entry.parent_id, parent_id);
    keep(&mut entry.selectors, selectors);
    keep(&mut entry.x509_svid_ttl, x509_svid_ttl);
    keep(&mut entry.federates_with, federates_with);
    keep(&mut entry.admin, admin);
    keep(&mut entry.downstream, downstream);
    keep(&mut entry.expires_at, expires_at);
    keep(&mut entry.dns_names, dns_names);
    keep(&mut entry.revision_number, revision_number);
    keep(&mut entry.store_svid, store_svid);
    keep(&mut entry.jwt_svid_ttl, jwt_svid_ttl);
    keep(&mut entry.hint, hint);
    keep(&mut entry.created_at, created_at);
    keep(&mut entry.additional_attributes, additional_attributes);
}

/// Clears what `mask` does not ask for. The trust domain stays.
pub fn bundle(bundle: &mut Bundle, mask: Option<&BundleMask>) {
    let Some(mask) = mask else { return };
    let BundleMask {
        x509_authorities,
        jwt_authorities,
        refresh_hint,
        sequence_number,
        wit_authorities,
    } = *mask;
    keep(&mut bundle.x509_authorities, x509_authorities);
    keep(&mut bundle.jwt_authorities, jwt_authorities);
    keep(&mut bundle.refresh_hint, refresh_hint);
    keep(&mut bundle.sequence_number, sequence_number);
    keep(&mut bundle.wit_authorities, wit_authorities);
}

/// Clears what `mask` does not ask for. The id stays.
pub fn agent(agent: &mut Agent, mask: Option<&AgentMask>) {
    let Some(mask) = mask else { return };
    let AgentMask {
        attestation_type,
        x509svid_serial_number,
        x509svid_expires_at,
        selectors,
        banned,
        can_reattest,
        agent_version,
    } = *mask;
    keep(&mut agent.attestation_type, attestation_type);
    keep(&mut agent.x509svid_serial_number, x509svid_serial_number);
    keep(&mut agent.x509svid_expires_at, x509svid_expires_at);
    keep(&mut agent.selectors, selectors);
    keep(&mut agent.banned, banned);
    keep(&mut agent.can_reattest, can_reattest);
    keep(&mut agent.agent_version, agent_version);
}

/// Clears what `mask` does not ask for. The trust domain stays.
pub fn federation_relationship(
    relationship: &mut FederationRelationship,
    mask: Option<&FederationRelationshipMask>,
) {
    let Some(mask) = mask else { return };
    let FederationRelationshipMask {
        bundle_endpoint_url,
        bundle_endpoint_profile,
        trust_domain_bundle,
    } = *mask;
    keep(&mut relationship.bundle_endpoint_url, bundle_endpoint_url);
    keep(
        &mut relationship.bundle_endpoint_profile,
        bundle_endpoint_profile,
    );
    keep(&mut relationship.trust_domain_bundle, trust_domain_bundle);
}

fn keep<T: Default>(field: &mut T, asked_for: bool) {
    if !asked_for {
        *field = T::default();
    }
}
