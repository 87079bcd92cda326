//! Reads label selectors of query strings, requirement by requirement.

use super::{Demand, Requirement, SelectorError};
use crate::metadata;

pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut reader = Reader { text, rest: text };
    let mut found = Vec::new();
    if reader.peek() == Token::End {
        return Ok(found);
    }
    loop {
        found.push(requirement(&mut reader)?);
        if reader.peek() == Token::End {
            return Ok(found);
        }
        reader.expect(&[","])?;
    }
}

fn requirement(reader: &mut Reader<'_>) -> Result<Requirement, SelectorError> {
    if reader.peek() == Token::Symbol("!") {
        reader.next();
        return Ok(Requirement { key: key(reader)?, demand: Demand::DoesNotExist });
    }
    let key = key(reader)?;
    if matches!(reader.peek(), Token::End | Token::Symbol(",")) {
        return Ok(Requirement { key, demand: Demand::Exists });
    }
    let demand = match reader.expect(&["=", "==", "!=", "in", "notin", ">", "<"])? {
        "=" | "==" => Demand::In(vec![value(reader)?]),
        "!=" => Demand::NotIn(vec![value(reader)?]),
        ">" => Demand::GreaterThan(number(reader)?),
        "<" => Demand::LessThan(number(reader)?),
        "in" => Demand::In(values(reader)?),
        _ => Demand::NotIn(values(reader)?),
    };
    Ok(Requirement { key, demand })
}

fn key(reader: &mut Reader<'_>) -> Result<String, SelectorError> {
    let Token::Word(key) = reader.peek() else { return Err(reader.unexpected("a label's key")) };
    reader.next();
    match metadata::qualified_name_faults(key).first() {
        Some(fault) => Err(reader.wrong(&format!("key {key:?}: {fault}"))),
        None => Ok(key.to_owned()),
    }
}

/// A value may be empty, as in `app=`.
fn value(reader: &mut Reader<'_>) -> Result<String, SelectorError> {
    let Token::Word(value) = reader.peek() else { return Ok(String::new()) };
    reader.next();
    match metadata::label_value_faults(value).first() {
        Some(fault) => Err(reader.wrong(&format!("value {value:?}: {fault}"))),
        None => Ok(value.to_owned()),
    }
}

fn number(reader: &mut Reader<'_>) -> Result<i64, SelectorError> {
    let value = value(reader)?;
    value.parse().map_err(|_| reader.wrong(&format!("{value:?}: for '>' and '<' the value must be an integer")))
}

fn values(reader: &mut Reader<'_>) -> Result<Vec<String>, SelectorError> {
    reader.expect(&["("])?;
    let mut found = Vec::new();
    loop {
        found.push(value(reader)?);
        if reader.expect(&[",", ")"])? == ")" {
            return Ok(found);
        }
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", ">", "<", "(", ")", ","];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'static str),
    End,
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Token<'a> {
        Reader { ..*self }.next()
    }

    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() {
            return Token::End;
        }
        for symbol in SYMBOLS {
            if let Some(rest) = self.rest.strip_prefix(symbol) {
                self.rest = rest;
                return Token::Symbol(symbol);
            }
        }
        let ends = self.rest.find(|c: char| "=!><(),".contains(c) || c.is_whitespace()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(ends);
        self.rest = rest;
        Token::Word(word)
    }

    /// Reads one of these words and symbols.
    fn expect(&mut self, expected: &[&str]) -> Result<&'a str, SelectorError> {
        let found = self.peek().text();
        if !expected.contains(&found) {
            let expected: Vec<_> = expected.iter().map(|text| format!("'{text}'")).collect();
            return Err(self.unexpected(&expected.join(", ")));
        }
        self.next();
        Ok(found)
    }

    fn unexpected(&self, expected: &str) -> SelectorError {
        self.wrong(&format!("found '{}', expected: {expected}", self.peek().text()))
    }

    fn wrong(&self, what: &str) -> SelectorError {
        SelectorError { message: format!("unable to parse requirement in {:?}: {what}", self.text) }
    }
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Word(text) | Self::Symbol(text) => text,
            Self::End => "",
        }
    }
}
