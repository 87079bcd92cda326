//! YAML 1.1 as the real server reads it, on top of a parser that only knows the syntax.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput, Tag};
use serde_json::{Map, Value};

use super::{BodyError, Parsed};

mod scalar;

/// Far deeper than any Kubernetes object, and shallow enough for recursion on a small stack.
const DEEPEST: usize = 100;

/// Values and bytes of text together, counted each time an alias is written out. The API takes bodies of at most
/// 3 MiB; this leaves room for aliases without letting a few lines fill the memory.
const LARGEST: usize = 8 << 20;

pub(super) fn parse(text: &str) -> Result<Parsed, BodyError> {
    let mut reader = Reader {
        events: Parser::new_from_str(text),
        anchors: BTreeMap::new(),
        duplicates: Vec::new(),
        depth: 0,
        size: 0,
    };
    let value = reader.document()?;
    Ok(Parsed { value, duplicates: reader.duplicates })
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Anchored>,
    duplicates: Vec<String>,
    depth: usize,
    size: usize,
}

struct Anchored {
    value: Value,
    size: usize,
}

/// A key of a mapping: a name, or the sign that other mappings are to be merged in.
enum Key {
    Name(String),
    Merge,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Value, BodyError> {
        let mut document = None;
        loop {
            let event = self.next()?.0;
            if event == Event::StreamEnd {
                return Ok(document.unwrap_or(Value::Null));
            }
            if let Event::DocumentStart(_) = event {
                if document.is_some() {
                    return Err(BodyError::SeveralDocuments);
                }
                let starts = self.next()?.0;
                document = Some(self.value(starts)?);
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Marker), BodyError> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, span.start)),
            Some(Err(error)) => Err(BodyError::Yaml(error.to_string())),
            None => Ok((Event::StreamEnd, Marker::default())),
        }
    }

    fn value(&mut self, event: Event<'a>) -> Result<Value, BodyError> {
        let before = self.size;
        let (anchor, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor),
            Event::Scalar(text, style, anchor, tag) => {
                self.grow(1 + text.len())?;
                (anchor, resolve(&text, style, tag.as_deref())?)
            }
            Event::SequenceStart(anchor, _) => (anchor, self.nested(Self::sequence)?),
            Event::MappingStart(anchor, _) => (anchor, self.nested(Self::mapping)?),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(BodyError::Yaml("a value is missing".to_owned())),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, Anchored { value: value.clone(), size: self.size - before });
        }
        Ok(value)
    }

    fn alias(&mut self, anchor: usize) -> Result<Value, BodyError> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(BodyError::Yaml("an alias stands inside the value it refers to".to_owned()));
        };
        let size = anchored.size;
        self.grow(size)?;
        Ok(self.anchors[&anchor].value.clone())
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, BodyError>) -> Result<Value, BodyError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(BodyError::TooDeep(DEEPEST));
        }
        self.grow(1)?;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn grow(&mut self, by: usize) -> Result<(), BodyError> {
        self.size = self.size.saturating_add(by);
        if self.size > LARGEST { Err(BodyError::TooLarge(LARGEST)) } else { Ok(()) }
    }

    fn sequence(&mut self) -> Result<Value, BodyError> {
        let mut items = Vec::new();
        loop {
            let event = self.next()?.0;
            if event == Event::SequenceEnd {
                return Ok(Value::Array(items));
            }
            items.push(self.value(event)?);
        }
    }

    fn mapping(&mut self) -> Result<Value, BodyError> {
        let mut fields = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.key(event)?;
            let value_starts = self.next()?.0;
            let value = self.value(value_starts)?;
            match key {
                Key::Merge => merged.push(value),
                Key::Name(name) => {
                    if fields.contains_key(&name) {
                        self.duplicates.push(format!("line {}: key {name:?} already set in map", at.line()));
                    }
                    fields.insert(name, value);
                }
            }
        }
        merged.into_iter().try_for_each(|other| merge_into(&mut fields, other))?;
        Ok(Value::Object(fields))
    }

    fn key(&mut self, event: Event<'a>) -> Result<Key, BodyError> {
        if let Event::Scalar(text, ScalarStyle::Plain, _, None) = &event
            && text == "<<"
        {
            return Ok(Key::Merge);
        }
        match self.value(event)? {
            Value::String(name) => Ok(Key::Name(name)),
            Value::Bool(flag) => Ok(Key::Name(flag.to_string())),
            Value::Number(number) => Ok(Key::Name(number.to_string())),
            Value::Null => Ok(Key::Name("null".to_owned())),
            Value::Array(_) | Value::Object(_) => {
                Err(BodyError::Yaml("a key of a mapping must be a text, a number or a boolean".to_owned()))
            }
        }
    }
}

