//! From text to a tree.

use super::{TemplateError, Value, functions};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Output(Pipeline),
    If {
        condition: Pipeline,
        then: Vec<Self>,
        otherwise: Vec<Self>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    pub(super) calls: Vec<Call>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Call {
    Value(Argument),
    Function {
        name: String,
        arguments: Vec<Argument>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Argument {
    Literal(Value),
    Field(Vec<String>),
    Group(Box<Pipeline>, Vec<String>),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut pieces = pieces(text)?.into_iter();
    let (nodes, end) = block(&mut pieces, 0)?;
    match end {
        None => Ok(nodes),
        Some(end) => Err(syntax(
            end.column,
            format!("unexpected {{{{{}}}}}", end.keyword),
        )),
    }
}

enum Piece {
    Text(String),
    Action { tokens: Vec<Token>, column: usize },
}

struct End {
    keyword: &'static str,
    rest: Vec<Token>,
    column: usize,
}

#[derive(Debug, Clone, PartialEq)]
enum TokenKind {
    Word(String),
    /// `.`, `.A.B` and `$.A.B`.
    Field(Vec<String>),
    Literal(Value),
    Pipe,
    Open,
    /// A closing parenthesis with the fields taken from the group.
    Close(Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
struct Token {
    kind: TokenKind,
    column: usize,
}

/// Reads nodes up to the end of the text or to an `else` or `end` that belongs to the caller.
fn block(
    pieces: &mut std::vec::IntoIter<Piece>,
    depth: usize,
) -> Result<(Vec<Node>, Option<End>), TemplateError> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Text(text) => nodes.push(Node::Text(text)),
            Piece::Action { tokens, column } => {
                let keyword = match tokens.first().map(|token| &token.kind) {
                    Some(TokenKind::Word(word)) => word.as_str(),
                    _ => "",
                };
                let rest = || tokens.iter().skip(1).cloned().collect::<Vec<_>>();
                match keyword {
                    "if" => nodes.push(condition(pieces, &rest(), column, depth)?),
                    "else" => {
                        return Ok((
                            nodes,
                            Some(End {
                                keyword: "else",
                                rest: rest(),
                                column,
                            }),
                        ));
                    }
                    "end" => {
                        return Ok((
                            nodes,
                            Some(End {
                                keyword: "end",
                                rest: Vec::new(),
                                column,
                            }),
                        ));
                    }
                    "range" | "with" | "define" | "template" | "block" | "break" | "continue" => {
                        return Err(syntax(
                            column,
                            format!("{{{{{keyword}}}}} is not supported in agent path templates"),
                        ));
                    }
                    _ => nodes.push(Node::Output(whole_pipeline(&tokens, column)?)),
                }
            }
        }
    }
    Ok((nodes, None))
}

fn condition(
    pieces: &mut std::vec::IntoIter<Piece>,
    tokens: &[Token],
    column: usize,
    depth: usize,
) -> Result<Node, TemplateError> {
    if depth >= MAX_DEPTH {
        return Err(syntax(column, "nested too deeply"));
    }
    let condition = whole_pipeline(tokens, column)?;
    let unclosed = || syntax(column, "{{if}} has no {{end}}");
    let (then, end) = block(pieces, depth + 1)?;
    let end = end.ok_or_else(unclosed)?;
    let otherwise = match (end.keyword, end.rest.first().map(|token| &token.kind)) {
        ("end", _) => Vec::new(),
        (_, None) => {
            let (nodes, end) = block(pieces, depth + 1)?;
            match end {
                Some(End { keyword: "end", .. }) => nodes,
                Some(End { column, .. }) => {
                    return Err(syntax(column, "expected {{end}}; found {{else}}"));
                }
                None => return Err(unclosed()),
            }
        }
        (_, Some(TokenKind::Word(word))) if word == "if" => {
            let rest = end.rest.iter().skip(1).cloned().collect::<Vec<_>>();
            vec![self::condition(pieces, &rest, end.column, depth + 1)?]
        }
        _ => return Err(syntax(end.column, "unexpected tokens after {{else}}")),
    };
    Ok(Node::If {
        condition,
        then,
        otherwise,
    })
}

fn whole_pipeline(tokens: &[Token], column: usize) -> Result<Pipeline, TemplateError> {
    let mut tokens = tokens.iter().peekable();
    let pipeline = pipeline(&mut tokens, column, 0)?;
    match tokens.next() {
        None => Ok(pipeline),
        Some(token) => Err(syntax(token.column, "unexpected )")),
    }
}

type Tokens<'a> = std::iter::Peekable<std::slice::Iter<'a, Token>>;

fn pipeline(
    tokens: &mut Tokens<'_>,
    column: usize,
    depth: usize,
) -> Result<Pipeline, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(syntax(column, "nested too deeply"));
    }
    let mut calls = Vec::new();
    loop {
        calls.push(call(tokens, column, !calls.is_empty(), depth)?);
        match tokens.peek().map(|token| &token.kind) {
            Some(TokenKind::Pipe) => {
                tokens.next();
            }
            _ => return Ok(Pipeline { calls }),
        }
    }
}

