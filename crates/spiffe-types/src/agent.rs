//! Agents: nodes that proved who they are.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use crate::id::SpiffeId;
use crate::selector::SelectorSet;
use crate::text::serde_as_text;

/// An agent as the server remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestedAgent {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The attestor that admitted it, such as `x509pop`.
    pub attestation_type: String,
    /// The serial number of its SVID; `None` when it is banned.
    pub serial: Option<SerialNumber>,
    /// When its SVID ends.
    pub expires_at: SystemTime,
    /// A renewed SVID it has not yet shown: both serial numbers count until it does.
    pub new_serial: Option<SerialNumber>,
    /// When the renewed SVID ends.
    pub new_expires_at: Option<SystemTime>,
    /// Whether it attests again instead of renewing.
    pub can_reattest: bool,
    /// What attestation found out about its node.
    pub selectors: SelectorSet,
    /// The version it reported last; empty when it never did.
    pub agent_version: String,
}

impl AttestedAgent {
    /// Tells whether the agent was banned. Only deletion ends a ban.
    pub const fn is_banned(&self) -> bool {
        self.serial.is_none()
    }
}

/// The serial number of a certificate, of any length. Shown in decimal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SerialNumber {
    /// Big-endian, without leading zeros; empty for zero.
    magnitude: Vec<u8>,
}

impl SerialNumber {
    /// Reads the content octets of a DER INTEGER as an unsigned number.
    pub fn from_be_bytes(bytes: &[u8]) -> Self {
        let magnitude = bytes
            .iter()
            .copied()
            .skip_while(|byte| *byte == 0)
            .collect();
        Self { magnitude }
    }

    /// The big-endian bytes without leading zeros; empty for zero.
    pub fn as_be_bytes(&self) -> &[u8] {
        &self.magnitude
    }
}

impl PartialOrd for SerialNumber {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SerialNumber {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let by_length = self.magnitude.len().cmp(&other.magnitude.len());
        by_length.then_with(|| self.magnitude.cmp(&other.magnitude))
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Little-endian groups of nine digits: number := number * 256 + byte, group by group.
        let mut groups = vec![0_u64];
        for byte in &self.magnitude {
            let mut carry = u64::from(*byte);
            for group in &mut groups {
                let value = *group * 256 + carry;
                *group = value % GROUP;
                carry = value / GROUP;
            }
            if carry > 0 {
                groups.push(carry);
            }
        }
        let mut groups = groups.iter().rev();
        write!(f, "{}", groups.next().unwrap_or(&0))?;
        groups.try_for_each(|group| write!(f, "{group:09}"))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SerialNumber {
    type Err = SerialNumberError;

    fn from_str(text: &str) -> Result<Self, SerialNumberError> {
        if text.is_empty() || text.len() > MAX_DIGITS {
            return Err(SerialNumberError);
        }
        let mut little_endian: Vec<u8> = Vec::new();
        for digit in text.bytes() {
            if !digit.is_ascii_digit() {
                return Err(SerialNumberError);
            }
            let mut carry = u16::from(digit - b'0');
            for byte in &mut little_endian {
                let [high, low] = (u16::from(*byte) * 10 + carry).to_be_bytes();
                *byte = low;
                carry = u16::from(high);
            }
            let [_, low] = carry.to_be_bytes();
            if low > 0 {
                little_endian.push(low);
            }
        }
        little_endian.reverse();
        Ok(Self {
            magnitude: little_endian,
        })
    }
}

serde_as_text!(SerialNumber);

/// The text is not an unsigned decimal number of at most 128 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("serial number must be a decimal number of at most 128 digits")]
pub struct SerialNumberError;

const GROUP: u64 = 1_000_000_000;
/// RFC 5280 §4.1.2.2 asks for at most 20 octets, 49 digits; others have been seen.
const MAX_DIGITS: usize = 128;
