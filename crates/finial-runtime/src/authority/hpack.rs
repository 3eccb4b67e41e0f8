//! Encodes header blocks again, without the dynamic table and with another `:authority` (RFC 7541).
//!
//! String literals stay the raw bytes they came in, Huffman-coded or not: nothing here needs to read them. The copy of the client's
//! dynamic table stores those raw bytes too. It may hold entries that the client has evicted already, which is harmless: indices count
//! from the newest entry, so eviction renumbers nothing, and a client does not name what it has evicted.

use std::collections::VecDeque;
use std::sync::Arc;

/// The decoder state of one connection.
#[derive(Debug)]
pub(super) struct Recoder {
    /// Newest first.
    table: VecDeque<(Name, Literal)>,
    table_bytes: usize,
    /// Entries the client's table can hold: every entry counts for 32 bytes at least.
    table_entries: usize,
}

impl Default for Recoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            table_bytes: 0,
            table_entries: TABLE_LIMIT_BYTES / ENTRY_OVERHEAD,
        }
    }
}

impl Recoder {
    /// Returns `block` with `:authority` replaced by `localhost`, in at most `limit` bytes.
    pub(super) fn recode(&mut self, block: &[u8], limit: usize) -> Result<Vec<u8>, HpackError> {
        let mut input = block;
        let mut out = Vec::with_capacity(block.len() + LOCALHOST.len() + 2);
        let mut fields = 0_usize;
        while let Some(&first) = input.first() {
            if first & INDEXED != 0 {
                match integer(&mut input, 7)? {
                    0 => return Err(HpackError::Index),
                    STATIC_AUTHORITY => {
                        write_field(&mut out, 0, &Name::Static(STATIC_AUTHORITY), &localhost());
                    }
                    index if index < FIRST_DYNAMIC => write_integer(&mut out, INDEXED, 7, index),
                    index => {
                        let (name, value) = self.entry(index)?;
                        write_field(&mut out, 0, name, value);
                    }
                }
            } else if first & 0xe0 == SIZE_UPDATE {
                if fields > 0 {
                    return Err(HpackError::LateSizeUpdate);
                }
                self.resize(integer(&mut input, 5)?)?;
                continue;
            } else {
                let indexing = first & INCREMENTAL != 0;
                let name = match integer(&mut input, if indexing { 6 } else { 4 })? {
                    0 => Name::Literal(Literal::parse(&mut input)?),
                    index if index < FIRST_DYNAMIC => Name::Static(index),
                    index => self.entry(index)?.0.clone(),
                };
                let mut value = Literal::parse(&mut input)?;
                if name.is_authority() {
                    value = localhost();
                }
                write_field(
                    &mut out,
                    if indexing { 0 } else { first & NEVER_INDEXED },
                    &name,
                    &value,
                );
                if indexing {
                    self.remember(name, value);
                }
            }
            fields += 1;
            if out.len() > limit {
                return Err(HpackError::TooLarge);
            }
        }
        Ok(out)
    }

    fn entry(&self, index: usize) -> Result<&(Name, Literal), HpackError> {
        self.table
            .get(index.saturating_sub(FIRST_DYNAMIC))
            .ok_or(HpackError::Index)
    }

    fn resize(&mut self, size_bytes: usize) -> Result<(), HpackError> {
        if size_bytes > TABLE_LIMIT_BYTES {
            return Err(HpackError::TableSize);
        }
        self.table_entries = size_bytes / ENTRY_OVERHEAD;
        self.evict();
        Ok(())
    }

    fn remember(&mut self, name: Name, value: Literal) {
        self.table_bytes += name.len() + value.len();
        self.table.push_front((name, value));
        self.evict();
    }

    fn evict(&mut self) {
        while self.table.len() > self.table_entries || self.table_bytes > RAW_TABLE_LIMIT_BYTES {
            let Some((name, value)) = self.table.pop_back() else {
                return;
            };
            self.table_bytes -= name.len() + value.len();
        }
    }
}

/// Why a header block could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum HpackError {
    #[error("block ends in the middle of a field")]
    Truncated,
    #[error("integer is out of range")]
    Integer,
    #[error("index names no table entry")]
    Index,
    #[error("table size update exceeds the limit of {TABLE_LIMIT_BYTES} bytes")]
    TableSize,
    #[error("table size update follows a field")]
    LateSizeUpdate,
    #[error("block grows too large when expanded")]
    TooLarge,
}

