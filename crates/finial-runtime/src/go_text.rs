//! Text as Go's `fmt` prints it.

use std::fmt;

/// Appends formatted text.
pub(crate) fn append(out: &mut String, text: fmt::Arguments<'_>) {
    match text.as_str() {
        Some(text) => out.push_str(text),
        None => out.push_str(&text.to_string()),
    }
}

/// Quotes as `%q` does.
pub fn quote(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    push_quoted(&mut out, value);
    out
}

pub(crate) fn push_quoted(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_control() => append(out, format_args!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => append(out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}
