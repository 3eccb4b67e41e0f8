//! What certificates say: lifetimes, names and serial numbers.

use std::time::{Duration, SystemTime};

use finial_pki::key::PublicKey;
use finial_pki::x509::{CaTemplate, SubjectName, SvidTemplate, random_serial};
use spiffe_types::entry::DnsName;
use spiffe_types::id::{SpiffeId, TrustDomain};

/// What is asked of an SVID.
#[derive(Debug, Clone)]
pub(crate) struct SvidDraft<'a> {
    pub(crate) id: &'a SpiffeId,
    pub(crate) public_key: &'a PublicKey,
    pub(crate) dns_names: &'a [DnsName],
    pub(crate) subject: Option<&'a SubjectName>,
    pub(crate) ttl: Duration,
}

/// A self-signed authority that is made now.
pub(crate) fn authority(
    trust_domain: &TrustDomain,
    subject: &SubjectName,
    ttl: Duration,
    now: SystemTime,
) -> CaTemplate {
    CaTemplate {
        trust_domain: trust_domain.clone(),
        subject: subject.clone(),
        not_before: back_dated(now),
        not_after: later(now, ttl),
        serial: random_serial(),
    }
}

/// An SVID that is signed now; it never outlives the authority that signs it.
pub(crate) fn svid(
    draft: &SvidDraft<'_>,
    signer_not_after: SystemTime,
    now: SystemTime,
) -> SvidTemplate {
    SvidTemplate {
        id: draft.id.clone(),
        dns_names: draft.dns_names.to_vec(),
        public_key: draft.public_key.clone(),
        not_before: back_dated(now),
        not_after: later(now, draft.ttl).min(signer_not_after),
        serial: random_serial(),
        subject: draft.subject.cloned(),
    }
}

/// Clocks differ: what is made now is valid from a little before.
fn back_dated(now: SystemTime) -> SystemTime {
    now.checked_sub(BACKDATE).unwrap_or(now)
}

/// A lifetime so long that the end cannot be said ends at the last moment a certificate can say.
fn later(now: SystemTime, ttl: Duration) -> SystemTime {
    now.checked_add(ttl)
        .map_or_else(last_moment, |time| time.min(last_moment()))
}

fn last_moment() -> SystemTime {
    super::times::from_unix(253_402_300_799) // 9999-12-31T23:59:59Z
}

const BACKDATE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use finial_pki::key::KeyKind;
    use finial_pki::software::SoftwareKey;

    use super::*;

    #[test]
    fn an_svid_never_outlives_its_signer() {
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let id = SpiffeId::parse("spiffe://example.org/web").unwrap();
        let now = UNIX_EPOCH + Duration::from_hours(100);
        let draft = |ttl| SvidDraft {
            id: &id,
            public_key: key.public_key(),
            dns_names: &[],
            subject: None,
            ttl,
        };
        let signer_end = now + Duration::from_hours(2);
        let short = svid(&draft(Duration::from_hours(1)), signer_end, now);
        assert_eq!(
            (short.not_before, short.not_after),
            (now - Duration::from_secs(10), now + Duration::from_hours(1))
        );
        assert_eq!(
            svid(&draft(Duration::from_hours(3)), signer_end, now).not_after,
            signer_end
        );
        assert_eq!(
            svid(&draft(Duration::MAX), signer_end, now).not_after,
            signer_end
        );
    }
}