#[derive(Debug, Clone)]
enum Name {
    Static(usize),
    Literal(Literal),
}

impl Name {
    fn is_authority(&self) -> bool {
        match self {
            Self::Static(index) => *index == STATIC_AUTHORITY,
            Self::Literal(literal) if literal.huffman => *literal.bytes == *AUTHORITY_HUFFMAN,
            Self::Literal(literal) => *literal.bytes == *AUTHORITY,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Static(_) => 0,
            Self::Literal(literal) => literal.len(),
        }
    }
}

/// A string as it stood on the wire.
#[derive(Debug, Clone)]
struct Literal {
    huffman: bool,
    bytes: Arc<[u8]>,
}

impl Literal {
    fn parse(input: &mut &[u8]) -> Result<Self, HpackError> {
        let first = *input.first().ok_or(HpackError::Truncated)?;
        let length = integer(input, 7)?;
        let (bytes, rest) = input
            .split_at_checked(length)
            .ok_or(HpackError::Truncated)?;
        *input = rest;
        Ok(Self {
            huffman: first & HUFFMAN != 0,
            bytes: bytes.into(),
        })
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_integer(
            out,
            if self.huffman { HUFFMAN } else { 0 },
            7,
            self.bytes.len(),
        );
        out.extend_from_slice(&self.bytes);
    }
}

fn localhost() -> Literal {
    Literal {
        huffman: false,
        bytes: LOCALHOST.into(),
    }
}

fn write_field(out: &mut Vec<u8>, flags: u8, name: &Name, value: &Literal) {
    match name {
        Name::Static(index) => write_integer(out, flags, 4, *index),
        Name::Literal(literal) => {
            out.push(flags);
            literal.write(out);
        }
    }
    value.write(out);
}

/// RFC 7541 §5.1, with a prefix of `bits`. Values that no block of 64 KiB can mean are refused.
fn integer(input: &mut &[u8], bits: u8) -> Result<usize, HpackError> {
    let mask = (1_u8 << bits) - 1;
    let (first, mut rest) = input.split_first().ok_or(HpackError::Truncated)?;
    let mut value = usize::from(first & mask);
    if value == usize::from(mask) {
        let mut shift = 0_u32;
        loop {
            let (byte, after) = rest.split_first().ok_or(HpackError::Truncated)?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(HpackError::Integer);
            }
        }
    }
    *input = rest;
    Ok(value)
}

fn write_integer(out: &mut Vec<u8>, flags: u8, bits: u8, value: usize) {
    let mask = (1_u8 << bits) - 1;
    match u8::try_from(value) {
        Ok(small) if small < mask => out.push(flags | small),
        Ok(_) | Err(_) => {
            out.push(flags | mask);
            let mut rest = value - usize::from(mask);
            while rest >= 0x80 {
                out.push(u8::try_from(rest & 0x7f).unwrap_or_default() | 0x80);
                rest >>= 7;
            }
            out.push(u8::try_from(rest).unwrap_or_default());
        }
    }
}

const INDEXED: u8 = 0x80;
const INCREMENTAL: u8 = 0x40;
const SIZE_UPDATE: u8 = 0x20;
const NEVER_INDEXED: u8 = 0x10;
const HUFFMAN: u8 = 0x80;
const STATIC_AUTHORITY: usize = 1;
const FIRST_DYNAMIC: usize = 62;
const LOCALHOST: &[u8] = b"localhost";
const AUTHORITY: &[u8] = b":authority";
/// The one Huffman form of [`AUTHORITY`]: the code is canonical and its padding is fixed.
const AUTHORITY_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// `SETTINGS_HEADER_TABLE_SIZE` unless a server says otherwise, which ours do not.
const TABLE_LIMIT_BYTES: usize = 4096;
const ENTRY_OVERHEAD: usize = 32;
/// A Huffman-coded string is up to 3.75 times as long as its text: this holds whatever a 4096-byte table can.
const RAW_TABLE_LIMIT_BYTES: usize = 32 * 1024;
