//! Text to tokens.

use std::fmt::{self, Display};

use super::{HclError, Position};

/// The kind of a token; displayed as in error messages operators know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Eof,
    Ident,
    Number,
    Float,
    Bool,
    String,
    Heredoc,
    LeftBracket,
    RightBracket,
    LeftBrace,
    RightBrace,
    Comma,
    Period,
    Assign,
    Add,
    Sub,
    Colon,
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eof => "EOF",
            Self::Ident => "IDENT",
            Self::Number => "NUMBER",
            Self::Float => "FLOAT",
            Self::Bool => "BOOL",
            Self::String => "STRING",
            Self::Heredoc => "HEREDOC",
            Self::LeftBracket => "LBRACK",
            Self::RightBracket => "RBRACK",
            Self::LeftBrace => "LBRACE",
            Self::RightBrace => "RBRACE",
            Self::Comma => "COMMA",
            Self::Period => "PERIOD",
            Self::Assign => "ASSIGN",
            Self::Add => "ADD",
            Self::Sub => "SUB",
            Self::Colon => "COLON",
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) position: Position,
    /// As written.
    pub(super) text: String,
    /// The content of a string or heredoc.
    pub(super) content: String,
}

#[derive(Debug)]
pub(super) struct Scanner<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    /// The position of the next character.
    position: Position,
    json: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str, json: bool) -> Self {
        Self {
            rest: text.chars().peekable(),
            position: Position { line: 1, column: 1 },
            json,
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.position.line = self.position.line.saturating_add(1);
            self.position.column = 1;
        } else {
            self.position.column = self.position.column.saturating_add(1);
        }
        Some(c)
    }

    /// Takes characters while they satisfy `accept`.
    fn take(&mut self, text: &mut String, accept: impl Fn(char) -> bool) {
        while let Some(c) = self.peek().filter(|c| accept(*c)) {
            self.next();
            text.push(c);
        }
    }

    /// Returns the next token that is not a comment.
    pub(super) fn token(&mut self) -> Result<Token, HclError> {
        loop {
            while self.peek().is_some_and(|c| " \t\r\n".contains(c)) {
                self.next();
            }
            let position = self.position;
            let Some(c) = self.next() else {
                // The reference counts each look at the end of the file as one more character.
                self.position.column = self.position.column.saturating_add(1);
                return Ok(Token {
                    kind: Kind::Eof,
                    position,
                    text: String::new(),
                    content: String::new(),
                });
            };
            if c == '#' || c == '/' {
                self.comment(c)?;
                continue;
            }
            return self.token_from(c, position);
        }
    }

    fn token_from(&mut self, c: char, position: Position) -> Result<Token, HclError> {
        let mut text = String::from(c);
        let mut content = String::new();
        let kind = match c {
            '[' => Kind::LeftBracket,
            ']' => Kind::RightBracket,
            '{' => Kind::LeftBrace,
            '}' => Kind::RightBrace,
            ',' => Kind::Comma,
            ':' if self.json => Kind::Colon,
            '=' if !self.json => Kind::Assign,
            '+' if !self.json => Kind::Add,
            '"' => {
                self.string(&mut text, &mut content)?;
                Kind::String
            }
            '<' if !self.json && self.peek() == Some('<') => {
                self.heredoc(&mut text, &mut content)?;
                Kind::Heredoc
            }
            '-' if !self.peek().is_some_and(|c| c.is_ascii_digit()) => Kind::Sub,
            '.' if !self.json && !self.peek().is_some_and(|c| c.is_ascii_digit()) => Kind::Period,
            '-' | '.' | '0'..='9' => self.number(&mut text, position)?,
            c if c.is_alphabetic() || c == '_' => {
                self.take(&mut text, |c| {
                    c.is_alphanumeric() || c == '_' || c == '-' || c == '.'
                });
                match text.as_str() {
                    "true" | "false" => Kind::Bool,
                    // A word that ends the file was ended by such a look.
                    _ => {
                        if self.peek().is_none() {
                            self.position.column = self.position.column.saturating_add(1);
                        }
                        Kind::Ident
                    }
                }
            }
            _ => return Err(HclError::new(position, "illegal char")),
        };
        Ok(Token {
            kind,
            position,
            text,
            content,
        })
    }

    fn comment(&mut self, first: char) -> Result<(), HclError> {
        if first == '/' && self.peek() == Some('*') {
            self.next();
            let mut last = '\0';
            loop {
                let position = self.position;
                match self.next() {
                    Some('/') if last == '*' => return Ok(()),
                    Some(c) => last = c,
                    None => return Err(HclError::new(position, "comment not terminated")),
                }
            }
        }
        if first == '/' && self.peek() != Some('/') {
            return Err(HclError::new(self.position, "expected '/' for comment"));
        }
        while self.peek().is_some_and(|c| c != '\n') {
            self.next();
        }
        Ok(())
    }

    fn number(&mut self, text: &mut String, position: Position) -> Result<Kind, HclError> {
        let digits_begin = text.trim_start_matches('-').to_owned();
        let first = if digits_begin.is_empty() {
            let first = self.next();
            text.extend(first);
            first
        } else {
            digits_begin.chars().next()
        };
        if first == Some('0') && self.peek().is_some_and(|c| c == 'x' || c == 'X') {
            text.extend(self.next());
            let before = text.len();
            self.take(text, |c| c.is_ascii_hexdigit());
            if text.len() == before {
                return Err(HclError::new(position, "illegal hexadecimal number"));
            }
            return Ok(Kind::Number);
        }
        self.take(text, |c| c.is_ascii_digit());
        let mut kind = Kind::Number;
        if first == Some('.') {
            kind = Kind::Float;
        } else if self.peek() == Some('.') {
            kind = Kind::Float;
            text.extend(self.next());
            self.take(text, |c| c.is_ascii_digit());
        }
        if self.peek().is_some_and(|c| c == 'e' || c == 'E') {
            kind = Kind::Float;
            text.extend(self.next());
            if self.peek().is_some_and(|c| c == '+' || c == '-') {
                text.extend(self.next());
            }
            self.take(text, |c| c.is_ascii_digit());
        }
        Ok(kind)
    }

    /// Reads a string after its opening quote. Inside `${…}` quotes and newlines do not end it.
    fn string(&mut self, text: &mut String, content: &mut String) -> Result<(), HclError> {
        let mut braces = 0_usize;
        let mut dollar = false;
        loop {
            let position = self.position;
            let not_terminated = || HclError::new(position, "literal not terminated");
            let c = self.next().ok_or_else(not_terminated)?;
            text.push(c);
            match c {
                '\0' => return Err(not_terminated()),
                '\n' if braces == 0 => return Err(not_terminated()),
                '"' if braces == 0 => return Ok(()),
                '\\' if braces == 0 => {
                    self.escape(text, content)?;
                    dollar = false;
                    continue;
                }
                '{' if dollar || braces > 0 => braces += 1,
                '}' if braces > 0 => braces -= 1,
                _ => {}
            }
            dollar = c == '$' && braces == 0 && !self.json;
            content.push(c);
        }
    }

    fn escape(&mut self, text: &mut String, content: &mut String) -> Result<(), HclError> {
        let position = self.position;
        let illegal = || HclError::new(position, "illegal char escape");
        let c = self.next().ok_or_else(illegal)?;
        text.push(c);
        let (radix, length) = match c {
            '0'..='7' => (8, 3),
            'x' => (16, 2),
            'u' => (16, 4),
            'U' => (16, 8),
            _ => {
                content.push(simple_escape(c).ok_or_else(illegal)?);
                return Ok(());
            }
        };
        let mut digits = String::new();
        if radix == 8 {
            digits.push(c);
        }
        while digits.len() < length {
            let Some(digit) = self.peek().filter(|c| c.is_digit(radix)) else {
                return Err(HclError::new(self.position, "illegal char escape"));
            };
            self.next();
            text.push(digit);
            digits.push(digit);
        }
        let decoded = u32::from_str_radix(&digits, radix)
            .ok()
            .and_then(char::from_u32)
            .ok_or_else(illegal)?;
        content.push(decoded);
        Ok(())
    }

    /// Reads a heredoc after its first `<`.
    fn heredoc(&mut self, text: &mut String, content: &mut String) -> Result<(), HclError> {
        text.extend(self.next());
        let indented = self.peek() == Some('-');
        if indented {
            text.extend(self.next());
        }
        let mut anchor = String::new();
        self.take(&mut anchor, |c| c.is_alphanumeric() || c == '_');
        self.take(text, |c| c == '\r');
        if anchor.is_empty() {
            return Err(HclError::new(self.position, "zero-length heredoc anchor"));
        }
        if self.next() != Some('\n') {
            return Err(HclError::new(
                self.position,
                "invalid characters in heredoc anchor",
            ));
        }
        text.push_str(&anchor);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            self.take(&mut line, |c| c != '\n');
            let position = self.position;
            if self.next().is_none() {
                return Err(HclError::new(position, "heredoc not terminated"));
            }
            if line.trim_start().trim_end_matches('\r') == anchor {
                let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
                let strip = indented && lines.iter().all(|line: &String| line.starts_with(&indent));
                for line in &lines {
                    let line = if strip {
                        line.strip_prefix(&indent).unwrap_or(line)
                    } else {
                        line
                    };
                    content.push_str(line);
                    content.push('\n');
                }
                return Ok(());
            }
            lines.push(line);
        }
    }
}

fn simple_escape(c: char) -> Option<char> {
    Some(match c {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' | '"' => c,
        _ => return None,
    })
}