/// `<<` brings in the fields of other mappings that are not given here.
fn merge_into(fields: &mut Map<String, Value>, other: Value) -> Result<(), BodyError> {
    match other {
        Value::Object(other) => {
            for (name, value) in other {
                fields.entry(name).or_insert(value);
            }
            Ok(())
        }
        Value::Array(others) => others.into_iter().try_for_each(|other| merge_into(fields, other)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(BodyError::Yaml("map merge requires a map or a sequence of maps as the value".to_owned()))
        }
    }
}

fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, BodyError> {
    let Some(tag) = tag else {
        let is_plain = style == ScalarStyle::Plain;
        return if is_plain { scalar::plain(text).map_err(BodyError::Yaml) } else { Ok(Value::from(text)) };
    };
    match tag.suffix.as_str() {
        "str" | "!" | "" => Ok(Value::from(text)),
        "int" | "float" | "bool" | "null" => scalar::plain(text).map_err(BodyError::Yaml),
        other => Err(BodyError::Yaml(format!("the tag {other:?} is not supported"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        parse(text).unwrap().value
    }

    #[test]
    fn a_manifest_is_read() {
        let text = "apiVersion: v1\nkind: ConfigMap # a comment\nmetadata:\n  name: doc\ndata:\n  k: v\n  \
                    text: |\n    one\n    two\n  list: [a, 'b', {c: 1}]\n";
        let expected = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "doc"},
            "data": {"k": "v", "text": "one\ntwo\n", "list": ["a", "b", {"c": 1}]},
        });
        assert_eq!(value(text), expected);
        assert_eq!(value(""), Value::Null);
        assert_eq!(value("---\na: 1\n...\n"), json!({"a": 1}));
    }

    #[test]
    fn plain_scalars_are_yaml_1_1_and_quoted_ones_are_texts() {
        assert_eq!(value("name: y"), json!({"name": true}));
        assert_eq!(value("name: 'y'"), json!({"name": "y"}));
        assert_eq!(value("name: !!str y"), json!({"name": "y"}));
        assert_eq!(value("mode: 0777"), json!({"mode": 511}));
        assert_eq!(value("on: 1\n2: b"), json!({"true": 1, "2": "b"}));
    }

    #[test]
    fn duplicates_are_named_by_line() {
        let parsed = parse("metadata:\n  name: a\n  name: b\n").unwrap();
        assert_eq!(parsed.value, json!({"metadata": {"name": "b"}}));
        assert_eq!(parsed.duplicates, ["line 3: key \"name\" already set in map"]);
    }

    #[test]
    fn aliases_and_merges_are_written_out() {
        assert_eq!(value("a: &x {k: 1}\nb: *x"), json!({"a": {"k": 1}, "b": {"k": 1}}));
        assert_eq!(
            value("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 9}"),
            json!({"a": {"k": 1, "l": 2}, "b": {"k": 9, "l": 2}})
        );
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let items = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert_eq!(parse(&bomb), Err(BodyError::TooLarge(LARGEST)));
        assert_eq!(parse(&format!("{}{}", "[".repeat(150), "]".repeat(150))), Err(BodyError::TooDeep(DEEPEST)));
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse("a: &x [*x]").is_err());
    }

    #[test]
    fn what_is_not_one_document_is_refused() {
        assert_eq!(parse("a: 1\n---\nb: 2\n"), Err(BodyError::SeveralDocuments));
        for text in ["a: [1", "a: b: c", "a: *none", "{a: 1"] {
            assert!(matches!(parse(text), Err(BodyError::Yaml(_))), "{text}");
        }
    }
}
