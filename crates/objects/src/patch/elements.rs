//! The order of a merged list. The patch gives the order of the items that it names, the current list that of the
//! others; where the two meet, the current list decides if it knows both items, and else the patch's item comes first.

use serde_json::Value;

/// How items of a list are recognised: plain values by themselves, objects by the value of one key.
#[derive(Clone, Copy)]
pub(super) enum Identity<'a> {
    Value,
    Key(&'a str),
}

impl Identity<'_> {
    pub(super) fn of<'v>(&self, item: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Value => Some(item),
            Self::Key(key) => item.get(key),
        }
    }

    pub(super) fn position(&self, list: &[Value], item: &Value) -> Option<usize> {
        let wanted = self.of(item)?;
        list.iter().position(|other| self.of(other) == Some(wanted))
    }
}

/// Puts `merged` in order: `patch_order` names the items that the patch speaks of, `current` is the list before.
pub(super) fn in_order(
    merged: Vec<Value>,
    patch_order: &[Value],
    current: &[Value],
    identity: Identity<'_>,
) -> Vec<Value> {
    let (mut named, mut others): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|item| identity.position(patch_order, item).is_some());
    named.sort_by_key(|item| identity.position(patch_order, item));
    others.sort_by_key(|item| identity.position(current, item));
    interleave(others, named, current, identity)
}

fn interleave(others: Vec<Value>, named: Vec<Value>, current: &[Value], identity: Identity<'_>) -> Vec<Value> {
    let comes_first = |other: &Value, named: &Value| {
        let positions = (identity.position(current, other), identity.position(current, named));
        matches!(positions, (Some(other), Some(named)) if other < named)
    };
    let mut ordered = Vec::with_capacity(others.len() + named.len());
    let (mut others, mut named) = (others.into_iter().peekable(), named.into_iter().peekable());
    loop {
        let takes_other = match (others.peek(), named.peek()) {
            (Some(other), Some(named)) => comes_first(other, named),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return ordered,
        };
        ordered.extend(if takes_other { others.next() } else { named.next() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ordered(merged: &str, patch_order: &str, current: &str) -> String {
        let list = |text: &str| text.chars().map(|letter| json!(letter.to_string())).collect::<Vec<_>>();
        let items = in_order(list(merged), &list(patch_order), &list(current), Identity::Value);
        items.iter().filter_map(Value::as_str).collect()
    }

    #[test]
    fn patch_orders_its_items_and_the_current_list_the_others() {
        let table = [
            ("abc", "bc", "ab", "abc"),
            ("abn", "bna", "ab", "bna"),
            ("acd", "da", "ac", "dac"),
            ("abc", "", "abc", "abc"),
            ("abcd", "cb", "abcd", "acbd"),
        ];
        for (merged, patch_order, current, expected) in table {
            assert_eq!(ordered(merged, patch_order, current), expected, "{merged} {patch_order} {current}");
        }
    }
}
