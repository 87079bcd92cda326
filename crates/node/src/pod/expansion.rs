//! `$(NAME)` in environment values, commands and arguments. `$$` stands for `$`; what has no value stays as it is.

/// Puts the values in.
pub(crate) fn expand<'a>(text: &str, value_of: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            after
        } else if let Some((name, after_name)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value_of(name) {
                Some(value) => expanded.push_str(value),
                None => {
                    expanded.push_str("$(");
                    expanded.push_str(name);
                    expanded.push(')');
                }
            }
            after_name
        } else {
            expanded.push('$');
            after
        };
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_values_once() {
        let value_of = |name: &str| match name {
            "A" => Some("1"),
            "B" => Some("x$(A)"),
            "EMPTY" => Some(""),
            _ => None,
        };
        let table = [
            ("plain", "plain"),
            ("$(A)-$(B)", "1-x$(A)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(NONE)", "$(NONE)"),
            ("[$(EMPTY)]", "[]"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("$(A)$(A)", "11"),
            ("$()", "$()"),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, value_of), expected, "{text}");
        }
    }
}