fn call(
    tokens: &mut Tokens<'_>,
    column: usize,
    is_piped: bool,
    depth: usize,
) -> Result<Call, TemplateError> {
    let function = match tokens.peek() {
        Some(Token {
            kind: TokenKind::Word(name),
            column,
        }) => {
            if !functions::is_known(name) {
                return Err(TemplateError::UnknownFunction {
                    column: *column,
                    name: name.clone(),
                    known: functions::NAMES.join(", "),
                });
            }
            tokens.next();
            Some(name.clone())
        }
        _ => None,
    };
    let mut arguments = Vec::new();
    while let Some(token) = tokens.peek() {
        let argument = match &token.kind {
            TokenKind::Pipe | TokenKind::Close(_) => break,
            TokenKind::Literal(value) => Argument::Literal(value.clone()),
            TokenKind::Field(path) => Argument::Field(path.clone()),
            TokenKind::Word(name) if functions::is_known(name) => {
                let inner = Call::Function {
                    name: name.clone(),
                    arguments: Vec::new(),
                };
                Argument::Group(Box::new(Pipeline { calls: vec![inner] }), Vec::new())
            }
            TokenKind::Word(name) => {
                return Err(TemplateError::UnknownFunction {
                    column: token.column,
                    name: name.clone(),
                    known: functions::NAMES.join(", "),
                });
            }
            TokenKind::Open => {
                let opened = token.column;
                tokens.next();
                let inner = pipeline(tokens, opened, depth + 1)?;
                match tokens.peek().map(|token| &token.kind) {
                    Some(TokenKind::Close(path)) => Argument::Group(Box::new(inner), path.clone()),
                    _ => return Err(syntax(opened, "unclosed left paren")),
                }
            }
        };
        tokens.next();
        arguments.push(argument);
    }
    match (function, arguments.len()) {
        (Some(name), _) => Ok(Call::Function { name, arguments }),
        (None, 0) => Err(syntax(column, "missing value for command")),
        (None, 1) if !is_piped => arguments
            .pop()
            .map(Call::Value)
            .ok_or_else(|| syntax(column, "missing value for command")),
        (None, _) => Err(syntax(column, "can't give argument to non-function")),
    }
}

