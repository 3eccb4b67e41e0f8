//! The audit log: one line for each call, or for each item of a batch.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use finial_proto::pb::spire::api::types;
use sha2::{Digest as _, Sha256};

/// What a call is about, as far as the audit log names it. Fields that do not apply stay empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AuditFields {
    pub(crate) entry_id: Option<String>,
    pub(crate) spiffe_id: Option<String>,
    pub(crate) parent_id: Option<String>,
    pub(crate) selectors: Option<String>,
    pub(crate) x509_svid_ttl: Option<i32>,
    pub(crate) jwt_svid_ttl: Option<i32>,
    pub(crate) federates_with: Option<String>,
    pub(crate) admin: Option<bool>,
    pub(crate) downstream: Option<bool>,
    pub(crate) store_svid: Option<bool>,
    pub(crate) expires_at: Option<i64>,
    pub(crate) dns_name: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) revision_number: Option<i64>,
    pub(crate) trust_domain_id: Option<String>,
    pub(crate) csr: Option<String>,
    pub(crate) ttl: Option<i32>,
    pub(crate) node_attestor_type: Option<String>,
    pub(crate) agent_id: Option<String>,
    pub(crate) agent_version: Option<String>,
    pub(crate) by_banned: Option<bool>,
    pub(crate) by_can_reattest: Option<bool>,
    pub(crate) by_selectors: Option<String>,
}

/// The record of one call. Cheap when the audit log is off.
#[derive(Debug, Clone, Default)]
pub struct AuditTrail(Option<Arc<Mutex<Trail>>>);

#[derive(Debug, Default)]
struct Trail {
    fields: AuditFields,
    /// Lines were written already, one for each item.
    itemized: bool,
}

impl AuditTrail {
    pub(crate) fn new(enabled: bool) -> Self {
        Self(enabled.then(Arc::default))
    }

    /// Adds to what the line of this call will say.
    pub(crate) fn note(&self, note: impl FnOnce(&mut AuditFields)) {
        if let Some(mut trail) = self.lock() {
            note(&mut trail.fields);
        }
    }

    /// Writes the line of one item of a batch.
    pub(crate) fn item(
        &self,
        status: Option<&types::Status>,
        fields: impl FnOnce() -> AuditFields,
    ) {
        let Some(mut trail) = self.lock() else { return };
        trail.itemized = true;
        drop(trail);
        let failure = status.filter(|status| status.code != 0);
        write(
            &fields(),
            failure.map(|status| (tonic::Code::from(status.code), status.message.as_str())),
        );
    }

    /// Writes the line of the call, unless its items have theirs.
    pub(crate) fn end(&self, failure: Option<(tonic::Code, &str)>) {
        let Some(trail) = self.lock() else { return };
        if trail.itemized && failure.is_none() {
            return;
        }
        let fields = trail.fields.clone();
        drop(trail);
        write(&fields, failure);
    }

    fn lock(&self) -> Option<MutexGuard<'_, Trail>> {
        let trail = self.0.as_ref()?;
        Some(trail.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The fields of an entry as a request states it; an input mask hides what is not changed.
pub(crate) fn of_entry(entry: &types::Entry, mask: Option<&types::EntryMask>) -> AuditFields {
    let all = types::EntryMask {
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
    let mask = mask.unwrap_or(&all);
    let id = |id: &Option<types::Spiffeid>| id.as_ref().map(spiffe_id);
    let text = |text: String| (!text.is_empty()).then_some(text);
    AuditFields {
        entry_id: text(entry.id.clone()),
        spiffe_id: id(&entry.spiffe_id).filter(|_| mask.spiffe_id),
        parent_id: id(&entry.parent_id).filter(|_| mask.parent_id),
        selectors: text(selectors(&entry.selectors)).filter(|_| mask.selectors),
        x509_svid_ttl: mask.x509_svid_ttl.then_some(entry.x509_svid_ttl),
        jwt_svid_ttl: mask.jwt_svid_ttl.then_some(entry.jwt_svid_ttl),
        federates_with: text(entry.federates_with.join(",")).filter(|_| mask.federates_with),
        admin: mask.admin.then_some(entry.admin),
        downstream: mask.downstream.then_some(entry.downstream),
        store_svid: mask.store_svid.then_some(entry.store_svid),
        expires_at: mask.expires_at.then_some(entry.expires_at),
        dns_name: text(entry.dns_names.join(",")).filter(|_| mask.dns_names),
        hint: mask.hint.then(|| entry.hint.clone()),
        revision_number: mask.revision_number.then_some(entry.revision_number),
        ..AuditFields::default()
    }
}

/// A SPIFFE ID as a request states it.
pub(crate) fn spiffe_id(id: &types::Spiffeid) -> String {
    format!("spiffe://{}{}", id.trust_domain, id.path)
}

/// Selectors as the log lists them.
pub(crate) fn selectors(selectors: &[types::Selector]) -> String {
    let mut list = String::new();
    for selector in selectors {
        if !list.is_empty() {
            list.push(',');
        }
        // Writing to a String does not fail.
        let _written = write!(list, "{}:{}", selector.r#type, selector.value);
    }
    list
}

/// What stands for a CSR in the log: its SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| hex::encode(Sha256::digest(bytes)))
}

fn write(fields: &AuditFields, failure: Option<(tonic::Code, &str)>) {
    tracing::info!(
        subsystem_name = "api",
        "type" = "audit",
        status = if failure.is_none() {
            "success"
        } else {
            "error"
        },
        status_code = failure.map(|(code, _)| tracing::field::debug(code)),
        status_message = failure.map(|(_, message)| message),
        entry_id = fields.entry_id,
        spiffe_id = fields.spiffe_id,
        parent_id = fields.parent_id,
        selectors = fields.selectors,
        x509_svid_ttl = fields.x509_svid_ttl,
        jwt_svid_ttl = fields.jwt_svid_ttl,
        federates_with = fields.federates_with,
        admin = fields.admin,
        downstream = fields.downstream,
        store_svid = fields.store_svid,
        expires_at = fields.expires_at,
        dns_name = fields.dns_name,
        hint = fields.hint,
        revision_number = fields.revision_number,
        trust_domain_id = fields.trust_domain_id,
        csr = fields.csr,
        ttl = fields.ttl,
        node_attestor_type = fields.node_attestor_type,
        agent_id = fields.agent_id,
        agent_version = fields.agent_version,
        by_banned = fields.by_banned,
        by_can_reattest = fields.by_can_reattest,
        by_selectors = fields.by_selectors,
        "API accessed"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_mask_hides_what_a_request_does_not_change() {
        let entry = types::Entry {
            id: "e1".to_owned(),
            hint: "internal".to_owned(),
            admin: true,
            ..types::Entry::default()
        };
        let mask = types::EntryMask {
            hint: true,
            ..types::EntryMask::default()
        };

        assert_eq!(
            of_entry(&entry, Some(&mask)),
            AuditFields {
                entry_id: Some("e1".to_owned()),
                hint: Some("internal".to_owned()),
                ..AuditFields::default()
            }
        );
    }
}
