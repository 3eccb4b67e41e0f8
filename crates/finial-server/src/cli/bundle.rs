//! `bundle show`, `list`, `count`, `set`, `delete`.

use finial_runtime::fs::read_text;
use std::io::Read as _;

use anyhow::{Context as _, anyhow, bail, ensure};
use finial_proto::convert;
use finial_proto::pb::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_client::BundleClient;
use finial_proto::pb::spire::api::server::bundle::v1::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, CountBundlesRequest,
    GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
};
use finial_proto::pb::spire::api::types;
use finial_runtime::cli::{Code, Console, FlagSet, Flags};
use finial_runtime::go_text::quote;
use spiffe_types::bundle::jwks;
use spiffe_types::id::TrustDomain;
use spiffe_types::pem;
use spiffe_types::svid::x509::parse_der_sequence;

use super::client;
use super::client::{Printed, plural, with_server};

const PACKAGE: &str = "spire.api.server.bundle.v1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Pem,
    Spiffe,
}

impl Format {
    /// Reads `-format`. Case does not matter.
    fn of(flags: &Flags) -> anyhow::Result<Self> {
        let text = flags.string("format");
        match text.to_ascii_lowercase().as_str() {
            "" | "pem" => Ok(Self::Pem),
            "spiffe" => Ok(Self::Spiffe),
            _ => bail!("invalid format: {}", quote(text)),
        }
    }
}

/// Flags of `bundle show`.
pub(super) fn show_flags() -> FlagSet {
    client::flags("bundle show")
        .string(
            "format",
            "pem",
            "How pretty output shows the bundle: \"pem\" or \"spiffe\"",
        )
        .output()
}

/// Flags of `bundle list`.
pub(super) fn list_flags() -> FlagSet {
    client::flags("bundle list")
        .string("id", "", "The trust domain whose bundle to show")
        .string(
            "format",
            "pem",
            "How pretty output shows bundles: \"pem\" or \"spiffe\"",
        )
        .output()
}

/// Flags of `bundle count`.
pub(super) fn count_flags() -> FlagSet {
    client::flags("bundle count").output()
}

/// Flags of `bundle set`.
pub(super) fn set_flags() -> FlagSet {
    client::flags("bundle set")
        .string("id", "", "The trust domain of the bundle")
        .string(
            "path",
            "",
            "The file with the bundle; standard input when absent",
        )
        .string(
            "format",
            "pem",
            "What is in the file: \"pem\" or \"spiffe\"",
        )
        .output()
}

/// Flags of `bundle delete`.
pub(super) fn delete_flags() -> FlagSet {
    client::flags("bundle delete")
        .string("id", "", "The trust domain of the bundle")
        .string(
            "mode",
            "restrict",
            "What happens to entries that federate with it: restrict, delete or dissociate",
        )
        .output()
}

/// `bundle show`
pub(super) fn show(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let bundle = BundleClient::new(server.channel.clone())
            .get_bundle(GetBundleRequest::default())
            .await
            .map_err(|status| server.error(&status))?
            .into_inner();
        Printed::message(flags, "spire.api.types.Bundle", &bundle, |bundle| {
            Ok(Printed::text(bundle_text(bundle, Format::of(flags)?)?))
        })
    })
}

/// `bundle list`
pub(super) fn list(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let mut client = BundleClient::new(server.channel.clone());
        if let Some(id) = flags.non_empty("id") {
            let bundle = client
                .get_federated_bundle(GetFederatedBundleRequest {
                    trust_domain: id.to_owned(),
                    ..GetFederatedBundleRequest::default()
                })
                .await
                .map_err(|status| server.error(&status))?
                .into_inner();
            return Printed::message(flags, "spire.api.types.Bundle", &bundle, |bundle| {
                Ok(Printed::text(bundle_text(bundle, Format::of(flags)?)?))
            });
        }
        let response = client
            .list_federated_bundles(ListFederatedBundlesRequest::default())
            .await
            .map_err(|status| server.error(&status))?
            .into_inner();
        let name = format!("{PACKAGE}.ListFederatedBundlesResponse");
        Printed::message(flags, &name, &response, |response| {
            // Without bundles the format is never looked at.
            let format = if response.bundles.is_empty() {
                Format::Pem
            } else {
                Format::of(flags)?
            };
            let texts = response
                .bundles
                .iter()
                .map(|bundle| Ok(header(&bundle.trust_domain) + &bundle_text(bundle, format)?))
                .collect::<anyhow::Result<Vec<_>>>()?;
            Ok(Printed::text(texts.join("\n")))
        })
    })
}

/// `bundle count`
pub(super) fn count(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let response = BundleClient::new(server.channel.clone())
            .count_bundles(CountBundlesRequest {})
            .await
            .map_err(|status| server.error(&status))?
            .into_inner();
        let name = format!("{PACKAGE}.CountBundlesResponse");
        Printed::message(flags, &name, &response, |response| {
            let count = usize::try_from(response.count)?;
            Ok(Printed::text(plural(count, "bundle", "bundles") + "\n"))
        })
    })
}

