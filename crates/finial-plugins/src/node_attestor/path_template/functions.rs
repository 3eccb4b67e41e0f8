//! The functions: Go's own, and those of sprig that make sense in a path. The piped value is the last argument.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::Value;

pub(super) const NAMES: &[&str] = &[
    "abbrev",
    "adler32sum",
    "and",
    "append",
    "b64dec",
    "b64enc",
    "base",
    "cat",
    "coalesce",
    "compact",
    "concat",
    "contains",
    "default",
    "dir",
    "empty",
    "eq",
    "fail",
    "first",
    "has",
    "hasPrefix",
    "hasSuffix",
    "indent",
    "index",
    "initial",
    "join",
    "kebabcase",
    "last",
    "len",
    "list",
    "lower",
    "ne",
    "nospace",
    "not",
    "or",
    "print",
    "printf",
    "quote",
    "repeat",
    "replace",
    "rest",
    "reverse",
    "sha1sum",
    "sha256sum",
    "snakecase",
    "sortAlpha",
    "splitList",
    "squote",
    "substr",
    "ternary",
    "title",
    "toString",
    "trim",
    "trimAll",
    "trimPrefix",
    "trimSuffix",
    "trunc",
    "uniq",
    "untitle",
    "upper",
    "without",
];

pub(super) fn is_known(name: &str) -> bool {
    NAMES.binary_search(&name).is_ok()
}

pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let text = |value: String| Ok(Value::Text(value));
    match (name, arguments) {
        ("and", [first, rest @ ..]) => Ok(std::iter::once(first)
            .chain(rest)
            .find(|v| !v.is_true())
            .or_else(|| rest.last())
            .unwrap_or(first)
            .clone()),
        ("or", [first, rest @ ..]) => Ok(std::iter::once(first)
            .chain(rest)
            .find(|v| v.is_true())
            .or_else(|| rest.last())
            .unwrap_or(first)
            .clone()),
        ("not" | "empty", [value]) => Ok(Value::Bool(!value.is_true())),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            Ok(Value::Bool(others.contains(first)))
        }
        ("ne", [first, second]) => Ok(Value::Bool(first != second)),
        ("len", [Value::Text(value)]) => length(value.len()),
        ("len", [Value::List(values)]) => length(values.len()),
        ("index", [value, keys @ ..]) => keys
            .iter()
            .try_fold(value.clone(), |value, key| index(&value, key)),
        ("print", values) => text(values.iter().map(ToString::to_string).collect()),
        ("printf", [Value::Text(format), values @ ..]) => printf(format, values).map(Value::Text),
        ("default", [fallback]) => Ok(fallback.clone()),
        ("default", [fallback, value]) => {
            Ok(if value.is_true() { value } else { fallback }.clone())
        }
        ("coalesce", values) => Ok(values
            .iter()
            .find(|value| value.is_true())
            .cloned()
            .unwrap_or(Value::Nil)),
        ("ternary", [yes, no, condition]) => Ok(if condition.is_true() { yes } else { no }.clone()),
        ("fail", [message]) => Err(message.to_string()),

        ("upper", [value]) => text(value.to_string().to_uppercase()),
        ("lower", [value]) => text(value.to_string().to_lowercase()),
        ("title", [value]) => text(per_word(&value.to_string(), |c| c.to_uppercase().collect())),
        ("untitle", [value]) => text(per_word(&value.to_string(), |c| c.to_lowercase().collect())),
        ("snakecase", [value]) => text(words_joined(&value.to_string(), '_')),
        ("kebabcase", [value]) => text(words_joined(&value.to_string(), '-')),
        ("trim", [value]) => text(value.to_string().trim().to_owned()),
        ("trimAll", [characters, value]) => {
            let characters = characters.to_string();
            text(
                value
                    .to_string()
                    .trim_matches(|c| characters.contains(c))
                    .to_owned(),
            )
        }
        ("trimPrefix", [prefix, value]) => {
            let value = value.to_string();
            text(
                value
                    .strip_prefix(&prefix.to_string())
                    .unwrap_or(&value)
                    .to_owned(),
            )
        }
        ("trimSuffix", [suffix, value]) => {
            let value = value.to_string();
            text(
                value
                    .strip_suffix(&suffix.to_string())
                    .unwrap_or(&value)
                    .to_owned(),
            )
        }
        ("nospace", [value]) => text(
            value
                .to_string()
                .chars()
                .filter(|c| !c.is_whitespace())
                .collect(),
        ),
        ("trunc", [Value::Int(count), value]) => text(trunc(*count, &value.to_string())),
        ("abbrev", [Value::Int(width), value]) => text(abbrev(*width, value.to_string())),
        ("substr", [Value::Int(start), Value::Int(end), value]) => {
            text(substr(*start, *end, &value.to_string()))
        }
        ("repeat", [Value::Int(count), value]) => {
            repeat(*count, &value.to_string()).map(Value::Text)
        }
        ("replace", [old, new, value]) => text(
            value
                .to_string()
                .replace(&old.to_string(), &new.to_string()),
        ),
        ("contains", [part, value]) => {
            Ok(Value::Bool(value.to_string().contains(&part.to_string())))
        }
        ("hasPrefix", [part, value]) => Ok(Value::Bool(
            value.to_string().starts_with(&part.to_string()),
        )),
        ("hasSuffix", [part, value]) => {
            Ok(Value::Bool(value.to_string().ends_with(&part.to_string())))
        }
        ("quote", values) => text(spaced(values, |value| format!("{:?}", value.to_string()))),
        ("squote", values) => text(spaced(values, |value| format!("'{value}'"))),
        ("cat", values) => text(spaced(values, ToString::to_string)),
        ("indent", [Value::Int(count), value]) => {
            let pad = repeat(*count, " ")?;
            text(format!(
                "{pad}{}",
                value.to_string().replace('\n', &format!("\n{pad}"))
            ))
        }
        ("join", [separator, Value::List(values)]) => text(
            values
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(&separator.to_string()),
        ),
        ("toString", [value]) | ("join", [_, value]) => text(value.to_string()),
        ("base", [value]) => text(base(&value.to_string())),
        ("dir", [value]) => text(dir(&value.to_string())),

        ("sha1sum", [value]) => text(hex::encode(Sha1::digest(value.to_string()))),
        ("sha256sum", [value]) => text(hex::encode(Sha256::digest(value.to_string()))),
        ("adler32sum", [value]) => text(adler32(value.to_string().as_bytes()).to_string()),
        ("b64enc", [value]) => text(STANDARD.encode(value.to_string())),
        ("b64dec", [value]) => STANDARD
            .decode(value.to_string())
            .map_err(|error| error.to_string())
            .and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string()))
            .map(Value::Text),

        ("list", values) => Ok(Value::List(values.to_vec())),
        ("splitList", [separator, value]) => Ok(Value::list(
            value
                .to_string()
                .split(&separator.to_string())
                .map(str::to_owned),
        )),
        ("first", [Value::List(values)]) => Ok(values.first().cloned().unwrap_or(Value::Nil)),
        ("last", [Value::List(values)]) => Ok(values.last().cloned().unwrap_or(Value::Nil)),
        ("rest", [Value::List(values)]) => {
            Ok(Value::List(values.iter().skip(1).cloned().collect()))
        }
        ("initial", [Value::List(values)]) => Ok(Value::List(
            values
                .iter()
                .take(values.len().saturating_sub(1))
                .cloned()
                .collect(),
        )),
        ("append", [Value::List(values), value]) => Ok(Value::List(
            values
                .iter()
                .chain(std::iter::once(value))
                .cloned()
                .collect(),
        )),
        ("concat", lists) => Ok(Value::List(
            lists
                .iter()
                .flat_map(|list| match list {
                    Value::List(values) => values.clone(),
                    other => vec![other.clone()],
                })
                .collect(),
        )),
        ("reverse", [Value::List(values)]) => {
            Ok(Value::List(values.iter().rev().cloned().collect()))
        }
        ("compact", [Value::List(values)]) => Ok(Value::List(
            values
                .iter()
                .filter(|value| value.is_true())
                .cloned()
                .collect(),
        )),
        ("uniq", [Value::List(values)]) => {
            let mut unique = Vec::new();
            for value in values {
                if !unique.contains(value) {
                    unique.push(value.clone());
                }
            }
            Ok(Value::List(unique))
        }
        ("without", [Value::List(values), unwanted @ ..]) => Ok(Value::List(
            values
                .iter()
                .filter(|value| !unwanted.contains(value))
                .cloned()
                .collect(),
        )),
        ("sortAlpha", [Value::List(values)]) => {
            let mut sorted = values.iter().map(ToString::to_string).collect::<Vec<_>>();
            sorted.sort();
            Ok(Value::list(sorted))
        }
        ("has", [value, Value::List(values)]) => Ok(Value::Bool(values.contains(value))),
        _ => Err("wrong number or type of arguments".to_owned()),
    }
}

fn length(length: usize) -> Result<Value, String> {
    i64::try_from(length)
        .map(Value::Int)
        .map_err(|error| error.to_string())
}

fn index(value: &Value, key: &Value) -> Result<Value, String> {
    match (value, key) {
        (Value::List(values), Value::Int(position)) => usize::try_from(*position)
            .ok()
            .and_then(|position| values.get(position))
            .cloned()
            .ok_or_else(|| format!("index out of range: {position}")),
        (Value::Map { fields, .. }, Value::Text(key)) => fields
            .get(key)
            .cloned()
            .ok_or_else(|| format!("no entry for key {key:?}")),
        _ => Err(format!("can't index {value} by {key}")),
    }
}

