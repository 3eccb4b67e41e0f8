//! `x509 mint`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use finial_pki::csr;
use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_proto::pb::spire::api::server::bundle::v1::GetBundleRequest;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_client::BundleClient;
use finial_proto::pb::spire::api::server::svid::v1::MintX509svidRequest;
use finial_proto::pb::spire::api::server::svid::v1::svid_client::SvidClient;
use finial_runtime::cli::{Code, Console, FlagSet, Flags, Output};
use finial_runtime::clock::{Clock as _, SystemClock};
use finial_runtime::fs::write_atomic;
use serde::Serialize;
use spiffe_types::entry::DnsName;
use spiffe_types::id::SpiffeId;
use spiffe_types::pem;
use time::format_description::well_known::Rfc3339;

use super::client;
use super::client::{Printed, Server, with_server};

const PUBLIC_MODE: u32 = 0o644;
const PRIVATE_MODE: u32 = 0o600;
/// Whole seconds are lost on the way to the server and back; less than this is not a cap.
const ROUNDING: Duration = Duration::from_secs(2);

/// Flags of `x509 mint`.
pub(super) fn flags() -> FlagSet {
    client::flags("x509 mint")
        .string("spiffeID", "", "The SPIFFE ID of the X509-SVID")
        .duration("ttl", Duration::ZERO, "How long the X509-SVID is valid")
        .list("dns", "A DNS name for the SVID; may be repeated")
        .string(
            "write",
            "",
            "A directory to write to instead of standard output",
        )
        .output()
}

/// `x509 mint`
pub(super) fn mint(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let minted = Minted::request(flags, &server).await?;
        let mut printed = match (flags.non_empty("write"), Output::of(flags)) {
            (Some(dir), _) => Printed::text(minted.write(Path::new(dir))?),
            (None, Output::Json) => Printed::text(minted.json()? + "\n"),
            (None, Output::Pretty) => Printed::text(minted.text()),
        };
        printed.err = minted.capped.unwrap_or_default();
        Ok(printed)
    })
}

struct Minted {
    chain: Vec<Bytes>,
    key: SoftwareKey,
    roots: Vec<Bytes>,
    /// A note that the SVID ends sooner than asked for.
    capped: Option<String>,
}

#[derive(Serialize)]
struct MintedJson {
    x509_svid: Vec<String>,
    private_key: String,
    root_cas: Vec<String>,
}

