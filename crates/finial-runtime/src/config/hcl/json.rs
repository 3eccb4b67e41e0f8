//! Tokens to tables: the JSON form.
//!
//! A list of objects stands for a block given several times, which is how generators write plugins:
//! `"KeyManager": [{"disk": {…}}]`.

use super::parse::{check_depth, literal};
use super::scan::{Kind, Scanner};
use super::{HclError, Item, Node, Position, Table, Value};

pub(super) fn parse(text: &str) -> Result<Table, HclError> {
    let mut scanner = Scanner::new(text, true);
    let token = scanner.token()?;
    let node = object(&mut scanner, token.position, 0)?;
    match node.value {
        Value::Table(table) => Ok(table),
        _ => Ok(Table::default()),
    }
}

fn object(scanner: &mut Scanner<'_>, position: Position, depth: usize) -> Result<Node, HclError> {
    check_depth(position, depth)?;
    let mut table = Table::default();
    loop {
        let key = scanner.token()?;
        match key.kind {
            Kind::RightBrace => {
                return Ok(Node {
                    position,
                    value: Value::Table(table),
                });
            }
            Kind::Comma => continue,
            Kind::String => {}
            kind => {
                return Err(HclError::new(
                    key.position,
                    format!("expected: STRING got: {kind}"),
                ));
            }
        }
        let colon = scanner.token()?;
        if colon.kind != Kind::Colon {
            return Err(HclError::new(
                colon.position,
                format!("expected ':' after key {}, got: {}", key.text, colon.kind),
            ));
        }
        let node = value(scanner, depth)?;
        let item = |node| Item {
            key: key.content.clone(),
            position: key.position,
            node,
        };
        match node.value {
            Value::List(nodes) if is_list_of_objects(&nodes) => {
                table.items.extend(nodes.into_iter().map(item));
            }
            value => table.items.push(item(Node {
                position: node.position,
                value,
            })),
        }
    }
}

fn is_list_of_objects(nodes: &[Node]) -> bool {
    !nodes.is_empty()
        && nodes
            .iter()
            .all(|node| matches!(node.value, Value::Table(_)))
}

fn value(scanner: &mut Scanner<'_>, depth: usize) -> Result<Node, HclError> {
    let token = scanner.token()?;
    match token.kind {
        Kind::LeftBrace => object(scanner, token.position, depth + 1),
        Kind::LeftBracket => {
            let mut nodes = Vec::new();
            list(scanner, token.position, depth + 1, &mut nodes)?;
            Ok(Node {
                position: token.position,
                value: Value::List(nodes),
            })
        }
        Kind::Ident if token.text == "null" => Ok(Node {
            position: token.position,
            value: Value::String(String::new()),
        }),
        _ => literal(token),
    }
}

/// Reads a list after its bracket; lists within lists are joined.
fn list(
    scanner: &mut Scanner<'_>,
    position: Position,
    depth: usize,
    nodes: &mut Vec<Node>,
) -> Result<(), HclError> {
    check_depth(position, depth)?;
    loop {
        let token = scanner.token()?;
        match token.kind {
            Kind::RightBracket => return Ok(()),
            Kind::Comma => {}
            Kind::LeftBracket => list(scanner, token.position, depth + 1, nodes)?,
            Kind::LeftBrace => nodes.push(object(scanner, token.position, depth + 1)?),
            _ => nodes.push(literal(token)?),
        }
    }
}