/// Formats by the verbs that make sense for text and numbers.
fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let mut values = values.iter();
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let verb = characters.next().ok_or("format ends with %")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values
            .next()
            .ok_or_else(|| format!("no argument for %{verb}"))?;
        match (verb, value) {
            ('s' | 'v', value) | ('d', value @ Value::Int(_)) => out.push_str(&value.to_string()),
            ('q', value) => {
                write!(out, "{:?}", value.to_string()).map_err(|error| error.to_string())?;
            }
            ('x', Value::Int(number)) => {
                write!(out, "{number:x}").map_err(|error| error.to_string())?;
            }
            ('x', Value::Text(text)) => out.push_str(&hex::encode(text)),
            _ => return Err(format!("verb %{verb} does not fit {value}")),
        }
    }
    if values.next().is_some() {
        return Err("more arguments than verbs".to_owned());
    }
    Ok(out)
}

fn spaced(values: &[Value], form: impl Fn(&Value) -> String) -> String {
    values
        .iter()
        .filter(|value| **value != Value::Nil)
        .map(form)
        .collect::<Vec<_>>()
        .join(" ")
}

fn per_word(text: &str, change: impl Fn(char) -> String) -> String {
    let mut starts = true;
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, character| {
            if starts {
                out.push_str(&change(character));
            } else {
                out.push(character);
            }
            starts = character.is_whitespace();
            out
        })
}

/// Breaks words where the case or a separator does, in lower case.
fn words_joined(text: &str, joint: char) -> String {
    let mut out = String::with_capacity(text.len() + 4);
    let mut follows_lower = false;
    for character in text.chars() {
        if character == ' ' || character == '_' || character == '-' || character == '.' {
            if !out.is_empty() && !out.ends_with(joint) {
                out.push(joint);
            }
            follows_lower = false;
            continue;
        }
        if character.is_uppercase() && follows_lower {
            out.push(joint);
        }
        out.extend(character.to_lowercase());
        follows_lower = character.is_lowercase() || character.is_numeric();
    }
    out
}

fn trunc(count: i64, text: &str) -> String {
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if count >= 0 {
        text.chars().take(wanted).collect()
    } else {
        text.chars()
            .skip(text.chars().count().saturating_sub(wanted))
            .collect()
    }
}

fn abbrev(width: i64, text: String) -> String {
    let width = usize::try_from(width).unwrap_or(0);
    if width < 4 || text.chars().count() <= width {
        return text;
    }
    text.chars().take(width - 3).chain("...".chars()).collect()
}

fn substr(start: i64, end: i64, text: &str) -> String {
    let count = text.chars().count();
    let start = usize::try_from(start).unwrap_or(0);
    let end = usize::try_from(end).unwrap_or(count).min(count);
    text.chars()
        .skip(start)
        .take(end.saturating_sub(start))
        .collect()
}

fn repeat(count: i64, text: &str) -> Result<String, String> {
    let count = usize::try_from(count).map_err(|error| error.to_string())?;
    if text.len().saturating_mul(count) > MAX_REPEATED_BYTES {
        return Err("result is too long".to_owned());
    }
    Ok(text.repeat(count))
}

fn base(path: &str) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("") => "/".to_owned(),
        Some(last) => last.to_owned(),
    }
}

fn dir(path: &str) -> String {
    match path.rsplit_once('/') {
        None => ".".to_owned(),
        Some((parent, _)) if parent.trim_end_matches('/').is_empty() => "/".to_owned(),
        Some((parent, _)) => parent.trim_end_matches('/').to_owned(),
    }
}

fn adler32(bytes: &[u8]) -> u32 {
    const MODULUS: u32 = 65_521;
    let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % MODULUS;
        (a, (b + a) % MODULUS)
    });
    (b << 16) | a
}

/// SPIFFE IDs are at most 2048 bytes long.
const MAX_REPEATED_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_so_that_they_are_found() {
        assert!(NAMES.is_sorted());
    }

    #[test]
    fn results_are_those_of_sprig() {
        let text = |value: &str| Value::from(value);
        for (name, arguments, expected) in [
            ("snakecase", vec![text("FirstName")], text("first_name")),
            ("kebabcase", vec![text("First Name")], text("first-name")),
            ("title", vec![text("hello world")], text("Hello World")),
            (
                "abbrev",
                vec![Value::Int(5), text("hello world")],
                text("he..."),
            ),
            (
                "substr",
                vec![Value::Int(0), Value::Int(5), text("hello world")],
                text("hello"),
            ),
            ("trimAll", vec![text("$"), text("$5.00$")], text("5.00")),
            ("adler32sum", vec![text("Hello world!")], text("487130206")),
            (
                "sha1sum",
                vec![text("a")],
                text("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"),
            ),
            ("base", vec![text("/a/b/")], text("b")),
            ("dir", vec![text("/a/b")], text("/a")),
            ("b64dec", vec![text("YQ==")], text("a")),
        ] {
            assert_eq!(call(name, &arguments), Ok(expected), "{name}");
        }
    }
}
