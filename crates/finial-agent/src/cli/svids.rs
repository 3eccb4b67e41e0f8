//! What the Workload API hands out, checked and made readable.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use finial_pki::software::SoftwareKey;
use finial_pki::x509::verify_svid;
use finial_proto::pb;
use finial_runtime::config::duration;
use finial_runtime::go_text::quote;
use spiffe_types::bundle::{Bundle, X509Authority};
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::svid::x509::parse_der_sequence;

/// One SVID with all that is printed or written of it.
#[derive(Debug)]
pub(super) struct Svid {
    pub(super) spiffe_id: String,
    pub(super) hint: String,
    pub(super) chain: Vec<X509Authority>,
    pub(super) key_der: Bytes,
    pub(super) bundle: Vec<X509Authority>,
}

/// Everything in one answer.
#[derive(Debug)]
pub(super) struct Svids {
    pub(super) svids: Vec<Svid>,
    /// By trust domain ID, in order.
    pub(super) federated: BTreeMap<String, Vec<X509Authority>>,
}

impl Svids {
    /// Reads an answer and verifies every SVID against its own bundle.
    pub(super) fn read(response: &pb::X509svidResponse, now: SystemTime) -> anyhow::Result<Self> {
        ensure!(
            !response.svids.is_empty(),
            "workload response contains no svids"
        );
        let federated = response
            .federated_bundles
            .iter()
            .map(|(id, der)| {
                let bundle = certificates(der).with_context(|| {
                    format!("failed to parse bundle for federated domain {}", quote(id))
                })?;
                ensure!(
                    !bundle.is_empty(),
                    "no certificates in bundle for federated domain {}",
                    quote(id)
                );
                Ok((id.clone(), bundle))
            })
            .collect::<anyhow::Result<_>>()?;
        let svids = response
            .svids
            .iter()
            .enumerate()
            .map(|(index, svid)| {
                read_svid(svid).with_context(|| {
                    let id = quote(&svid.spiffe_id);
                    format!("failed to parse svid entry {index} for spiffe id {id}")
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        for svid in &svids {
            verify(svid, now)?;
        }
        Ok(Self { svids, federated })
    }

    /// Renders the answer; `federated_name` turns a trust domain ID into what is shown of it.
    pub(super) fn text(
        &self,
        elapsed: Duration,
        with_hints: bool,
        federated_name: impl Fn(&str) -> &str,
    ) -> String {
        let count = self.svids.len();
        let mut text = format!(
            "Received {count} svid{} after {}\n",
            if count == 1 { "" } else { "s" },
            duration::format(elapsed)
        );
        for svid in &self.svids {
            let mut line = |line: String| text.extend([&line, "\n"]);
            line(String::new());
            line(format!("SPIFFE ID:\t\t{}", svid.spiffe_id));
            if with_hints && !svid.hint.is_empty() {
                line(format!("Hint:\t\t\t{}", svid.hint));
            }
            for (index, certificate) in svid.chain.iter().enumerate() {
                match index {
                    0 => valid(&mut line, "SVID", certificate),
                    number => valid(&mut line, &format!("Intermediate #{number}"), certificate),
                }
            }
            for (index, certificate) in svid.bundle.iter().enumerate() {
                valid(&mut line, &format!("CA #{}", index + 1), certificate);
            }
            for (id, bundle) in &self.federated {
                for (index, certificate) in bundle.iter().enumerate() {
                    let title = format!("[{}] CA #{}", federated_name(id), index + 1);
                    valid(&mut line, &title, certificate);
                }
            }
        }
        text.push('\n');
        text
    }
}

fn valid(line: &mut impl FnMut(String), title: &str, certificate: &X509Authority) {
    line(format!(
        "{title} Valid After:\t{}",
        time(certificate.not_before())
    ));
    line(format!(
        "{title} Valid Until:\t{}",
        time(certificate.not_after())
    ));
}

/// Renders a time in UTC as Go does: `2006-01-02 15:04:05 +0000 UTC`.
fn time(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} +0000 UTC",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

fn certificates(der: &[u8]) -> anyhow::Result<Vec<X509Authority>> {
    parse_der_sequence(der)?
        .into_iter()
        .map(|der| Ok(X509Authority::parse(der, false)?))
        .collect()
}

fn read_svid(svid: &pb::X509svid) -> anyhow::Result<Svid> {
    let chain = certificates(&svid.x509_svid)?;
    ensure!(!chain.is_empty(), "no certificates found");
    SoftwareKey::from_pkcs8_der(&svid.x509_svid_key).context("failed to parse private key")?;
    let bundle = certificates(&svid.bundle).context("failed to parse trust bundle")?;
    ensure!(!bundle.is_empty(), "no certificates in trust bundle");
    Ok(Svid {
        spiffe_id: svid.spiffe_id.clone(),
        hint: svid.hint.clone(),
        chain,
        key_der: svid.x509_svid_key.clone(),
        bundle,
    })
}

fn verify(svid: &Svid, now: SystemTime) -> anyhow::Result<()> {
    let trust_domain: TrustDomain = SpiffeId::parse(&svid.spiffe_id)?.trust_domain();
    let chain: Vec<_> = svid
        .chain
        .iter()
        .map(|certificate| certificate.der().clone())
        .collect();
    let bundle = Bundle {
        x509_authorities: svid.bundle.clone(),
        ..Bundle::empty(trust_domain)
    };
    verify_svid(&chain, &bundle, now).with_context(|| {
        let id = quote(&svid.spiffe_id);
        format!("{id} SVID failed verification against bundle")
    })?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use finial_pki::testing::TestCa;
    use finial_runtime::process;
    use spiffe_types::svid::x509::concatenate;

    use super::*;

    /// An answer with one SVID of a fresh authority, and the time it is valid at.
    pub(in crate::cli) fn sample() -> (pb::X509svidResponse, SystemTime) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_355_011);
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let id = SpiffeId::parse("spiffe://example.org/a").unwrap();
        let (ca, svid) = process::block_on(async {
            let ca = TestCa::new(&trust_domain, now).await;
            let svid = ca.svid(&id, now, Duration::from_hours(1)).await;
            (ca, svid)
        })
        .unwrap();
        let response = pb::X509svidResponse {
            svids: vec![pb::X509svid {
                spiffe_id: id.as_str().to_owned(),
                x509_svid: concatenate(&svid.chain),
                x509_svid_key: svid.key.pkcs8_der().to_vec().into(),
                bundle: ca.bundle().x509_der_concat(),
                hint: "internal".into(),
            }],
            federated_bundles: [(
                "spiffe://other.td".to_owned(),
                ca.bundle().x509_der_concat(),
            )]
            .into(),
            ..pb::X509svidResponse::default()
        };
        (response, now)
    }

    #[test]
    fn an_answer_is_shown_in_spires_layout() {
        let (response, now) = sample();
        let svids = Svids::read(&response, now).unwrap();
        let dates = |certificate: &X509Authority| {
            (
                time(certificate.not_before()),
                time(certificate.not_after()),
            )
        };
        let (after, until) = dates(&svids.svids[0].chain[0]);
        let (ca_after, ca_until) = dates(&svids.svids[0].bundle[0]);
        assert_eq!(
            svids.text(Duration::from_micros(3210), true, |id| id),
            format!(
                "Received 1 svid after 3.21ms\n\n\
                 SPIFFE ID:\t\tspiffe://example.org/a\n\
                 Hint:\t\t\tinternal\n\
                 SVID Valid After:\t{after}\n\
                 SVID Valid Until:\t{until}\n\
                 CA #1 Valid After:\t{ca_after}\n\
                 CA #1 Valid Until:\t{ca_until}\n\
                 [spiffe://other.td] CA #1 Valid After:\t{ca_after}\n\
                 [spiffe://other.td] CA #1 Valid Until:\t{ca_until}\n\n"
            )
        );
    }

    #[test]
    fn an_svid_that_its_bundle_does_not_verify_is_not_shown() {
        let (mut response, now) = sample();
        response.svids[0].bundle = sample().0.svids[0].bundle.clone();
        let error = Svids::read(&response, now).unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"spiffe://example.org/a\" SVID failed verification against bundle"
        );
        let error = Svids::read(&pb::X509svidResponse::default(), now).unwrap_err();
        assert_eq!(error.to_string(), "workload response contains no svids");
    }
}
