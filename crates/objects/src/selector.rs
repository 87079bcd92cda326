//! Does this object belong? Label selectors in objects and in query strings, and field selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

mod field;
mod parse;

pub use field::{Comparison, FieldSelector, FieldTerm};

/// A selector that can't be read, with a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    pub message: String,
}

/// A label selector as it stands in a query string, e.g. `app=web,tier in (front,back),!canary`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    demand: Demand,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Demand {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

/// Whether the labels satisfy a selector of an object; an empty selector matches everything.
#[must_use]
pub fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let mut wanted = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|expression| expression_matches(expression, labels))
}

/// Whether the labels satisfy a selector that is only a map, as Services have; an empty one matches nothing.
#[must_use]
pub fn matches_map(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The text form of an object's selector, as `status.selector` of a Scale has it: `app=web,tier in (back,front)`.
#[must_use]
pub fn to_text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| (key.clone(), format!("{key}={value}")));
    let expressions = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|expression| (expression.key.clone(), expression_text(expression)));
    let mut parts: Vec<_> = labels.chain(expressions).collect();
    parts.sort_by(|one, other| one.0.cmp(&other.0));
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

impl Selector {
    /// Reads a query-string selector; an empty text matches everything.
    ///
    /// # Errors
    /// When the text is not a list of requirements, or a key or value can't be a label's.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self { requirements: parse::requirements(text)? })
    }

    /// Whether the labels satisfy every requirement.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_by(|key| labels.get(key).map(String::as_str))
    }

    /// The same for labels that are found by a function.
    #[must_use]
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.demand.is_met(label(&requirement.key)))
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Demand {
    fn is_met(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(values) => value.is_some_and(|value| values.iter().any(|wanted| wanted == value)),
            Self::NotIn(values) => value.is_none_or(|value| values.iter().all(|unwanted| unwanted != value)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
            Self::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Self::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// An operator that validation would refuse matches nothing.
fn expression_matches(expression: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = expression.values.clone().unwrap_or_default();
    let demand = match expression.operator.as_str() {
        "In" => Demand::In(values),
        "NotIn" => Demand::NotIn(values),
        "Exists" => Demand::Exists,
        "DoesNotExist" => Demand::DoesNotExist,
        _ => return false,
    };
    demand.is_met(labels.get(&expression.key).map(String::as_str))
}

fn expression_text(expression: &LabelSelectorRequirement) -> String {
    let mut values = expression.values.clone().unwrap_or_default();
    values.sort();
    let (key, values) = (&expression.key, values.join(","));
    match expression.operator.as_str() {
        "In" => format!("{key} in ({values})"),
        "NotIn" => format!("{key} notin ({values})"),
        "DoesNotExist" => format!("!{key}"),
        _ => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn query_selectors_match() {
        let table = [
            ("", "", true),
            ("app=web", "app=web,x=y", true),
            ("app==web", "app=web", true),
            ("app=web", "app=api", false),
            ("app!=web", "", true),
            ("app!=web", "app=web", false),
            ("app", "app=", true),
            ("!app", "app=", false),
            ("!app", "", true),
            ("app in (web, api)", "app=api", true),
            ("app in (web,api)", "app=db", false),
            ("app in (web,)", "app=", true),
            ("app notin (web,api)", "app=db", true),
            ("app notin (web,api)", "", true),
            ("n>3", "n=4", true),
            ("n>3", "n=3", false),
            ("n<3", "n=2", true),
            ("n<3", "n=x", false),
            ("app=web,!canary,tier in (a)", "app=web,tier=a", true),
            ("app=", "app=", true),
            ("in=notin", "in=notin", true),
            ("example.com/app=web", "example.com/app=web", true),
        ];
        for (selector, of, expected) in table {
            assert_eq!(Selector::parse(selector).unwrap().matches(&labels(of)), expected, "{selector:?} of {of:?}");
        }
    }

    #[test]
    fn what_is_not_a_selector_is_refused() {
        let table = [
            "app=web,",
            ",",
            "app in web",
            "app in (",
            "a=b=c",
            "!a=b",
            "a b",
            "-a=b",
            "a=b!",
            "n>x",
            "=x",
            "a in ()x",
        ];
        for text in table {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn selectors_of_objects_match() {
        let selector: LabelSelector = serde_json::from_value(json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["b", "a"]},
                {"key": "canary", "operator": "DoesNotExist"},
            ],
        }))
        .unwrap();
        assert!(matches(&selector, &labels("app=web,tier=a")));
        assert!(!matches(&selector, &labels("app=web,tier=a,canary=1")));
        assert!(!matches(&selector, &labels("app=web")));
        assert!(matches(&LabelSelector::default(), &labels("any=thing")));
        assert_eq!(to_text(&selector), "app=web,!canary,tier in (a,b)");
    }

    #[test]
    fn an_empty_service_selector_matches_nothing() {
        assert!(!matches_map(&labels(""), &labels("app=web")));
        assert!(matches_map(&labels("app=web"), &labels("app=web,x=y")));
    }
}
