//! HCL as a format of the `config` crate.

use std::error::Error as StdError;

use config::{FileStoredFormat, Format, Map, Value, ValueKind};

use super::hcl::{self, Node, Table};

/// HCL 1, or its JSON form, as a format of the `config` crate.
///
/// Every value carries `FILE:LINE` as its origin. Keys become lower case, as Go matches them without regard to case and
/// as the environment cannot spell them otherwise. A block given twice is one block, a list given twice is joined, and
/// the last scalar counts; that is right where a section has no lists of blocks, which holds for what is layered.
#[derive(Clone, Copy, Debug)]
pub struct Hcl;

impl Format for Hcl {
    fn parse(
        &self,
        uri: Option<&String>,
        text: &str,
    ) -> Result<Map<String, Value>, Box<dyn StdError + Send + Sync>> {
        let file = uri.map_or("line", String::as_str);
        Ok(map(file, &hcl::parse(text)?))
    }
}

impl FileStoredFormat for Hcl {
    fn file_extensions(&self) -> &'static [&'static str] {
        &["conf", "hcl", "json"]
    }
}

fn map(file: &str, table: &Table) -> Map<String, Value> {
    let mut map = Map::new();
    for item in &table.items {
        insert(&mut map, item.key.to_lowercase(), value(file, &item.node));
    }
    map
}

fn value(file: &str, node: &Node) -> Value {
    let kind = match &node.value {
        hcl::Value::String(text) => ValueKind::String(text.clone()),
        // Other spellings stay texts, since `0x10` may be meant as one; `whole_number` reads them as numbers.
        hcl::Value::Integer(number, text) if number.to_string() != *text => {
            ValueKind::String(text.clone())
        }
        hcl::Value::Integer(number, _) => ValueKind::I64(*number),
        hcl::Value::Float(number) => ValueKind::Float(*number),
        hcl::Value::Bool(value) => ValueKind::Boolean(*value),
        hcl::Value::List(nodes) => {
            ValueKind::Array(nodes.iter().map(|node| value(file, node)).collect())
        }
        hcl::Value::Table(table) => ValueKind::Table(map(file, table)),
    };
    Value::new(Some(&format!("{file}:{}", node.position.line)), kind)
}

fn insert(map: &mut Map<String, Value>, key: String, mut value: Value) {
    let Some(known) = map.get_mut(&key) else {
        map.insert(key, value);
        return;
    };
    match (&mut known.kind, &mut value.kind) {
        (ValueKind::Table(known), ValueKind::Table(more)) => {
            for (key, value) in more.drain() {
                insert(known, key, value);
            }
        }
        (ValueKind::Array(known), ValueKind::Array(more)) => known.append(more),
        _ => *known = value,
    }
}

#[cfg(test)]
mod tests {
    use config::{Config, File};

    use super::*;

    #[test]
    fn a_file_is_a_source_of_the_config_crate_and_values_tell_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.conf");
        std::fs::write(
            &path,
            "Server {\n  Bind_Port = \"8081\"\n  ids = [\"a\"]\n}\nserver {\n  ids = [\"b\"]\n  bind_port = 9\n}",
        )
        .unwrap();
        let config = Config::builder()
            .add_source(File::new(path.to_str().unwrap(), Hcl))
            .build()
            .unwrap();
        let port = config.get_table("server").unwrap()["bind_port"].clone();
        assert!(port.origin().unwrap().ends_with("server.conf:7"));
        assert_eq!(port.into_int().unwrap(), 9);
        let ids: Vec<String> = config.get("server.ids").unwrap();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn a_file_that_does_not_parse_fails_with_its_place() {
        let file: File<_, Hcl> = File::from_str("server {\n  a = \n}", Hcl);
        let error = Config::builder().add_source(file).build().unwrap_err();
        assert!(error.to_string().starts_with("At 3:1: "), "{error}");
    }
}
