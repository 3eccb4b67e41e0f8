//! Subject names.

use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::der;

/// A subject, by the attributes that are configurable or that a CSR may ask for.
///
/// Encoded as Go does it, so that names stay equal when an authority moves over: attributes of one type share a set, types come
/// in a fixed order, and a value is a `PrintableString` where it can be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SubjectName {
    /// `C`.
    pub country: Vec<String>,
    /// `O`.
    pub organization: Vec<String>,
    /// `OU`.
    pub organizational_unit: Vec<String>,
    /// `L`.
    pub locality: Vec<String>,
    /// `ST`.
    pub province: Vec<String>,
    /// `STREET`.
    pub street_address: Vec<String>,
    /// Postal code.
    pub postal_code: Vec<String>,
    /// `CN`; empty means none.
    pub common_name: String,
    /// `serialNumber`; empty means none.
    pub serial_number: String,
}

/// Returned for bytes that are not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed name: {reason}")]
pub struct SubjectNameError {
    reason: String,
}

impl SubjectName {
    /// The subject of SVIDs: `C=US, O=SPIRE`.
    pub fn svid_default() -> Self {
        Self {
            country: vec!["US".to_owned()],
            organization: vec!["SPIRE".to_owned()],
            ..Self::default()
        }
    }

    /// The subject of authorities unless configured otherwise: `C=US, O=SPIFFE`.
    pub fn ca_default() -> Self {
        Self {
            country: vec!["US".to_owned()],
            organization: vec!["SPIFFE".to_owned()],
            ..Self::default()
        }
    }

    /// Reads a DER name; attributes of types not listed here are left out.
    pub fn from_der(bytes: &[u8]) -> Result<Self, SubjectNameError> {
        let (_, name) = X509Name::from_der(bytes).map_err(|error| SubjectNameError {
            reason: error.to_string(),
        })?;
        let mut subject = Self::default();
        for attribute in name.iter_attributes() {
            let Ok(value) = attribute.as_str() else {
                continue;
            };
            let value = value.to_owned();
            match attribute.attr_type().as_bytes() {
                COUNTRY => subject.country.push(value),
                ORGANIZATION => subject.organization.push(value),
                ORGANIZATIONAL_UNIT => subject.organizational_unit.push(value),
                LOCALITY => subject.locality.push(value),
                PROVINCE => subject.province.push(value),
                STREET_ADDRESS => subject.street_address.push(value),
                POSTAL_CODE => subject.postal_code.push(value),
                COMMON_NAME => subject.common_name = value,
                SERIAL_NUMBER => subject.serial_number = value,
                _ => {}
            }
        }
        Ok(subject)
    }

    /// Says whether there is no attribute at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Encodes the name.
    pub fn to_der(&self) -> Vec<u8> {
        let one = |value: &String| {
            if value.is_empty() {
                Vec::new()
            } else {
                vec![value.clone()]
            }
        };
        let (common_name, serial_number) = (one(&self.common_name), one(&self.serial_number));
        let sets = [
            (COUNTRY, &self.country),
            (ORGANIZATION, &self.organization),
            (ORGANIZATIONAL_UNIT, &self.organizational_unit),
            (LOCALITY, &self.locality),
            (PROVINCE, &self.province),
            (STREET_ADDRESS, &self.street_address),
            (POSTAL_CODE, &self.postal_code),
            (COMMON_NAME, &common_name),
            (SERIAL_NUMBER, &serial_number),
        ];
        let sets = sets
            .into_iter()
            .filter(|(_, values)| !values.is_empty())
            .flat_map(|(kind, values)| encode_set(kind, values))
            .collect::<Vec<_>>();
        der::encode(der::SEQUENCE, &[&sets])
    }
}

fn encode_set(kind: &[u8], values: &[String]) -> Vec<u8> {
    let kind = der::encode(der::OBJECT_IDENTIFIER, &[kind]);
    let mut attributes = values
        .iter()
        .map(|value| {
            let tag = if value.bytes().all(is_printable) {
                der::PRINTABLE_STRING
            } else {
                der::UTF8_STRING
            };
            der::encode(
                der::SEQUENCE,
                &[&kind, &der::encode(tag, &[value.as_bytes()])],
            )
        })
        .collect::<Vec<_>>();
    attributes.sort_unstable(); // DER orders the members of a set
    der::encode(der::SET, &[&attributes.concat()])
}

const fn is_printable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b' ' | b'\'' | b'(' | b')' | b'+' | b',' | b'-' | b'.' | b'/' | b':' | b'=' | b'?'
        )
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

/// A DER name as Go prints it, most specific attribute first; empty for bytes that are not a name.
pub fn distinguished_name(der: &[u8]) -> String {
    let Ok(name) = SubjectName::from_der(der) else {
        return String::new();
    };
    let one = |value: String| {
        if value.is_empty() {
            vec![]
        } else {
            vec![value]
        }
    };
    let attributes = [
        ("SERIALNUMBER", one(name.serial_number)),
        ("CN", one(name.common_name)),
        ("POSTALCODE", name.postal_code),
        ("STREET", name.street_address),
        ("ST", name.province),
        ("L", name.locality),
        ("OU", name.organizational_unit),
        ("O", name.organization),
        ("C", name.country),
    ];
    attributes
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(key, values)| {
            let values: Vec<_> = values
                .iter()
                .map(|value| format!("{key}={}", escaped(value)))
                .collect();
            values.join("+")
        })
        .collect::<Vec<_>>()
        .join(",")
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (position, letter) in value.chars().enumerate() {
        let special = matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (letter == ' ' && (position == 0 || position == last))
            || (letter == '#' && position == 0);
        if special {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_repeated_and_non_ascii_attributes_survives() {
        let name = SubjectName {
            country: vec!["US".to_owned()],
            organization: vec!["First".to_owned(), "Second & Söhne".to_owned()],
            common_name: "up".to_owned(),
            serial_number: "42".to_owned(),
            ..SubjectName::default()
        };
        let mut read = SubjectName::from_der(&name.to_der()).unwrap();
        read.organization.sort();
        assert_eq!(read, name);
    }

    #[test]
    fn the_default_subject_is_encoded_as_the_field_encodes_it() {
        assert_eq!(
            hex::encode(SubjectName::svid_default().to_der()),
            "301d310b3009060355040613025553310e300c060355040a13055350495245"
        );
    }

    #[test]
    fn names_read_as_go_prints_them() {
        let name = SubjectName {
            common_name: "a, b".to_owned(),
            ..SubjectName::svid_default()
        };
        assert_eq!(distinguished_name(&name.to_der()), "CN=a\\, b,O=SPIRE,C=US");
        assert_eq!(distinguished_name(b"none"), "");
    }
}
