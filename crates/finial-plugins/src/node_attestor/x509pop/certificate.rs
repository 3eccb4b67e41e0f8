//! What the server reads from a leaf certificate.

use std::collections::BTreeMap;

use finial_pki::key::{KeyAlgorithm, PublicKey, PublicKeyError};
use sha1::{Digest as _, Sha1};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::node_attestor::path_template::Value;

/// A leaf, by what attestation needs of it.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) public_key: Result<PublicKey, PublicKeyError>,
    pub(super) common_name: String,
    pub(super) serial_hex: String,
    pub(super) fingerprint: String,
    pub(super) can_sign: bool,
    pub(super) uris: Vec<String>,
    fields: Vec<(&'static str, Value)>,
}

impl Leaf {
    pub(super) fn parse(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("trailing data".to_owned());
        }
        let names = certificate
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    Some(names.general_names.as_slice())
                }
                _ => None,
            })
            .unwrap_or(&[]);
        let texts = |pick: fn(&GeneralName<'_>) -> Option<String>| {
            names.iter().filter_map(pick).collect::<Vec<_>>()
        };
        let uris = texts(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
        let dns_names = texts(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        let emails = texts(|name| match name {
            GeneralName::RFC822Name(name) => Some((*name).to_owned()),
            _ => None,
        });
        let addresses = texts(|name| match name {
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        });
        let usage = certificate.key_usage().ok().flatten();
        let fields = vec![
            ("Subject", name_value(certificate.subject())),
            ("Issuer", name_value(certificate.issuer())),
            ("SerialNumber", Value::from(certificate.serial.to_string())),
            (
                "Version",
                Value::Int(i64::from(certificate.version().0) + 1),
            ),
            ("IsCA", Value::Bool(certificate.is_ca())),
            ("DNSNames", Value::list(dns_names)),
            ("EmailAddresses", Value::list(emails)),
            ("IPAddresses", Value::list(addresses)),
            ("URIs", Value::list(uris.clone())),
        ];
        Ok(Self {
            public_key: PublicKey::from_spki_der(certificate.public_key().raw),
            common_name: attribute(certificate.subject(), COMMON_NAME)
                .pop()
                .unwrap_or_default(),
            serial_hex: serial_hex(certificate.raw_serial()),
            fingerprint: fingerprint(der),
            can_sign: usage.is_some_and(|usage| usage.value.digital_signature()),
            uris,
            fields,
        })
    }

    /// Says whether the key is an RSA one above the limit.
    pub(super) fn exceeds(&self, max_rsa_key_bits: usize) -> bool {
        matches!(&self.public_key, Ok(key) if matches!(key.algorithm(), KeyAlgorithm::Rsa { bits } if bits > max_rsa_key_bits))
    }

    /// Reads `x509pop://<trust domain>/<key>/<value>` names.
    pub(super) fn san_selectors(&self, trust_domain: &str) -> BTreeMap<String, String> {
        let prefix = format!("x509pop://{trust_domain}/");
        let mut selectors = BTreeMap::new();
        for uri in &self.uris {
            let Some(path) = uri.strip_prefix(&prefix) else {
                continue;
            };
            let path = path.split(['?', '#']).next().unwrap_or(path);
            let path = percent_decoded(path.trim_matches('/'));
            if let Some((key, value)) = path.split_once('/') {
                selectors.insert(key.to_owned(), value.to_owned());
            } else {
                tracing::warn!(uri, "Cannot extract x509pop san selectors");
            }
        }
        selectors
    }

    /// Returns the data of path templates.
    pub(super) fn template_data(
        &self,
        trust_domain: &str,
        svid_path_trimmed: &str,
        san_selectors: &BTreeMap<String, String>,
    ) -> Value {
        let own = [
            ("SerialNumberHex", Value::from(self.serial_hex.as_str())),
            ("Fingerprint", Value::from(self.fingerprint.as_str())),
            ("PluginName", Value::from(super::NAME)),
            ("TrustDomain", Value::from(trust_domain)),
            ("SVIDPathTrimmed", Value::from(svid_path_trimmed)),
            (
                "URISanSelectors",
                Value::map(
                    san_selectors
                        .iter()
                        .map(|(key, value)| (key.as_str(), Value::from(value.as_str()))),
                ),
            ),
        ];
        Value::map(self.fields.iter().cloned().chain(own))
    }
}

/// Returns the lower-case hex SHA-1 of a certificate.
pub(super) fn fingerprint(der: &[u8]) -> String {
    hex::encode(Sha1::digest(der))
}

/// Two digits a byte, without leading zero bytes; zero itself is `00`.
fn serial_hex(raw: &[u8]) -> String {
    let significant = raw
        .iter()
        .skip_while(|byte| **byte == 0)
        .copied()
        .collect::<Vec<_>>();
    if significant.is_empty() {
        "00".to_owned()
    } else {
        hex::encode(significant)
    }
}

fn attribute(name: &X509Name<'_>, kind: &[u8]) -> Vec<String> {
    name.iter_attributes()
        .filter(|attribute| attribute.attr_type().as_bytes() == kind)
        .filter_map(|attribute| attribute.as_str().ok().map(str::to_owned))
        .collect()
}

fn name_value(name: &X509Name<'_>) -> Value {
    let last = |kind| Value::from(attribute(name, kind).pop().unwrap_or_default());
    let all = |kind| Value::list(attribute(name, kind));
    let fields = [
        ("CommonName", last(COMMON_NAME)),
        ("SerialNumber", last(SERIAL_NUMBER)),
        ("Country", all(COUNTRY)),
        ("Locality", all(LOCALITY)),
        ("Province", all(PROVINCE)),
        ("StreetAddress", all(STREET_ADDRESS)),
        ("Organization", all(ORGANIZATION)),
        ("OrganizationalUnit", all(ORGANIZATIONAL_UNIT)),
        ("PostalCode", all(POSTAL_CODE)),
    ];
    Value::Map {
        display: Some(name.to_string()),
        fields: fields
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(octets).to_string());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|octets| std::net::Ipv6Addr::from(octets).to_string())
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = after
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|digits| hex::decode(digits).ok());
        if let Some(decoded) = decoded {
            out.extend(decoded);
            rest = after.get(2..).unwrap_or(&[]);
        } else {
            out.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const SERIAL_NUMBER: &[u8] = &[0x55, 4, 5];
const COUNTRY: &[u8] = &[0x55, 4, 6];
const LOCALITY: &[u8] = &[0x55, 4, 7];
const PROVINCE: &[u8] = &[0x55, 4, 8];
const STREET_ADDRESS: &[u8] = &[0x55, 4, 9];
const ORGANIZATION: &[u8] = &[0x55, 4, 10];
const ORGANIZATIONAL_UNIT: &[u8] = &[0x55, 4, 11];
const POSTAL_CODE: &[u8] = &[0x55, 4, 17];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_have_two_digits_a_byte() {
        assert_eq!(serial_hex(&[0x00, 0x8a]), "8a");
        assert_eq!(serial_hex(&[0x0a, 0x1b]), "0a1b");
        assert_eq!(serial_hex(&[0]), "00");
    }

    #[test]
    fn percent_escapes_are_decoded_and_broken_ones_kept() {
        assert_eq!(percent_decoded("a%2Fb%zz%4"), "a/b%zz%4");
    }
}
