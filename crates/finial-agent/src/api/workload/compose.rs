//! From the cache's view of a workload to the messages of the Workload API.

use std::collections::HashMap;
use std::time::SystemTime;

use bytes::Bytes;
use finial_proto::pb::{X509BundlesResponse, X509svid, X509svidResponse};
use prost::Message as _;
use spiffe_types::bundle::Bundle;
use spiffe_types::id::SpiffeId;
use zeroize::Zeroizing;

use crate::cache::{Identity, WorkloadUpdate};

/// The identities a workload is told of, in order of entry id.
#[derive(Debug)]
pub(super) struct Entitlement<'a> {
    update: &'a WorkloadUpdate,
    identities: Vec<&'a Identity>,
}

impl<'a> Entitlement<'a> {
    /// Leaves out what only goes to SVID stores, and all but the oldest of the entries that share a hint.
    pub(super) fn of(update: &'a WorkloadUpdate) -> Self {
        let mut owners: HashMap<&str, &Identity> = HashMap::new();
        for identity in served(update) {
            let hint = identity.entry.hint.as_str();
            if hint.is_empty() {
                continue;
            }
            let owner = owners.entry(hint).or_insert(identity);
            if seniority(identity) < seniority(owner) {
                *owner = identity;
            }
        }
        let identities = served(update)
            .filter(|identity| {
                let Some(owner) = owners.get(identity.entry.hint.as_str()) else {
                    return true;
                };
                let owns = owner.entry.id == identity.entry.id;
                if !owns {
                    tracing::warn!(
                        subsystem_name = "endpoints",
                        hint = identity.entry.hint,
                        entry = %identity.entry.id,
                        kept = %owner.entry.id,
                        "Ignoring entry with duplicate hint"
                    );
                }
                owns
            })
            .collect();
        Self { update, identities }
    }

    pub(super) fn len(&self) -> usize {
        self.identities.len()
    }

    /// The SVIDs there are, with the end of each.
    pub(super) fn svids(&self) -> impl Iterator<Item = (&SpiffeId, SystemTime)> {
        self.identities
            .iter()
            .filter_map(|identity| identity.svid.as_ref())
            .map(|svid| (&svid.id, svid.not_after))
    }

    /// The message, unless an identity still waits for its SVID.
    pub(super) fn x509_response(&self) -> Option<X509svidResponse> {
        if !served(self.update).all(|identity| identity.svid.is_some()) {
            return None;
        }
        let bundle = self.update.bundle.x509_der_concat();
        let svids = self
            .identities
            .iter()
            .map(|identity| x509_svid(identity, &bundle));
        Some(X509svidResponse {
            svids: svids.collect::<Option<_>>()?,
            crl: Vec::new(),
            federated_bundles: self
                .update
                .federated
                .iter()
                .map(|bundle| named(bundle))
                .collect(),
        })
    }
}

fn x509_svid(identity: &Identity, bundle: &Bytes) -> Option<X509svid> {
    let svid = identity.svid.as_ref()?;
    Some(X509svid {
        spiffe_id: svid.id.to_string(),
        x509_svid: svid.chain_der.clone(),
        x509_svid_key: svid.key_der.to_bytes(),
        bundle: bundle.clone(),
        hint: identity.entry.hint.clone(),
    })
}

/// The same message as it goes over the wire, made once for all streams that have this update.
pub(super) fn x509_frame(update: &WorkloadUpdate) -> Option<Bytes> {
    update.x509_message.get_or_encode(|| {
        let response = Entitlement::of(update).x509_response()?;
        let length = u32::try_from(response.encoded_len()).ok()?;
        // Capacity for all: growing would leave copies of the keys behind.
        let mut frame = Zeroizing::new(Vec::with_capacity(
            response.encoded_len() + GRPC_PREFIX_LENGTH,
        ));
        frame.push(0); // not compressed
        frame.extend_from_slice(&length.to_be_bytes());
        response.encode_raw(&mut *frame);
        Some(Bytes::from_owner(frame))
    })
}

/// Tells whether the workload has any identity.
pub(super) fn has_identity(update: &WorkloadUpdate) -> bool {
    served(update).next().is_some()
}

/// The bundles a workload may verify with; without an identity, the own trust domain's alone.
pub(super) fn x509_bundles(update: &WorkloadUpdate, registered: bool) -> X509BundlesResponse {
    let federated = update.federated.iter().filter(|_| registered);
    X509BundlesResponse {
        crl: Vec::new(),
        bundles: federated
            .chain([&update.bundle])
            .map(|bundle| named(bundle))
            .collect(),
    }
}

fn named(bundle: &Bundle) -> (String, Bytes) {
    (
        bundle.trust_domain.id().to_string(),
        bundle.x509_der_concat(),
    )
}

fn served(update: &WorkloadUpdate) -> impl Iterator<Item = &Identity> {
    update
        .identities
        .iter()
        .filter(|identity| !identity.entry.store_svid)
}

/// Orders the claims to a hint: who was there first, then the smaller entry id.
fn seniority(identity: &Identity) -> impl Ord + use<'_> {
    (identity.entry.created_at, &identity.entry.id)
}

/// A byte for compression and four for the length.
const GRPC_PREFIX_LENGTH: usize = 5;

#[cfg(test)]
mod tests;
