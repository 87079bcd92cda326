//! Tables that `kubectl get` prints: what cells have in common.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json::{entries, items, text};
use crate::kind::Column;

pub(crate) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    description: "The object's name, unique within its namespace.",
};

pub(crate) const AGE: Column = column("Age", "string", "How long ago the object was created.");

pub(crate) const CONTAINERS: Column = wide("Containers", "string", "Names of the containers in the template.");

pub(crate) const IMAGES: Column = wide("Images", "string", "Images of the containers in the template.");

pub(crate) const SELECTOR: Column = wide("Selector", "string", "The labels by which pods are found.");

/// A length of time as tables print it: two units at most, and only one once it is long.
pub(crate) fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

pub(crate) const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", priority: 0, description }
}

pub(crate) const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", priority: 1, description }
}

pub(crate) fn name(object: &Value) -> Value {
    json!(text(object, "/metadata/name"))
}

/// The age of an object.
pub(crate) fn age(object: &Value, now: Timestamp) -> Value {
    json!(since(text(object, "/metadata/creationTimestamp"), now))
}

/// How long ago a time was; `<unknown>` when there is none.
pub(crate) fn since(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return "<unknown>".to_owned() };
    human_duration(now.duration_since(time).as_secs())
}

/// The text, or the words for nothing.
pub(crate) fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

/// Names and images of a template's containers, each joined by commas.
pub(crate) fn containers(object: &Value) -> [Value; 2] {
    let joined = |field: &str| {
        let containers = items(object, "/spec/template/spec/containers").iter();
        json!(containers.map(|container| text(container, field)).collect::<Vec<_>>().join(","))
    };
    [joined("/name"), joined("/image")]
}

/// A map of labels as `a=b,c=d`; `<none>` when it is empty.
pub(crate) fn labels(object: &Value, pointer: &str) -> Value {
    let mut pairs: Vec<_> =
        entries(object, pointer).map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort();
    or_none(&pairs.join(","))
}

/// At most `most` of these, and how many there are besides.
pub(crate) fn some_of(all: &[String], most: usize, nothing: &str) -> String {
    let shown = all[..all.len().min(most)].join(",");
    match all.len() {
        0 => nothing.to_owned(),
        count if count > most => format!("{shown} + {} more...", count - most),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_kubectl_prints_them() {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 3600;
        const DAY: i64 = 86_400;
        let table = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (10 * MINUTE + 5, "10m"),
            (179 * MINUTE, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 5 * MINUTE, "3h5m"),
            (8 * HOUR + 5 * MINUTE, "8h"),
            (47 * HOUR, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + 3 * HOUR, "2d3h"),
            (8 * DAY + HOUR, "8d"),
            (729 * DAY, "729d"),
            (730 * DAY, "2y"),
            (731 * DAY, "2y1d"),
            (2920 * DAY, "8y"),
        ];
        for (seconds, expected) in table {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let all: Vec<_> = ["1", "2", "3", "4"].map(String::from).into();
        assert_eq!(some_of(&all, 3, "<unset>"), "1,2,3 + 1 more...");
        assert_eq!(some_of(&all[..3], 3, "<unset>"), "1,2,3");
        assert_eq!(some_of(&[], 3, "<unset>"), "<unset>");
    }
}
