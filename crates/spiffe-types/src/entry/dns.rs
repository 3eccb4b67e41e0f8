//! DNS names of SVIDs: ASCII, in strict IDNA form, with at most one leading wildcard.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::text::serde_as_text;

/// A DNS name, perhaps a wildcard such as `*.example.org`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(String);

impl DnsName {
    /// Checks and takes a name.
    pub fn parse(name: &str) -> Result<Self, DnsNameError> {
        if !name.is_ascii() {
            return Err(DnsNameError::NotAscii);
        }
        let domain = match name.bytes().filter(|byte| *byte == b'*').count() {
            0 => name,
            1 => name
                .strip_prefix("*.")
                .ok_or(DnsNameError::WildcardNotFirst)?,
            _ => return Err(DnsNameError::ManyWildcards),
        };
        check_domain(domain)?;
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether the first label is a wildcard.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }
}

/// Checks that no wildcard among `names` covers another of them.
pub fn check_wildcard_overlap<'a>(
    names: impl IntoIterator<Item = &'a DnsName>,
) -> Result<(), DnsNameError> {
    let names: BTreeSet<&str> = names.into_iter().map(DnsName::as_str).collect();
    for name in &names {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let covered = parent.is_some_and(|parent| names.contains(format!("*.{parent}").as_str()));
        if covered && !name.starts_with('*') {
            return Err(DnsNameError::Overlap {
                name: (*name).to_owned(),
            });
        }
    }
    Ok(())
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for DnsName {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, DnsNameError> {
        Self::parse(text)
    }
}

impl AsRef<str> for DnsName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

serde_as_text!(DnsName);

/// Why a text is no DNS name of an SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsNameError {
    /// It has characters beyond ASCII.
    #[error("name must be ascii")]
    NotAscii,
    /// It has several asterisks.
    #[error("too many wildcards")]
    ManyWildcards,
    /// The asterisk is not a label of its own at the start.
    #[error("wildcard must be first label")]
    WildcardNotFirst,
    /// Nothing is left besides a wildcard and blanks.
    #[error("empty or only whitespace")]
    Empty,
    /// It ends with a dot.
    #[error("domain ends with dot")]
    TrailingDot,
    /// A label has a character that is no letter, digit or hyphen.
    #[error("idna error: disallowed character in label {label:?}")]
    DisallowedCharacter {
        /// The label.
        label: String,
    },
    /// A label is empty or longer than 63 bytes, or the name longer than 253.
    #[error("idna error: invalid length of {part:?}")]
    Length {
        /// The label or the name.
        part: String,
    },
    /// A label begins or ends with a hyphen, or has two where only Punycode may.
    #[error("idna error: misplaced hyphen in label {label:?}")]
    Hyphen {
        /// The label.
        label: String,
    },
    /// A label that begins with `xn--` is not Punycode of something beyond ASCII.
    #[error("idna error: invalid punycode label {label:?}")]
    Punycode {
        /// The label.
        label: String,
    },
    /// A wildcard covers another name of the list.
    #[error("name {name:?} overlaps with an existing wildcard name in the list: wildcard overlap")]
    Overlap {
        /// The name that is covered.
        name: String,
    },
}

fn check_domain(domain: &str) -> Result<(), DnsNameError> {
    const MAX_NAME_BYTES: usize = 253;

    if domain.trim().is_empty() {
        return Err(DnsNameError::Empty);
    }
    if domain.ends_with('.') {
        return Err(DnsNameError::TrailingDot);
    }
    domain.split('.').try_for_each(check_label)?;
    if domain.len() > MAX_NAME_BYTES {
        return Err(DnsNameError::Length {
            part: domain.to_owned(),
        });
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), DnsNameError> {
    const MAX_LABEL_BYTES: usize = 63;

    let owned = || label.to_owned();
    if label.is_empty() || label.len() > MAX_LABEL_BYTES {
        return Err(DnsNameError::Length { part: owned() });
    }
    if !label
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Err(DnsNameError::DisallowedCharacter { label: owned() });
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(DnsNameError::Hyphen { label: owned() });
    }
    if let Some(encoded) = label.strip_prefix("xn--") {
        return match decode_punycode(encoded) {
            Some(decoded) if !decoded.is_ascii() => Ok(()),
            _ => Err(DnsNameError::Punycode { label: owned() }),
        };
    }
    if label.get(2..4) == Some("--") {
        return Err(DnsNameError::Hyphen { label: owned() });
    }
    Ok(())
}

/// RFC 3492 §6.2.
fn decode_punycode(encoded: &str) -> Option<String> {
    const BASE: u32 = 36;
    const T_MIN: u32 = 1;
    const T_MAX: u32 = 26;
    const INITIAL_BIAS: u32 = 72;
    const INITIAL_N: u32 = 128;

    let (basic, extended) = encoded.rsplit_once('-').unwrap_or(("", encoded));
    let mut output: Vec<char> = basic.chars().collect();
    let mut digits = extended.bytes();
    let (mut n, mut i, mut bias) = (INITIAL_N, 0_u32, INITIAL_BIAS);
    while digits.len() > 0 {
        let start = i;
        let mut weight = 1_u32;
        let mut k = BASE;
        loop {
            let digit = match digits.next()? {
                letter @ b'a'..=b'z' => u32::from(letter - b'a'),
                letter @ b'A'..=b'Z' => u32::from(letter - b'A'),
                digit @ b'0'..=b'9' => u32::from(digit - b'0') + 26,
                _ => return None,
            };
            i = digit.checked_mul(weight)?.checked_add(i)?;
            let threshold = k.saturating_sub(bias).clamp(T_MIN, T_MAX);
            if digit < threshold {
                break;
            }
            weight = weight.checked_mul(BASE - threshold)?;
            k += BASE;
        }
        let length = u32::try_from(output.len()).ok()? + 1;
        bias = adapt(i - start, length, start == 0);
        n = n.checked_add(i / length)?;
        i %= length;
        output.insert(usize::try_from(i).ok()?, char::from_u32(n)?);
        i += 1;
    }
    Some(output.into_iter().collect())
}

/// RFC 3492 §6.1.
const fn adapt(delta: u32, length: u32, first: bool) -> u32 {
    const DAMP: u32 = 700;
    const SKEW: u32 = 38;

    let mut delta = if first { delta / DAMP } else { delta / 2 };
    delta += delta / length;
    let mut k = 0;
    while delta > (36 - 1) * 26 / 2 {
        delta /= 36 - 1;
        k += 36;
    }
    k + (36 - 1 + 1) * delta / (delta + SKEW)
}
