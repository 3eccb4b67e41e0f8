//! HCL version 1 and its JSON form, as SPIRE's configuration files use them.
//!
//! A file becomes an ordered [`Table`] in which every key and value knows its line; order and repeats are kept,
//! because plugins load in file order. Labels become nested tables: `KeyManager "disk" { … }` is the key `disk` in the
//! table `KeyManager`. A text whose first character is `{` is JSON.
//!
//! [`decode()`] reads a table into a struct with the rules of Go's decoder: field names match without regard to case,
//! blocks given twice merge, lists given twice are joined, the last scalar counts. A quoted number is a number and a
//! number is a string, but nothing else is converted. Keys that match no field are reported, not dropped.

mod decode;
mod json;
mod parse;
mod scan;

use std::fmt::{self, Display};

pub(crate) use parse::integer;
use serde::Deserializer;
use serde::de::{self, DeserializeOwned, Visitor};
use thiserror::Error;

/// How deep blocks and lists may nest.
pub const MAX_DEPTH: usize = 64;

/// A place in a file, both counted from one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character within the line.
    pub column: u32,
}

impl Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where the value begins.
    pub position: Position,
    /// The value.
    pub value: Value,
}

/// What a key can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A quoted string or heredoc.
    String(String),
    /// A whole number, with the text it was written as.
    Integer(i64, String),
    /// A number with a fraction or exponent.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A list.
    List(Vec<Node>),
    /// A block or object.
    Table(Table),
}

/// The items of a block in file order; a key may occur more than once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The items.
    pub items: Vec<Item>,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// Where the key begins.
    pub position: Position,
    /// The value.
    pub node: Node,
}

impl Table {
    /// Returns every value of `key`, in file order. Case does not matter.
    pub fn find_all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Item> {
        self.items
            .iter()
            .filter(move |item| decode::same_key(&item.key, key))
    }

    /// Returns whether the table says nothing.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Why a text is not valid, or not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{message}", at(*position))]
pub struct HclError {
    /// Where, when it is known.
    pub position: Option<Position>,
    /// What is wrong.
    pub message: String,
}

fn at(position: Option<Position>) -> String {
    position.map_or_else(String::new, |position| format!("At {position}: "))
}

impl HclError {
    fn new(position: Position, message: impl Into<String>) -> Self {
        Self {
            position: Some(position),
            message: message.into(),
        }
    }
}

/// A key that no field of its section has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// The section, such as `server.experimental`; empty at the top of the file.
    pub section: String,
    /// The key as it was written.
    pub key: String,
    /// Where.
    pub position: Position,
    /// The key that was probably meant.
    pub nearest: Option<String>,
}

impl Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: unknown key {:?}", self.position.line, self.key)?;
        if self.section.is_empty() {
            f.write_str(" at the top of the file")?;
        } else {
            write!(f, " in {}", self.section)?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean {nearest:?}?")?;
        }
        Ok(())
    }
}

/// Parses a file.
pub fn parse(text: &str) -> Result<Table, HclError> {
    if text.trim_start().starts_with('{') {
        json::parse(text)
    } else {
        parse::parse(text)
    }
}

/// Reads `table` into `T`; `section` names it in errors. Also returns the keys that `T` does not have.
pub fn decode<T: DeserializeOwned>(
    table: &Table,
    section: &str,
) -> Result<(T, Vec<UnknownKey>), HclError> {
    decode::decode(table, section)
}

/// Returns the keys of `table` that `T` does not have, whatever the values are.
pub fn unknown_keys<T: DeserializeOwned>(table: &Table, section: &str) -> Vec<UnknownKey> {
    decode::unknown_keys::<T>(table, section)
}

/// Reads an optional whole number, which may be quoted; for fields that are read by other decoders than [`decode()`] too,
/// so that `"0x1f91"` means the same to all.
pub fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    deserializer.deserialize_any(WholeNumber).map(Some)
}

struct WholeNumber;

impl Visitor<'_> for WholeNumber {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
        integer(text).ok_or_else(|| {
            E::custom(format_args!(
                "expected a whole number, found the string {text:?}"
            ))
        })
    }
}
