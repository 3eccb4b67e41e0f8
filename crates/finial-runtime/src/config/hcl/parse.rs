//! Tokens to tables: the HCL form.

use super::scan::{Kind, Scanner, Token};
use super::{HclError, Item, MAX_DEPTH, Node, Position, Table, Value};

pub(super) fn parse(text: &str) -> Result<Table, HclError> {
    let mut parser = Parser {
        scanner: Scanner::new(text, false),
        pushed_back: None,
    };
    parser.items(false, 0)
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    pushed_back: Option<Token>,
}

impl Parser<'_> {
    fn token(&mut self) -> Result<Token, HclError> {
        match self.pushed_back.take() {
            Some(token) => Ok(token),
            None => self.scanner.token(),
        }
    }

    /// Reads items up to the end of the file, or (within a block) up to the closing brace, which stays.
    fn items(&mut self, in_block: bool, depth: usize) -> Result<Table, HclError> {
        let mut table = Table::default();
        loop {
            let token = self.token()?;
            let ends = token.kind == Kind::Eof || (in_block && token.kind == Kind::RightBrace);
            if token.kind != Kind::Eof {
                self.pushed_back = Some(token);
            }
            if ends {
                return Ok(table);
            }
            if let Some(item) = self.item(depth)? {
                table.items.push(item);
            }
            let token = self.token()?;
            if token.kind != Kind::Comma {
                self.pushed_back = Some(token);
            }
        }
    }

    /// Reads keys and their value; `None` when the file ends after the `=`, which the reference lets pass.
    fn item(&mut self, depth: usize) -> Result<Option<Item>, HclError> {
        let mut keys: Vec<Token> = Vec::new();
        let node = loop {
            let token = self.token()?;
            match token.kind {
                Kind::Ident | Kind::String => keys.push(token),
                Kind::Assign if keys.len() > 1 => {
                    return Err(HclError::new(
                        token.position,
                        format!("nested object expected: LBRACE got: {}", token.kind),
                    ));
                }
                Kind::Assign if !keys.is_empty() => match self.value(depth)? {
                    Some(node) => break node,
                    None => return Ok(None),
                },
                Kind::LeftBrace if !keys.is_empty() => break self.block(token.position, depth)?,
                Kind::Assign => {
                    return Err(HclError::new(token.position, "no object keys found!"));
                }
                Kind::LeftBrace => {
                    return Err(HclError::new(
                        token.position,
                        "expected: IDENT | STRING got: LBRACE",
                    ));
                }
                Kind::Eof | Kind::RightBrace if !keys.is_empty() => {
                    let keys: Vec<_> = keys.iter().map(|key| key.text.as_str()).collect();
                    return Err(HclError::new(
                        token.position,
                        format!(
                            "key '{}' expected start of object ('{{') or assignment ('=')",
                            keys.join(" ")
                        ),
                    ));
                }
                kind => {
                    return Err(HclError::new(
                        token.position,
                        format!("expected: IDENT | STRING | ASSIGN | LBRACE got: {kind}"),
                    ));
                }
            }
        };
        Ok(nest(keys, node))
    }

    fn value(&mut self, depth: usize) -> Result<Option<Node>, HclError> {
        let token = self.token()?;
        match token.kind {
            Kind::Eof => {
                self.pushed_back = Some(token);
                Ok(None)
            }
            Kind::LeftBrace => self.block(token.position, depth).map(Some),
            Kind::LeftBracket => self.list(token.position, depth).map(Some),
            _ => literal(token).map(Some),
        }
    }

    fn block(&mut self, position: Position, depth: usize) -> Result<Node, HclError> {
        check_depth(position, depth)?;
        let table = self.items(true, depth + 1)?;
        let token = self.token()?;
        if token.kind != Kind::RightBrace {
            return Err(HclError::new(
                token.position,
                format!("object expected closing RBRACE got: {}", token.kind),
            ));
        }
        Ok(Node {
            position,
            value: Value::Table(table),
        })
    }

    fn list(&mut self, position: Position, depth: usize) -> Result<Node, HclError> {
        check_depth(position, depth)?;
        let mut items = Vec::new();
        let mut need_comma = false;
        loop {
            let token = self.token()?;
            match token.kind {
                Kind::RightBracket => {
                    return Ok(Node {
                        position,
                        value: Value::List(items),
                    });
                }
                Kind::Comma if need_comma => {
                    need_comma = false;
                    continue;
                }
                kind if need_comma => {
                    return Err(HclError::new(
                        token.position,
                        format!("error parsing list, expected comma or list end, got: {kind}"),
                    ));
                }
                Kind::LeftBrace => items.push(self.block(token.position, depth + 1)?),
                Kind::LeftBracket => items.push(self.list(token.position, depth + 1)?),
                Kind::Bool | Kind::Number | Kind::Float | Kind::String | Kind::Heredoc => {
                    items.push(literal(token)?);
                }
                kind => {
                    return Err(HclError::new(
                        token.position,
                        format!("unexpected token while parsing list: {kind}"),
                    ));
                }
            }
            need_comma = true;
        }
    }
}

/// Turns `a "b" "c" { … }` into `a { b { c { … } } }`.
fn nest(mut keys: Vec<Token>, mut node: Node) -> Option<Item> {
    while let Some(key) = keys.pop() {
        let position = key.position;
        let item = Item {
            key: if key.kind == Kind::String {
                key.content
            } else {
                key.text
            },
            position,
            node,
        };
        if keys.is_empty() {
            return Some(item);
        }
        node = Node {
            position,
            value: Value::Table(Table { items: vec![item] }),
        };
    }
    None
}

pub(super) fn check_depth(position: Position, depth: usize) -> Result<(), HclError> {
    if depth >= MAX_DEPTH {
        return Err(HclError::new(
            position,
            format!("blocks and lists nest deeper than {MAX_DEPTH} levels"),
        ));
    }
    Ok(())
}

pub(super) fn literal(token: Token) -> Result<Node, HclError> {
    let position = token.position;
    let value = match token.kind {
        Kind::String | Kind::Heredoc => Value::String(token.content),
        Kind::Bool => Value::Bool(token.text == "true"),
        Kind::Number => {
            let value = integer(&token.text).ok_or_else(|| {
                HclError::new(
                    position,
                    format!("number {} is malformed or out of range", token.text),
                )
            })?;
            Value::Integer(value, token.text)
        }
        Kind::Float => {
            let value = token
                .text
                .parse()
                .ok()
                .filter(|value: &f64| value.is_finite())
                .ok_or_else(|| {
                    HclError::new(
                        position,
                        format!("number {} is malformed or out of range", token.text),
                    )
                })?;
            Value::Float(value)
        }
        kind => {
            return Err(HclError::new(
                position,
                format!("Unknown token: {position} {kind} {}", token.text),
            ));
        }
    };
    Ok(Node { position, value })
}

/// Reads a whole number with Go's prefixes: `0x1f`, `0o17`, `017`, `0b1`; underscores between digits are allowed.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(digits) = lower.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (2, digits)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (8, digits)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower.trim_start_matches('0'))
    } else {
        (10, lower.as_str())
    };
    if digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    let digits = digits.replace('_', "");
    if digits.is_empty() {
        return (radix == 8).then_some(0);
    }
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(&digits, radix).ok()?;
    i64::try_from(if negative { -value } else { value }).ok()
}
