//! Mistakes in objects: what is wrong with which field, in Kubernetes' words.

use serde_json::Value;

/// One mistake, as it stands in a `Status`'s `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueDuplicate`,
    /// `FieldValueForbidden`, `FieldValueTooLong` …
    pub reason: &'static str,
    /// Path with indexes, e.g. `spec.template.spec.containers[0].image`.
    pub field: String,
    /// A sentence, without the field's path.
    pub message: String,
}

/// A place in an object: a value, null when there is none, and the path that leads to it.
#[derive(Clone, Debug)]
pub(crate) struct At<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: String,
}

impl<'a> At<'a> {
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    pub(crate) fn field(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { value: self.value.get(name).unwrap_or(&Value::Null), path }
    }

    pub(crate) fn items(&self) -> impl Iterator<Item = At<'a>> + use<'a> {
        let path = self.path.clone();
        let items = self.value.as_array().into_iter().flatten();
        items.enumerate().map(move |(index, value)| At { value, path: format!("{path}[{index}]") })
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, At<'a>)> + use<'a> {
        let path = self.path.clone();
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(move |(key, value)| (key.as_str(), At { value, path: format!("{path}[{key}]") }))
    }

    /// The text; empty when there is none.
    pub(crate) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub(crate) fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub(crate) fn is_given(&self) -> bool {
        !self.value.is_null()
    }

    pub(crate) fn is_true(&self) -> bool {
        self.value == &Value::Bool(true)
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    pub(crate) fn required(&self, detail: &str) -> Cause {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        self.cause("FieldValueRequired", message)
    }

    pub(crate) fn invalid(&self, detail: &str) -> Cause {
        self.invalid_as(self.value, detail)
    }

    /// For a mistake that shows another value than stands here.
    pub(crate) fn invalid_as(&self, shown: &Value, detail: &str) -> Cause {
        self.cause("FieldValueInvalid", format!("Invalid value: {shown}: {detail}"))
    }

    pub(crate) fn not_supported(&self, supported: &[&str]) -> Cause {
        let listed: Vec<_> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        let shown = if self.is_given() { self.value } else { &Value::String(String::new()) };
        let message = format!("Unsupported value: {shown}: supported values: {}", listed.join(", "));
        self.cause("FieldValueNotSupported", message)
    }

    pub(crate) fn duplicate(&self) -> Cause {
        self.cause("FieldValueDuplicate", format!("Duplicate value: {}", self.value))
    }

    pub(crate) fn not_found(&self) -> Cause {
        self.cause("FieldValueNotFound", format!("Not found: {}", self.value))
    }

    pub(crate) fn forbidden(&self, detail: &str) -> Cause {
        self.cause("FieldValueForbidden", format!("Forbidden: {detail}"))
    }

    pub(crate) fn too_long(&self, most_bytes: usize) -> Cause {
        self.cause("FieldValueTooLong", format!("Too long: may not be more than {most_bytes} bytes"))
    }

    pub(crate) fn too_many(&self, most_items: usize) -> Cause {
        let count = self.items().count();
        self.cause("FieldValueTooMany", format!("Too many: {count}: must have at most {most_items} items"))
    }

    /// Each fault of a value as a mistake here.
    pub(crate) fn invalid_for(&self, faults: Vec<String>) -> impl Iterator<Item = Cause> + use<'_, 'a> {
        faults.into_iter().map(|fault| self.invalid(&fault))
    }

    fn cause(&self, reason: &'static str, message: String) -> Cause {
        Cause { reason, field: self.path.clone(), message }
    }
}

/// A whole number below zero.
pub(crate) fn check_not_negative(at: &At<'_>, causes: &mut Vec<Cause>) {
    if at.number().is_some_and(|number| number < 0) {
        causes.push(at.invalid("must be greater than or equal to 0"));
    }
}

/// A number that is given and lies outside a range.
pub(crate) fn check_range(at: &At<'_>, least: i64, most: i64, causes: &mut Vec<Cause>) {
    if at.number().is_some_and(|number| number < least || number > most) {
        causes.push(at.invalid(&format!("must be between {least} and {most}, inclusive")));
    }
}

/// A text that is given and is none of those that have a meaning.
pub(crate) fn check_one_of(at: &At<'_>, supported: &[&str], causes: &mut Vec<Cause>) {
    if at.is_given() && !supported.contains(&at.text()) {
        causes.push(at.not_supported(supported));
    }
}

/// What a cookie's name may be (RFC 6265, 4.1.1; RFC 9110, 5.6.2).
pub fn is_cookie_name(text: &str) -> bool {
    let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_one)
}
