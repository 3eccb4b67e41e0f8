//! Certificates of PKIs that nobody here would build, encoded by hand.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test support"
)]

use bytes::Bytes;

use crate::der;
use crate::key::PublicKey;
use crate::software::SoftwareKey;
use crate::x509::SubjectName;

/// A certificate draft with every oddity left to the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignCertificate {
    /// `CN` of the subject, its only attribute.
    pub common_name: String,
    /// Serial number, big endian; zero is allowed.
    pub serial: Vec<u8>,
    /// `GeneralizedTime`, such as `00010101000000Z`.
    pub not_before: String,
    /// `GeneralizedTime`.
    pub not_after: String,
    /// The CA flag; `None` leaves basic constraints out.
    pub is_ca: Option<bool>,
    /// Path length, for authorities.
    pub path_length: Option<u8>,
    /// The first byte of the key usage bits; `None` leaves the extension out.
    pub key_usage: Option<u8>,
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Subtrees of DNS names that an authority is limited to.
    pub permitted_dns: Vec<String>,
    /// Adds a critical extension that nobody knows.
    pub unknown_critical: bool,
}

/// Key usage bit `digitalSignature`.
pub const DIGITAL_SIGNATURE: u8 = 0x80;
/// Key usage bit `keyCertSign`.
pub const KEY_CERT_SIGN: u8 = 0x04;

impl ForeignCertificate {
    /// An authority as SPIRE's own test tool makes them: valid since the year 1, serial number 0, no key usage.
    pub fn authority(common_name: &str) -> Self {
        Self {
            common_name: common_name.to_owned(),
            serial: vec![0],
            not_before: "00010101000000Z".to_owned(),
            not_after: "99991231235959Z".to_owned(),
            is_ca: Some(true),
            path_length: None,
            key_usage: None,
            uris: Vec::new(),
            dns_names: Vec::new(),
            permitted_dns: Vec::new(),
            unknown_critical: false,
        }
    }

    /// A leaf of such an authority: no extended key usage, no basic constraints.
    pub fn leaf(common_name: &str) -> Self {
        Self {
            serial: vec![0x0a, 0x1b, 0x2c],
            is_ca: None,
            key_usage: Some(DIGITAL_SIGNATURE),
            ..Self::authority(common_name)
        }
    }

    /// Signs the draft for `key` as the authority called `issuer`.
    pub fn sign(&self, key: &PublicKey, issuer: &str, issuer_key: &SoftwareKey) -> Bytes {
        let algorithm = der::encode(
            der::SEQUENCE,
            &[&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]],
        );
        let time = |text: &str| der::encode(0x18, &[text.as_bytes()]);
        let validity = der::encode(
            der::SEQUENCE,
            &[&time(&self.not_before), &time(&self.not_after)],
        );
        let extensions = self.extensions();
        let extensions = if extensions.is_empty() {
            Vec::new()
        } else {
            der::encode(
                der::EXTENSIONS,
                &[&der::encode(der::SEQUENCE, &[&extensions])],
            )
        };
        let message = der::encode(
            der::SEQUENCE,
            &[
                &[0xa0, 3, 2, 1, 2],
                &der::encode(der::INTEGER, &[&self.serial]),
                &algorithm,
                &name(issuer),
                &validity,
                &name(&self.common_name),
                key.spki_der(),
                &extensions,
            ],
        );
        let signature = issuer_key.sign_possession(&message).expect("signature");
        let signature = der::encode(der::BIT_STRING, &[&[0], &signature]);
        Bytes::from(der::encode(
            der::SEQUENCE,
            &[&message, &algorithm, &signature],
        ))
    }

    /// Signs the draft by its own key.
    pub fn self_sign(&self, key: &SoftwareKey) -> Bytes {
        self.sign(key.public_key(), &self.common_name.clone(), key)
    }

    fn extensions(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(is_ca) = self.is_ca {
            let flag: &[u8] = if is_ca { &[1, 1, 0xff] } else { &[] };
            let length = self
                .path_length
                .map(|length| vec![2, 1, length])
                .unwrap_or_default();
            out.extend(extension(
                &[0x55, 0x1d, 19],
                true,
                &der::encode(der::SEQUENCE, &[flag, &length]),
            ));
        }
        if let Some(bits) = self.key_usage {
            out.extend(extension(&[0x55, 0x1d, 15], true, &[3, 2, 0, bits]));
        }
        if !self.uris.is_empty() || !self.dns_names.is_empty() {
            let uris = self
                .uris
                .iter()
                .map(|uri| der::encode(0x86, &[uri.as_bytes()]));
            let names = self
                .dns_names
                .iter()
                .map(|name| der::encode(0x82, &[name.as_bytes()]));
            let names = uris.chain(names).flatten().collect::<Vec<_>>();
            out.extend(extension(
                &[0x55, 0x1d, 17],
                false,
                &der::encode(der::SEQUENCE, &[&names]),
            ));
        }
        if !self.permitted_dns.is_empty() {
            let trees = self
                .permitted_dns
                .iter()
                .flat_map(|name| {
                    der::encode(der::SEQUENCE, &[&der::encode(0x82, &[name.as_bytes()])])
                })
                .collect::<Vec<_>>();
            let constraints = der::encode(der::SEQUENCE, &[&der::encode(0xa0, &[&trees])]);
            out.extend(extension(&[0x55, 0x1d, 30], true, &constraints));
        }
        if self.unknown_critical {
            out.extend(extension(&[0x2a, 3, 4], true, &[5, 0]));
        }
        out
    }
}

fn name(common_name: &str) -> Vec<u8> {
    SubjectName {
        common_name: common_name.to_owned(),
        ..SubjectName::default()
    }
    .to_der()
}

fn extension(identifier: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    der::encode(
        der::SEQUENCE,
        &[
            &der::encode(der::OBJECT_IDENTIFIER, &[identifier]),
            critical,
            &der::encode(0x04, &[value]),
        ],
    )
}
