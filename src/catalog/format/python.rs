//! Python literals, as `backup.info` holds them (contract §7.3).
//!
//! Read tolerantly (any nesting, both quotes), written exactly as Python's `repr` writes them,
//! so that a file which is read and written again keeps every byte.

use serde_json::{Map, Number, Value};
use std::fmt;

/// A value of Python's literal syntax.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Literal>),
    Tuple(Vec<Literal>),
    /// In the order written.
    Dict(Vec<(Literal, Literal)>),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a Python literal at character {position}: {reason}")]
pub struct LiteralError {
    position: usize,
    reason: &'static str,
}

impl Literal {
    pub fn parse(text: &str) -> Result<Self, LiteralError> {
        let mut parser = Parser { chars: text.chars().collect(), position: 0 };
        let literal = parser.value(0)?;
        parser.skip_blanks();
        match parser.peek() {
            None => Ok(literal),
            Some(_) => Err(parser.error("text behind the value")),
        }
    }

    /// The nearest JSON value: tuples become arrays, keys become texts. Integers that JSON
    /// numbers cannot hold become floats, and what is no number becomes null.
    pub fn into_json(self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => int_to_json(value),
            Self::Float(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
            Self::Text(text) => Value::String(text),
            Self::List(items) | Self::Tuple(items) => {
                items.into_iter().map(Self::into_json).collect()
            }
            Self::Dict(entries) => {
                let entry = |(key, value): (Self, Self)| {
                    let key = match key {
                        Self::Text(text) => text,
                        other => other.to_string(),
                    };
                    (key, value.into_json())
                };
                Value::Object(entries.into_iter().map(entry).collect::<Map<_, _>>())
            }
        }
    }

    pub fn from_json(value: &Value) -> Self {
        match value {
            Value::Null => Self::None,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => Self::Int(i128::from(integer)),
                None => match number.as_u64() {
                    Some(integer) => Self::Int(i128::from(integer)),
                    None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
                },
            },
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(items) => Self::List(items.iter().map(Self::from_json).collect()),
            Value::Object(entries) => Self::Dict(
                entries
                    .iter()
                    .map(|(key, value)| (Self::Text(key.clone()), Self::from_json(value)))
                    .collect(),
            ),
        }
    }
}

fn int_to_json(value: i128) -> Value {
    if let Ok(small) = i64::try_from(value) {
        return Value::from(small);
    }
    if let Ok(large) = u64::try_from(value) {
        return Value::from(large);
    }
    value
        .to_string()
        .parse::<f64>()
        .ok()
        .and_then(Number::from_f64)
        .map_or(Value::Null, Value::Number)
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => f.write_str(&float_text(*value)),
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::List(items) => {
                f.write_str("[")?;
                write_items(f, items)?;
                f.write_str("]")
            }
            Self::Tuple(items) => {
                f.write_str("(")?;
                write_items(f, items)?;
                f.write_str(if items.len() == 1 { ",)" } else { ")" })
            }
            Self::Dict(entries) => {
                f.write_str("{")?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{key}: {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_items(f: &mut fmt::Formatter<'_>, items: &[Literal]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}{item}")?;
    }
    Ok(())
}

/// A float as Python prints it: shortest digits that read back the same, positional from 1e-4
/// up to 1e16, else with an exponent of at least two digits.
///
/// Source: `float_repr_style` "short", CPython Python/pystrtod.c `format_float_short`.
pub fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} always has an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a decimal exponent");
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
    let positional = format!("{value}");
    if positional.contains('.') { positional } else { format!("{positional}.0") }
}

/// A text as Python's `repr` quotes it.
pub fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char == quote => {
                out.push('\\');
                out.push(char);
            }
            char if is_printable(char) => out.push(char),
            char => out.push_str(&escaped(u32::from(char))),
        }
    }
    out.push(quote);
    out
}

fn escaped(code: u32) -> String {
    match code {
        0..=0xFF => format!("\\x{code:02x}"),
        0x100..=0xFFFF => format!("\\u{code:04x}"),
        _ => format!("\\U{code:08x}"),
    }
}