impl Minted {
    async fn request(flags: &Flags, server: &Server) -> anyhow::Result<Self> {
        let id = flags
            .non_empty("spiffeID")
            .context("spiffeID must be specified")?;
        let id = SpiffeId::parse(id)?;
        let (negative, ttl) = flags.duration("ttl");
        ensure!(
            !negative || ttl.is_zero(),
            "invalid value for TTL: must not be negative"
        );
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i32::try_from(seconds).context("invalid value for TTL")?;
        let dns = flags
            .list("dns")
            .iter()
            .map(|name| {
                name.parse::<DnsName>()
                    .with_context(|| format!("invalid DNS name {name:?}"))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let key = SoftwareKey::generate(KeyKind::EcP256).context("unable to generate key")?;
        let csr =
            csr::create_with_software(&key, Some(&id), &dns).context("unable to generate CSR")?;
        let svid = SvidClient::new(server.channel.clone())
            .mint_x509svid(MintX509svidRequest {
                csr: csr.into(),
                ttl: seconds,
            })
            .await
            .map_err(|status| server.error(&status))
            .context("unable to mint SVID")?
            .into_inner()
            .svid
            .filter(|svid| !svid.cert_chain.is_empty())
            .context("server response missing SVID chain")?;
        let bundle = BundleClient::new(server.channel.clone())
            .get_bundle(GetBundleRequest::default())
            .await
            .map_err(|status| server.error(&status))
            .context("unable to get bundle")?
            .into_inner();
        ensure!(
            !bundle.x509_authorities.is_empty(),
            "server response missing X509 Authorities"
        );
        Ok(Self {
            chain: svid.cert_chain,
            key,
            roots: bundle
                .x509_authorities
                .into_iter()
                .map(|authority| authority.asn1)
                .collect(),
            capped: capped(svid.expires_at, ttl, SystemClock.now()),
        })
    }

    fn pems(&self) -> (String, String, String) {
        let certificates = |list: &[Bytes]| -> String {
            list.iter()
                .map(|der| pem::encode("CERTIFICATE", der))
                .collect()
        };
        (
            certificates(&self.chain),
            pem::encode("PRIVATE KEY", &self.key.pkcs8_der()),
            certificates(&self.roots),
        )
    }

    fn text(&self) -> String {
        let (svid, key, roots) = self.pems();
        format!("X509-SVID:\n{svid}\nPrivate key:\n{key}\nRoot CAs:\n{roots}\n")
    }

    /// Renders the fields in this order, not sorted: the answer is not a message.
    fn json(&self) -> serde_json::Result<String> {
        let base64 = |list: &[Bytes]| -> Vec<String> {
            list.iter().map(|der| STANDARD.encode(der)).collect()
        };
        serde_json::to_string(&MintedJson {
            x509_svid: base64(&self.chain),
            private_key: STANDARD.encode(&*self.key.pkcs8_der()),
            root_cas: base64(&self.roots),
        })
    }

    fn write(&self, dir: &Path) -> anyhow::Result<String> {
        let (svid, key, roots) = self.pems();
        let mut text = String::new();
        for (name, what, title, content, mode) in [
            ("svid.pem", "SVID", "X509-SVID", &svid, PUBLIC_MODE),
            ("key.pem", "key", "Private key", &key, PRIVATE_MODE),
            ("bundle.pem", "bundle", "Root CAs", &roots, PUBLIC_MODE),
        ] {
            let path = dir.join(name);
            write_atomic(&path, content.as_bytes(), mode)
                .with_context(|| format!("unable to write {what}"))?;
            let line = format!("{title} written to {}\n", path.display());
            text.push_str(&line);
        }
        Ok(text)
    }
}

/// Notes when the SVID ends sooner than asked for.
fn capped(expires_at: i64, ttl: Duration, now: SystemTime) -> Option<String> {
    let expires_at_time =
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(expires_at).unwrap_or(0));
    let lifetime = expires_at_time
        .duration_since(now)
        .unwrap_or(Duration::ZERO);
    if lifetime + ROUNDING >= ttl {
        return None;
    }
    let expires_at = time::OffsetDateTime::from_unix_timestamp(expires_at)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default();
    Some(format!(
        "X509-SVID lifetime was capped shorter than specified ttl; expires \"{expires_at}\"\n"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn minted() -> Minted {
        Minted {
            chain: vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"ca")],
            key: SoftwareKey::generate(KeyKind::EcP256).unwrap(),
            roots: vec![Bytes::from_static(b"root")],
            capped: None,
        }
    }

    #[test]
    fn three_blocks_are_printed_with_blank_lines_between() {
        let text = minted().text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "X509-SVID:");
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 3);
        assert!(
            text.contains(
                "-----END CERTIFICATE-----\n\nPrivate key:\n-----BEGIN PRIVATE KEY-----\n"
            )
        );
        assert!(text.contains("-----END PRIVATE KEY-----\n\nRoot CAs:\n"));
        assert!(text.ends_with("-----END CERTIFICATE-----\n\n"));
    }

    #[test]
    fn json_keeps_the_order_of_fields() {
        let json = minted().json().unwrap();
        assert!(json.starts_with(r#"{"x509_svid":["bGVhZg==","Y2E="],"private_key":""#));
        assert!(json.ends_with(r#""root_cas":["cm9vdA=="]}"#));
    }

    #[test]
    fn files_are_written_with_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        let text = minted().write(dir.path()).unwrap();
        let shown = dir.path().display();
        assert_eq!(
            text,
            format!(
                "X509-SVID written to {shown}/svid.pem\nPrivate key written to {shown}/key.pem\nRoot CAs written to {shown}/bundle.pem\n"
            )
        );
        let mode = |name: &str| dir.path().join(name).metadata().unwrap().mode() & 0o777;
        assert_eq!((mode("svid.pem"), mode("key.pem")), (0o644, 0o600));
    }

    #[test]
    fn only_a_real_cap_is_noted() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let hour = Duration::from_hours(1);
        assert_eq!(capped(4599, hour, now), None);
        assert_eq!(
            capped(2000, hour, now).unwrap(),
            "X509-SVID lifetime was capped shorter than specified ttl; expires \"1970-01-01T00:33:20Z\"\n"
        );
    }
}