/// `bundle set`
pub(super) fn set(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let id = flags.non_empty("id").context("id flag is required")?;
        let format = Format::of(flags)?;
        let text = read(flags.non_empty("path")).context("unable to load bundle data")?;
        let bundle = parse_bundle(id, &text, format)?;
        let response = BundleClient::new(server.channel.clone())
            .batch_set_federated_bundle(BatchSetFederatedBundleRequest {
                bundle: vec![bundle],
                ..BatchSetFederatedBundleRequest::default()
            })
            .await
            .map_err(|status| server.error(&status))
            .context("failed to set federated bundle")?
            .into_inner();
        let name = format!("{PACKAGE}.BatchSetFederatedBundleResponse");
        Printed::message(flags, &name, &response, |response| {
            let result = response
                .results
                .first()
                .context("server response missing result")?;
            let status = result.status.clone().unwrap_or_default();
            ensure!(
                status.code == 0,
                "failed to set federated bundle: {}",
                status.message
            );
            Ok(Printed::text("bundle set.\n"))
        })
    })
}

/// `bundle delete`
pub(super) fn delete(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let id = flags.non_empty("id").context("id is required")?;
        let mode = match flags.string("mode") {
            "" | "restrict" => Mode::Restrict,
            "dissociate" => Mode::Dissociate,
            "delete" => Mode::Delete,
            mode => bail!("unsupported mode {}", quote(mode)),
        };
        let response = BundleClient::new(server.channel.clone())
            .batch_delete_federated_bundle(BatchDeleteFederatedBundleRequest {
                trust_domains: vec![id.to_owned()],
                mode: mode.into(),
            })
            .await
            .map_err(|status| server.error(&status))
            .context("failed to delete federated bundle")?
            .into_inner();
        let name = format!("{PACKAGE}.BatchDeleteFederatedBundleResponse");
        Printed::message(flags, &name, &response, |response| {
            let result = response
                .results
                .first()
                .context("server response missing result")?;
            let status = result.status.clone().unwrap_or_default();
            ensure!(
                status.code == 0,
                "failed to delete federated bundle {}: {}",
                quote(&result.trust_domain),
                status.message
            );
            Ok(Printed::text("bundle deleted.\n"))
        })
    })
}

fn header(trust_domain: &str) -> String {
    let stars = "*".repeat(40);
    format!("{stars}\n* {trust_domain}\n{stars}\n")
}

/// Renders a bundle with a newline at its end.
fn bundle_text(bundle: &types::Bundle, format: Format) -> anyhow::Result<String> {
    match format {
        Format::Pem => {
            let mut text = String::new();
            for authority in &bundle.x509_authorities {
                let certificates = parse_der_sequence(&authority.asn1)
                    .context("unable to parse certificates ASN.1 DER data")?;
                text.extend(
                    certificates
                        .iter()
                        .map(|der| pem::encode("CERTIFICATE", der)),
                );
            }
            Ok(text)
        }
        Format::Spiffe => {
            let bundle = convert::bundle::from_pb(bundle)?;
            Ok(jwks::to_json(&bundle).trim_end().to_owned() + "\n")
        }
    }
}

fn read(path: Option<&str>) -> anyhow::Result<String> {
    if let Some(path) = path {
        return Ok(read_text(path)?);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn parse_bundle(id: &str, text: &str, format: Format) -> anyhow::Result<types::Bundle> {
    match format {
        Format::Pem => {
            let certificates =
                pem::decode_all(text, "CERTIFICATE").context("unable to parse bundle data")?;
            ensure!(
                !certificates.is_empty(),
                "unable to parse bundle data: no PEM blocks"
            );
            Ok(types::Bundle {
                trust_domain: id.to_owned(),
                x509_authorities: certificates
                    .into_iter()
                    .map(|asn1| types::X509Certificate {
                        asn1,
                        ..types::X509Certificate::default()
                    })
                    .collect(),
                ..types::Bundle::default()
            })
        }
        Format::Spiffe => {
            let trust_domain = TrustDomain::parse(id)?;
            let bundle = jwks::from_json(&trust_domain, text)
                .map_err(|error| anyhow!(error).context("unable to parse to spiffe bundle"))?;
            Ok(convert::bundle::to_pb(&bundle))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_in_a_list_has_a_header() {
        let stars = "****************************************";
        assert_eq!(header("td"), format!("{stars}\n* td\n{stars}\n"));
    }

    #[test]
    fn the_format_is_read_without_regard_to_case() {
        let format = |text: &str| {
            let words = ["-format".to_owned(), text.to_owned()];
            Format::of(&show_flags().parse(&words).unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(format("SPIFFE"), Ok(Format::Spiffe));
        assert_eq!(format("bad"), Err("invalid format: \"bad\"".to_owned()));
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let error = parse_bundle("td", "", Format::Pem).unwrap_err();
        assert!(error.to_string().starts_with("unable to parse bundle data"));
    }
}