/// Whether Python writes the character as it is. Rust's debug output of texts uses the same
/// Unicode categories (other, and separators but the blank), except for the characters that
/// are escaped for other reasons, and for a combining mark at the very beginning of a text.
fn is_printable(char: char) -> bool {
    if matches!(char, '"' | '\'' | '\\') {
        return true;
    }
    let mut text = String::from("a");
    text.push(char);
    text.escape_debug().count() == 2
}

/// Deeper nesting than any tool writes would only serve to exhaust the stack.
const DEPTH_MAX: usize = 64;

struct Parser {
    chars: Vec<char>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.position).copied()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.position += 1;
        Some(char)
    }

    fn take(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.position += 1;
        }
        found
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.position += 1;
        }
    }

    fn error(&self, reason: &'static str) -> LiteralError {
        LiteralError { position: self.position, reason }
    }

    fn value(&mut self, depth: usize) -> Result<Literal, LiteralError> {
        if depth > DEPTH_MAX {
            return Err(self.error("nested too deeply"));
        }
        self.skip_blanks();
        match self.peek() {
            None => Err(self.error("a value is missing")),
            Some('[') => Ok(Literal::List(self.items('[', ']', depth)?.0)),
            Some('(') => {
                let (mut items, trailing_comma) = self.items('(', ')', depth)?;
                // Parentheses around one value without a comma only group.
                match (items.len(), trailing_comma) {
                    (1, false) => Ok(items.remove(0)),
                    _ => Ok(Literal::Tuple(items)),
                }
            }
            Some('{') => self.dict(depth),
            Some('\'' | '"') => self.text().map(Literal::Text),
            Some('u' | 'U') if matches!(self.chars.get(self.position + 1), Some('\'' | '"')) => {
                self.position += 1;
                self.text().map(Literal::Text)
            }
            Some(_) => self.word(),
        }
    }

    /// Items up to `close`, and whether the last one was followed by a comma.
    fn items(
        &mut self,
        open: char,
        close: char,
        depth: usize,
    ) -> Result<(Vec<Literal>, bool), LiteralError> {
        self.take(open);
        let (mut items, mut comma) = (Vec::new(), false);
        loop {
            self.skip_blanks();
            if self.take(close) {
                return Ok((items, comma));
            }
            if !items.is_empty() && !comma {
                return Err(self.error("a comma is missing"));
            }
            items.push(self.value(depth + 1)?);
            self.skip_blanks();
            comma = self.take(',');
        }
    }

    fn dict(&mut self, depth: usize) -> Result<Literal, LiteralError> {
        self.take('{');
        let (mut entries, mut comma) = (Vec::new(), true);
        loop {
            self.skip_blanks();
            if self.take('}') {
                return Ok(Literal::Dict(entries));
            }
            if !comma {
                return Err(self.error("a comma is missing"));
            }
            let key = self.value(depth + 1)?;
            self.skip_blanks();
            if !self.take(':') {
                return Err(self.error("a colon is missing"));
            }
            entries.push((key, self.value(depth + 1)?));
            self.skip_blanks();
            comma = self.take(',');
        }
    }

    fn text(&mut self) -> Result<String, LiteralError> {
        let quote = self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(self.error("the text has no end")),
                char if char == quote => return Ok(text),
                Some('\\') => self.escape(&mut text)?,
                Some(char) => text.push(char),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), LiteralError> {
        let char = self.next().ok_or_else(|| self.error("the text has no end"))?;
        let plain = match char {
            '\n' => return Ok(()),
            '\\' | '\'' | '"' => char,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'x' => self.code(2)?,
            'u' => self.code(4)?,
            'U' => self.code(8)?,
            '0'..='7' => {
                self.position -= 1;
                self.octal()
            }
            // Python keeps the backslash of an escape it does not know.
            other => {
                text.push('\\');
                other
            }
        };
        text.push(plain);
        Ok(())
    }

    fn code(&mut self, digits: usize) -> Result<char, LiteralError> {
        let mut code = 0;
        for _ in 0..digits {
            let digit = self.next().and_then(|char| char.to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.error("a hex digit is missing"))?;
        }
        // Half of a surrogate pair has no place in a text; Python 2 could write one.
        Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn octal(&mut self) -> char {
        let mut code = 0;
        for _ in 0..3 {
            let Some(digit) = self.peek().and_then(|char| char.to_digit(8)) else { break };
            code = code * 8 + digit;
            self.position += 1;
        }
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    /// `None`, `True`, `False` or a number.
    fn word(&mut self) -> Result<Literal, LiteralError> {
        let begin = self.position;
        let part = |char: char| char.is_ascii_alphanumeric() || matches!(char, '+' | '-' | '.');
        while self.peek().is_some_and(part) {
            self.position += 1;
        }
        let word: String = self.chars[begin..self.position].iter().collect();
        match word.as_str() {
            "None" => return Ok(Literal::None),
            "True" => return Ok(Literal::Bool(true)),
            "False" => return Ok(Literal::Bool(false)),
            _ => {}
        }
        if let Ok(integer) = word.parse() {
            return Ok(Literal::Int(integer));
        }
        let numeric = word.bytes().all(|byte| b"0123456789+-.eE".contains(&byte));
        match word.parse() {
            Ok(float) if numeric => Ok(Literal::Float(float)),
            _ => {
                self.position = begin;
                Err(self.error("neither a text, a number, a list, a tuple nor a dictionary"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::format::python::{Literal, float_text, quoted};
    use proptest::prelude::{any, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::{Just, Strategy};

    fn literals() -> impl Strategy<Value = Literal> {
        let leaf = prop_oneof![
            Just(Literal::None),
            any::<bool>().prop_map(Literal::Bool),
            any::<i64>().prop_map(|int| Literal::Int(i128::from(int))),
            any::<f64>()
                .prop_filter("repr of these is no literal", |float| float.is_finite())
                .prop_map(Literal::Float),
            any::<String>().prop_map(Literal::Text),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Literal::List),
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Literal::Tuple),
                proptest::collection::vec((inner.clone(), inner), 0..4).prop_map(Literal::Dict),
            ]
        })
    }

    #[test]
    fn what_python_prints_is_kept_to_the_byte() {
        for text in [
            "None",
            "True",
            "[]",
            "('a',)",
            "[('contract_ts', 16384, '/srv/ts')]",
            "{'total_time': 1.80866, 'workers': 2, 'tiny': 2e-05, 'one': 1.0, 'big': 1e+16}",
            "'a\\nb\\tc\\\\d'",
            "\"it's\"",
            "'it\\'s \"so\"'",
            "'\\x00\\x7f\\xa0é日本\\u200b\\U000e0001'",
            "123456789012345678901234567890",
            "-0.5",
        ] {
            assert_eq!(Literal::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn other_spellings_are_read() {
        let text = |literal: &str| Literal::parse(literal).expect(literal);
        assert_eq!(text(" ( 1 ) "), Literal::Int(1));
        assert_eq!(text("u'a'"), Literal::Text("a".into()));
        assert_eq!(text(r"'\101\q'"), Literal::Text("A\\q".into()));
        assert_eq!(text("[1, 2, ]"), Literal::List(vec![Literal::Int(1), Literal::Int(2)]));
        assert_eq!(text("{}"), Literal::Dict(Vec::new()));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "'a", "[1 2]", "{1}", "{1: }", "[,]", "a", "1 2", "nan", "'\\x1'", "[[["] {
            assert!(Literal::parse(text).is_err(), "{text}");
        }
        assert!(Literal::parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn floats_are_printed_as_python_prints_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (0.00002, "2e-05"),
            (1.5e-7, "1.5e-07"),
            (123456789012345.6, "123456789012345.6"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
        ] {
            assert_eq!(float_text(value), text);
        }
    }

    #[test]
    fn combining_marks_are_printable() {
        assert_eq!(quoted("e\u{301}"), "'e\u{301}'");
        assert_eq!(quoted("\u{301}"), "'\u{301}'");
    }

    proptest! {
        #[test]
        fn literals_round_trip(literal in literals()) {
            prop_assert_eq!(Literal::parse(&literal.to_string()), Ok(literal));
        }

        #[test]
        fn any_text_parses_or_is_refused_without_panic(text in any::<String>()) {
            let _ = Literal::parse(&text);
        }
    }
}
