//! Tables to structs, through serde.

use std::cell::RefCell;
use std::fmt::Display;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess,
    SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::parse::integer;
use super::{HclError, Item, Node, Position, Table, UnknownKey, Value};

pub(super) fn decode<T: DeserializeOwned>(
    table: &Table,
    section: &str,
) -> Result<(T, Vec<UnknownKey>), HclError> {
    let (value, unknown) = read(table, section);
    Ok((value?, unknown))
}

pub(super) fn unknown_keys<T: DeserializeOwned>(table: &Table, section: &str) -> Vec<UnknownKey> {
    let (_, unknown) = read::<T>(table, section);
    unknown
}

fn read<T: DeserializeOwned>(
    table: &Table,
    section: &str,
) -> (Result<T, HclError>, Vec<UnknownKey>) {
    let unknown = RefCell::new(Vec::new());
    let value = T::deserialize(Tables {
        merged: vec![table],
        position: Position { line: 1, column: 1 },
        path: section.to_owned(),
        unknown: &unknown,
    });
    let mut unknown = unknown.into_inner();
    unknown.sort_by_key(|key: &UnknownKey| key.position);
    (value, unknown)
}

/// Field names match without regard to case, as in Go.
pub(super) fn same_key(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

impl de::Error for HclError {
    fn custom<T: Display>(message: T) -> Self {
        Self {
            position: None,
            message: message.to_string(),
        }
    }
}

type Unknown = RefCell<Vec<UnknownKey>>;

/// Tables read as one.
struct Tables<'a> {
    merged: Vec<&'a Table>,
    position: Position,
    path: String,
    unknown: &'a Unknown,
}

/// Everything given for one key.
struct Nodes<'a> {
    given: Vec<&'a Node>,
    path: String,
    unknown: &'a Unknown,
}

impl<'a> Tables<'a> {
    fn items(&self) -> impl Iterator<Item = &'a Item> + use<'a> {
        let tables = self.merged.clone();
        tables.into_iter().flat_map(|table| table.items.iter())
    }

    /// Groups the items by key; `field` maps a key to the name the visitor is told, or `None` to leave it out.
    fn access(self, field: impl Fn(&Item) -> Option<String>) -> Fields<'a> {
        let mut groups: Vec<(String, Position, Vec<&'a Node>)> = Vec::new();
        for item in self.items() {
            let Some(name) = field(item) else { continue };
            match groups.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, _, nodes)) => nodes.push(&item.node),
                None => groups.push((name, item.position, vec![&item.node])),
            }
        }
        Fields {
            groups: groups.into_iter(),
            value: None,
            path: self.path,
            unknown: self.unknown,
        }
    }

    fn locate(&self) -> impl Fn(HclError) -> HclError + use<> {
        let (position, path) = (self.position, self.path.clone());
        move |error| locate(error, position, &path)
    }
}

/// Adds where and what to an error that only says why.
fn locate(error: HclError, position: Position, path: &str) -> HclError {
    match error.position {
        Some(_) => error,
        None if path.is_empty() => HclError::new(position, error.message),
        None => HclError::new(position, format!("{path}: {}", error.message)),
    }
}

impl<'de> Deserializer<'de> for Tables<'_> {
    type Error = HclError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        let locate = self.locate();
        visitor
            .visit_map(self.access(|item| Some(item.key.clone())))
            .map_err(locate)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, HclError> {
        for item in self.items() {
            if !fields.iter().any(|field| same_key(field, &item.key)) {
                self.unknown.borrow_mut().push(UnknownKey {
                    section: self.path.clone(),
                    key: item.key.clone(),
                    position: item.position,
                    nearest: nearest(&item.key, fields),
                });
            }
        }
        let locate = self.locate();
        let access = self.access(|item| {
            fields
                .iter()
                .find(|field| same_key(field, &item.key))
                .map(|field| (*field).to_owned())
        });
        visitor.visit_map(access).map_err(locate)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, HclError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Fields<'a> {
    groups: std::vec::IntoIter<(String, Position, Vec<&'a Node>)>,
    value: Option<Nodes<'a>>,
    path: String,
    unknown: &'a Unknown,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = HclError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, HclError> {
        let Some((name, position, nodes)) = self.groups.next() else {
            return Ok(None);
        };
        let path = if self.path.is_empty() {
            name.clone()
        } else if name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            format!("{}.{name}", self.path)
        } else {
            format!("{}.{name:?}", self.path)
        };
        let key: StrDeserializer<'_, HclError> = name.as_str().into_deserializer();
        let key = seed
            .deserialize(key)
            .map_err(|error| locate(error, position, &path))?;
        self.value = Some(Nodes {
            given: nodes,
            path,
            unknown: self.unknown,
        });
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, HclError> {
        match self.value.take() {
            Some(nodes) => seed.deserialize(nodes),
            None => Err(de::Error::custom("value asked for before its key")),
        }
    }
}

impl<'a> Nodes<'a> {
    fn one(node: &'a Node, path: String, unknown: &'a Unknown) -> Self {
        Self {
            given: vec![node],
            path,
            unknown,
        }
    }

