//! PEM (RFC 7468), for certificates and keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// The label of a certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a PKCS#8 private key.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";
/// The label of a PKIX public key.
pub const PUBLIC_KEY: &str = "PUBLIC KEY";

const LINE_CHARACTERS: usize = 64;

/// Writes one block of 64-character lines that ends with a newline.
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text =
        String::with_capacity(body.len() + body.len() / LINE_CHARACTERS + 2 * label.len() + 40);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for (position, character) in body.chars().enumerate() {
        if position > 0 && position % LINE_CHARACTERS == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    if !body.is_empty() {
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// Reads every block with `label`, in order. Other blocks, and text between blocks, are passed over.
pub fn decode_all(text: &str, label: &str) -> Result<Vec<Bytes>, PemError> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(begun) = boundary(line, "-----BEGIN ") else {
            continue;
        };
        let line = number + 1;
        let mut body = String::new();
        loop {
            let Some((_, content)) = lines.next() else {
                return Err(PemError::Unterminated {
                    label: begun.to_owned(),
                    line,
                });
            };
            match boundary(content, "-----END ") {
                Some(ended) if ended == begun => break,
                Some(_) => {
                    return Err(PemError::Unterminated {
                        label: begun.to_owned(),
                        line,
                    });
                }
                // A header, as of an encrypted key; only foreign blocks have them.
                None if content.contains(':') && begun != label => {}
                None => body.extend(
                    content
                        .chars()
                        .filter(|character| !character.is_ascii_whitespace()),
                ),
            }
        }
        if begun == label {
            let der = STANDARD.decode(&body).map_err(|source| PemError::Base64 {
                label: begun.to_owned(),
                line,
                source,
            })?;
            found.push(Bytes::from(der));
        }
    }
    if found.is_empty() {
        return Err(PemError::Missing {
            label: label.to_owned(),
        });
    }
    Ok(found)
}

/// The label of a boundary line, if it is one.
fn boundary<'a>(line: &'a str, prefix: &str) -> Option<&'a str> {
    line.trim().strip_prefix(prefix)?.strip_suffix("-----")
}

/// Why a text held no PEM of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// No block has the label.
    #[error("no PEM block of type {label:?}")]
    Missing {
        /// The wanted label.
        label: String,
    },
    /// A block has no end of its own.
    #[error("PEM block {label:?} that begins on line {line} has no end")]
    Unterminated {
        /// The label it began with.
        label: String,
        /// The line of its beginning, counted from 1.
        line: usize,
    },
    /// A body is not Base64.
    #[error("PEM block {label:?} that begins on line {line} is not valid base64")]
    Base64 {
        /// Its label.
        label: String,
        /// The line of its beginning, counted from 1.
        line: usize,
        /// What the decoder says.
        source: base64::DecodeError,
    },
}