/// Cuts the text into what is copied and what is done, trimming spaces where the markers say so.
fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trims = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let column = text.len() - after.len() - 1;
        let (action, trims_before) = match after.strip_prefix('-') {
            Some(inner) if inner.starts_with(char::is_whitespace) => (inner, true),
            _ => (after, false),
        };
        let before = if trims { before.trim_start() } else { before };
        let before = if trims_before {
            before.trim_end()
        } else {
            before
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let (tokens, after, trims_after) = tokens(action, text.len(), column)?;
        if let Some(tokens) = tokens {
            pieces.push(Piece::Action { tokens, column });
        }
        trims = trims_after;
        rest = after;
    }
    let rest = if trims { rest.trim_start() } else { rest };
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// Reads one action up to its `}}`. A comment has no tokens.
fn tokens(
    action: &str,
    whole: usize,
    column: usize,
) -> Result<(Option<Vec<Token>>, &str, bool), TemplateError> {
    let unclosed = || syntax(column, "unclosed action");
    if let Some(comment) = action.trim_start().strip_prefix("/*") {
        let (_, after) = comment
            .split_once("*/")
            .ok_or_else(|| syntax(column, "unclosed comment"))?;
        let after = after.trim_start();
        if let Some(after) = after.strip_prefix("-}}") {
            return Ok((None, after, true));
        }
        return after
            .strip_prefix("}}")
            .map(|after| (None, after, false))
            .ok_or_else(unclosed);
    }
    let mut tokens = Vec::new();
    let mut rest = action;
    loop {
        let spaced = rest.trim_start();
        let had_space = spaced.len() < rest.len();
        rest = spaced;
        // Columns are counted from the end, which is the only fixed point at hand.
        let column = whole.saturating_sub(rest.len()).max(column);
        if had_space && let Some(after) = rest.strip_prefix("-}}") {
            return Ok((Some(tokens), after, true));
        }
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((Some(tokens), after, false));
        }
        let first = rest.chars().next().ok_or_else(unclosed)?;
        let (kind, after) = match first {
            '|' => (TokenKind::Pipe, skip(rest, 1)),
            '(' => (TokenKind::Open, skip(rest, 1)),
            ')' => {
                let (path, after) = fields(skip(rest, 1));
                (TokenKind::Close(path), after)
            }
            '"' => quoted(rest, column)?,
            '`' => {
                let (raw, after) = skip(rest, 1)
                    .split_once('`')
                    .ok_or_else(|| syntax(column, "unterminated raw quoted string"))?;
                (TokenKind::Literal(Value::from(raw)), after)
            }
            '$' if skip(rest, 1).starts_with(|c: char| c.is_alphanumeric() || c == '_') => {
                return Err(syntax(
                    column,
                    "variables are not supported in agent path templates",
                ));
            }
            '$' | '.' => {
                let (path, after) = fields(rest.strip_prefix('$').unwrap_or(rest));
                let after = if first == '.' && path.is_empty() {
                    skip(after, 1)
                } else {
                    after
                };
                (TokenKind::Field(path), after)
            }
            '-' | '+' | '0'..='9' => {
                let end = rest
                    .find(|c: char| !(c.is_ascii_digit() || c == '-' || c == '+'))
                    .unwrap_or(rest.len());
                let (number, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
                let number = number
                    .parse::<i64>()
                    .map_err(|_invalid| syntax(column, format!("bad number {number:?}")))?;
                (TokenKind::Literal(Value::Int(number)), after)
            }
            c if c.is_alphabetic() || c == '_' => {
                let (word, after) = word(rest);
                let kind = match word {
                    "true" => TokenKind::Literal(Value::Bool(true)),
                    "false" => TokenKind::Literal(Value::Bool(false)),
                    "nil" => TokenKind::Literal(Value::Nil),
                    other => TokenKind::Word(other.to_owned()),
                };
                (kind, after)
            }
            other => return Err(syntax(column, format!("unexpected {other:?} in action"))),
        };
        tokens.push(Token { kind, column });
        rest = after;
    }
}

fn quoted(text: &str, column: usize) -> Result<(TokenKind, &str), TemplateError> {
    let unterminated = || syntax(column, "unterminated quoted string");
    let mut value = String::new();
    let mut characters = skip(text, 1).chars();
    loop {
        match characters.next().ok_or_else(unterminated)? {
            '"' => return Ok((TokenKind::Literal(Value::Text(value)), characters.as_str())),
            '\\' => value.push(match characters.next().ok_or_else(unterminated)? {
                'n' => '\n',
                't' => '\t',
                same @ ('"' | '\\') => same,
                other => return Err(syntax(column, format!("unknown escape \\{other}"))),
            }),
            '\n' => return Err(unterminated()),
            other => value.push(other),
        }
    }
}

/// Reads `.A.B`.
fn fields(mut text: &str) -> (Vec<String>, &str) {
    let mut path = Vec::new();
    while let Some(after) = text.strip_prefix('.') {
        let (name, rest) = word(after);
        if name.is_empty() {
            break;
        }
        path.push(name.to_owned());
        text = rest;
    }
    (path, text)
}

fn word(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn skip(text: &str, bytes: usize) -> &str {
    text.get(bytes..).unwrap_or("")
}

fn syntax(column: usize, message: impl Into<String>) -> TemplateError {
    TemplateError::Syntax {
        column: column + 1,
        message: message.into(),
    }
}

const MAX_DEPTH: usize = 32;