    fn last(&self) -> Result<&'a Node, HclError> {
        self.given
            .last()
            .copied()
            .ok_or_else(|| de::Error::custom(format_args!("{}: no value", self.path)))
    }

    fn mismatch<T>(&self, node: &Node, expected: &str) -> Result<T, HclError> {
        let found = match &node.value {
            Value::String(text) => format!("the string {text:?}"),
            Value::Integer(_, text) => format!("the number {text}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Bool(value) => format!("{value} without quotes"),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a block".to_owned(),
        };
        Err(HclError::new(
            node.position,
            format!("{}: expected {expected}, found {found}", self.path),
        ))
    }

    fn tables(self) -> Result<Tables<'a>, HclError> {
        let position = self.last()?.position;
        let mut tables = Vec::new();
        for node in &self.given {
            match &node.value {
                Value::Table(table) => tables.push(table),
                _ => return self.mismatch(node, "a block"),
            }
        }
        Ok(Tables {
            merged: tables,
            position,
            path: self.path,
            unknown: self.unknown,
        })
    }

    fn elements(self) -> Result<Elements<'a>, HclError> {
        let mut nodes = Vec::new();
        for node in &self.given {
            match &node.value {
                Value::List(items) => nodes.extend(items),
                Value::Table(_) => nodes.push(node),
                _ => return self.mismatch(node, "a list"),
            }
        }
        Ok(Elements {
            nodes: nodes.into_iter(),
            index: 0,
            path: self.path,
            unknown: self.unknown,
        })
    }

    fn integer(&self) -> Result<i64, HclError> {
        let node = self.last()?;
        match &node.value {
            Value::Integer(value, _) => Ok(*value),
            Value::String(text) => match integer(text) {
                Some(value) => Ok(value),
                None => self.mismatch(node, "a whole number"),
            },
            _ => self.mismatch(node, "a whole number"),
        }
    }

    /// Hands a value to the visitor, and says where when the visitor does not like it.
    fn visit<T>(&self, visit: impl FnOnce() -> Result<T, HclError>) -> Result<T, HclError> {
        let position = self.last()?.position;
        visit().map_err(|error| locate(error, position, &self.path))
    }
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
            let value = self.integer()?;
            self.visit(|| visitor.visit_i64(value))
        }
    )*};
}

impl<'de> Deserializer<'de> for Nodes<'_> {
    type Error = HclError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        let node = self.last()?;
        match &node.value {
            Value::String(text) => self.visit(|| visitor.visit_str(text)),
            Value::Integer(value, _) => self.visit(|| visitor.visit_i64(*value)),
            Value::Float(value) => self.visit(|| visitor.visit_f64(*value)),
            Value::Bool(value) => self.visit(|| visitor.visit_bool(*value)),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Table(_) => self.tables()?.deserialize_any(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        let node = self.last()?;
        match node.value {
            Value::Bool(value) => self.visit(|| visitor.visit_bool(value)),
            _ => self.mismatch(node, "true or false without quotes"),
        }
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        let node = self.last()?;
        match &node.value {
            Value::Float(value) => self.visit(|| visitor.visit_f64(*value)),
            Value::Integer(value, _) => self.visit(|| visitor.visit_i64(*value)),
            _ => self.mismatch(node, "a number"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        let node = self.last()?;
        match &node.value {
            Value::String(text) | Value::Integer(_, text) => self.visit(|| visitor.visit_str(text)),
            _ => self.mismatch(node, "a string"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, HclError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        let position = self.last()?.position;
        let path = self.path.clone();
        visitor
            .visit_seq(self.elements()?)
            .map_err(|error| locate(error, position, &path))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        self.tables()?.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, HclError> {
        self.tables()?.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, HclError> {
        let node = self.last()?;
        match &node.value {
            Value::String(text) => self.visit(|| {
                let text: StrDeserializer<'_, HclError> = text.as_str().into_deserializer();
                visitor.visit_enum(text)
            }),
            _ => self.mismatch(node, "a string"),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HclError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

struct Elements<'a> {
    nodes: std::vec::IntoIter<&'a Node>,
    index: usize,
    path: String,
    unknown: &'a Unknown,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = HclError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, HclError> {
        let Some(node) = self.nodes.next() else {
            return Ok(None);
        };
        let path = format!("{}[{}]", self.path, self.index);
        self.index += 1;
        seed.deserialize(Nodes::one(node, path, self.unknown))
            .map(Some)
    }
}

/// Returns the name that `key` is probably a misspelling of.
fn nearest(key: &str, names: &[&str]) -> Option<String> {
    let key: Vec<char> = key.to_lowercase().chars().collect();
    // Half a word may be wrong at most, or any name would do for a short key.
    let limit = (key.len() / 3).clamp(1, 3);
    names
        .iter()
        .map(|name| (distance(&key, name), *name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name.to_owned())
}

/// The number of characters to insert, delete, replace or swap.
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
    for (i, x) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replace = at(&row, j) + usize::from(x != y);
            let mut best = replace.min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    at(&row, b.len())
}
