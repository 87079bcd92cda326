//! Field selectors, e.g. `status.phase=Running,metadata.name!=web`.

use super::SelectorError;

/// A field selector: every term must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// One comparison of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// Path, e.g. `status.phase`.
    pub field: String,
    pub value: String,
    /// Whether the value is wanted or unwanted.
    pub comparison: Comparison,
}

/// What a term asks of its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equals,
    Differs,
}

impl FieldSelector {
    /// Reads terms between commas, with `=`, `==` or `!=`; a backslash quotes comma, equals sign and itself.
    ///
    /// # Errors
    /// When a term has no operator or a backslash quotes something else.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let parts = split_terms(text).into_iter().filter(|part| !part.is_empty());
        Ok(Self { terms: parts.map(parse_term).collect::<Result<_, _>>()? })
    }

    /// Its terms, in the order they were written.
    #[must_use]
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether every term holds; a field that is not there has an empty value.
    #[must_use]
    pub fn matches_by(&self, value: impl Fn(&str) -> Option<String>) -> bool {
        self.terms.iter().all(|term| term.holds(&value(&term.field).unwrap_or_default()))
    }
}

impl FieldTerm {
    fn holds(&self, value: &str) -> bool {
        match self.comparison {
            Comparison::Equals => value == self.value,
            Comparison::Differs => value != self.value,
        }
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut is_quoted = false;
    for (at, letter) in text.char_indices() {
        if letter == ',' && !is_quoted {
            parts.push(&text[start..at]);
            start = at + 1;
        }
        is_quoted = letter == '\\' && !is_quoted;
    }
    parts.push(&text[start..]);
    parts
}

fn parse_term(text: &str) -> Result<FieldTerm, SelectorError> {
    let operators = [("!=", Comparison::Differs), ("==", Comparison::Equals), ("=", Comparison::Equals)];
    for at in 0..text.len() {
        let found = operators
            .iter()
            .find_map(|(sign, comparison)| text.get(at..)?.strip_prefix(sign).map(|value| (value, *comparison)));
        if let Some((value, comparison)) = found {
            let field = text[..at].to_owned();
            return Ok(FieldTerm { field, value: unquote(value)?, comparison });
        }
    }
    Err(SelectorError { message: format!("invalid selector: '{text}'; can't understand '{text}'") })
}

fn unquote(text: &str) -> Result<String, SelectorError> {
    let mut value = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some(quoted @ ('\\' | ',' | '=')) => value.push(quoted),
                other => {
                    let quoted = other.map(String::from).unwrap_or_default();
                    let message = format!("invalid field selector: invalid escape sequence: \\{quoted}");
                    return Err(SelectorError { message });
                }
            },
            '=' => {
                let message = format!("invalid field selector: unescaped character in value: {text}");
                return Err(SelectorError { message });
            }
            other => value.push(other),
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_in_order() {
        let selector = FieldSelector::parse("status.phase!=Running,metadata.name==a\\,b,spec.nodeName=").unwrap();
        let terms: Vec<_> =
            selector.terms().iter().map(|term| (term.field.as_str(), term.comparison, term.value.as_str())).collect();
        assert_eq!(
            terms,
            [
                ("status.phase", Comparison::Differs, "Running"),
                ("metadata.name", Comparison::Equals, "a,b"),
                ("spec.nodeName", Comparison::Equals, ""),
            ]
        );
    }

    #[test]
    fn every_term_must_hold() {
        let value = |field: &str| (field == "metadata.name").then(|| "web".to_owned());
        let table =
            [("", true), ("metadata.name=web", true), ("metadata.name!=web", false), ("x=", true), ("x!=", false)];
        for (text, expected) in table {
            assert_eq!(FieldSelector::parse(text).unwrap().matches_by(value), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_term_is_refused() {
        for text in ["metadata.name", "a=b=c", "a=\\x", "a=b\\"] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
    }
}
