//! Just enough DER to take a structure apart and put it together again, byte for byte.
//!
//! Used where a parser would lose bytes that must survive: names, keys and the signed part of certificates.

/// Returned for bytes that are not the DER that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed DER")]
pub(crate) struct MalformedDer;

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const EXTENSIONS: u8 = 0xa3;

/// One element: its tag, its content, and all of its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) raw: &'a [u8],
}

impl<'a> Element<'a> {
    /// Returns the content of an element that must carry `tag`.
    pub(crate) fn expect(self, tag: u8) -> Result<&'a [u8], MalformedDer> {
        if self.tag == tag {
            Ok(self.content)
        } else {
            Err(MalformedDer)
        }
    }
}

/// Splits the first element off `input`.
pub(crate) fn read(input: &[u8]) -> Result<(Element<'_>, &[u8]), MalformedDer> {
    let (&tag, rest) = input.split_first().ok_or(MalformedDer)?;
    if tag & 0x1f == 0x1f {
        return Err(MalformedDer); // high tag numbers do not occur in X.509
    }
    let (&first, mut rest) = rest.split_first().ok_or(MalformedDer)?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return Err(MalformedDer);
        }
        let (bytes, after) = rest.split_at_checked(count).ok_or(MalformedDer)?;
        rest = after;
        let length = bytes
            .iter()
            .fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
        let minimal = length >= 0x80 && bytes.first() != Some(&0);
        if !minimal {
            return Err(MalformedDer);
        }
        length
    };
    let (content, after) = rest.split_at_checked(length).ok_or(MalformedDer)?;
    let header = input.len() - rest.len();
    let (raw, _) = input
        .split_at_checked(header + length)
        .ok_or(MalformedDer)?;
    Ok((Element { tag, content, raw }, after))
}

/// Reads the one element that `input` consists of.
pub(crate) fn read_only(input: &[u8]) -> Result<Element<'_>, MalformedDer> {
    let (element, rest) = read(input)?;
    if rest.is_empty() {
        Ok(element)
    } else {
        Err(MalformedDer)
    }
}

/// Reads all elements of the content of a constructed one.
pub(crate) fn elements(mut content: &[u8]) -> Result<Vec<Element<'_>>, MalformedDer> {
    let mut found = Vec::with_capacity(8);
    while !content.is_empty() {
        let (element, rest) = read(content)?;
        found.push(element);
        content = rest;
    }
    Ok(found)
}

/// Encodes an element whose content is the concatenation of `parts`.
pub(crate) fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    push_length(&mut out, length);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let significant = bytes.iter().skip_while(|byte| **byte == 0);
            let count = u8::try_from(significant.clone().count()).unwrap_or(u8::MAX);
            out.push(0x80 | count);
            out.extend(significant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_reads_back_at_every_length_form() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![0x5a; length];
            let encoded = encode(SEQUENCE, &[&content]);
            let element = read_only(&encoded).unwrap();
            assert_eq!(element.content, content);
            assert_eq!(element.raw, encoded);
        }
    }

    #[test]
    fn lengths_that_are_not_minimal_or_overrun_are_refused() {
        for bytes in [
            &[0x30, 0x81, 0x01, 0x00][..],
            &[0x30, 0x80],
            &[0x30, 0x02, 0x00],
            &[0x30],
            &[0x3f, 0x01, 0x00],
        ] {
            assert!(read(bytes).is_err(), "{bytes:02x?}");
        }
    }
}
