//! Certificates with any defect, built extension by extension.

use bytes::Bytes;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, SerialNumber};

pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
pub(crate) const KEY_CERT_SIGN: u8 = 0x04;
pub(crate) const CRL_SIGN: u8 = 0x02;

pub(crate) const SERVER_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
pub(crate) const CLIENT_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// What a certificate says; each field leaves its extension out when there is nothing to say.
pub(crate) struct Draft {
    pub(crate) subject: bool,
    pub(crate) names: Vec<(u8, String)>,
    pub(crate) names_critical: bool,
    pub(crate) ca: Option<bool>,
    pub(crate) key_usage: Option<u8>,
    pub(crate) key_usage_critical: bool,
    pub(crate) extended_key_usage: Option<Vec<&'static [u8]>>,
    pub(crate) subject_key_id: Option<Vec<u8>>,
    pub(crate) authority_key_id: Option<Vec<u8>>,
    pub(crate) extra: Vec<CustomExtension>,
    pub(crate) serial: Vec<u8>,
}

impl Draft {
    pub(crate) fn leaf(uri: &str) -> Self {
        Self {
            subject: true,
            names: vec![(URI, uri.to_owned())],
            names_critical: false,
            ca: Some(false),
            key_usage: Some(DIGITAL_SIGNATURE),
            key_usage_critical: true,
            extended_key_usage: Some(vec![SERVER_AUTH, CLIENT_AUTH]),
            subject_key_id: Some(vec![0xab; 20]),
            authority_key_id: Some(vec![0xcd; 20]),
            extra: Vec::new(),
            serial: vec![0x01, 0x00],
        }
    }

    pub(crate) fn signer(uri: &str) -> Self {
        Self {
            ca: Some(true),
            key_usage: Some(KEY_CERT_SIGN | CRL_SIGN),
            extended_key_usage: None,
            ..Self::leaf(uri)
        }
    }

    pub(crate) fn der(&self) -> Bytes {
        self.der_with(&KeyPair::generate().unwrap())
    }

    pub(crate) fn der_with(&self, key: &KeyPair) -> Bytes {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if self.subject {
            params
                .distinguished_name
                .push(DnType::OrganizationName, "SPIRE");
        }
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        params.serial_number = Some(SerialNumber::from_slice(&self.serial));
        let mut extensions = Vec::new();
        if !self.names.is_empty() {
            let names: Vec<u8> = self
                .names
                .iter()
                .flat_map(|(tag, name)| tlv(*tag, name.as_bytes()))
                .collect();
            extensions.push(extension(17, &tlv(SEQUENCE, &names), self.names_critical));
        }
        if let Some(ca) = self.ca {
            let flag: &[u8] = if ca { &[0x01, 0x01, 0xff] } else { &[] };
            extensions.push(extension(19, &tlv(SEQUENCE, flag), true));
        }
        if let Some(bits) = self.key_usage {
            let unused = u8::try_from(bits.trailing_zeros()).unwrap();
            extensions.push(extension(
                15,
                &tlv(0x03, &[unused, bits]),
                self.key_usage_critical,
            ));
        }
        if let Some(usages) = &self.extended_key_usage {
            extensions.push(extension(37, &tlv(SEQUENCE, &usages.concat()), false));
        }
        if let Some(id) = &self.subject_key_id {
            extensions.push(extension(14, &tlv(0x04, id), false));
        }
        if let Some(id) = &self.authority_key_id {
            extensions.push(extension(35, &tlv(SEQUENCE, &tlv(0x80, id)), false));
        }
        extensions.extend(self.extra.iter().cloned());
        params.custom_extensions = extensions;
        Bytes::copy_from_slice(params.self_signed(key).unwrap().der())
    }
}

/// The extension `2.5.29.number`.
pub(crate) fn extension(number: u64, content: &[u8], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, number], content.to_vec());
    extension.set_criticality(critical);
    extension
}

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut element = vec![tag];
    match content.len() {
        short @ 0..=0x7f => element.push(u8::try_from(short).unwrap()),
        long @ 0x80..=0xff => element.extend([0x81, u8::try_from(long).unwrap()]),
        long => {
            element.push(0x82);
            element.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    element.extend_from_slice(content);
    element
}

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const URI: u8 = 0x86;
