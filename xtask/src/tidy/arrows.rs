//! Which crate sees which: the table in ARCHITECTURE.md and the manifests say the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::tables::{code, rows};

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The table's columns are `Crate` and `May use`, with crate names between backticks.
pub(super) fn remarks(architecture: &str, metadata: &Value) -> anyhow::Result<Vec<String>> {
    let allowed: Arrows = rows(architecture, ["Crate", "May use"])?
        .into_iter()
        .flat_map(|[names, seen]| code(names).into_iter().map(move |name| (name.to_owned(), owned(&code(seen)))))
        .collect();
    Ok(compare(&allowed, &actual(metadata)))
}

fn compare(allowed: &Arrows, actual: &Arrows) -> Vec<String> {
    let mut remarks = Vec::new();
    for (name, sees) in actual {
        let Some(may_see) = allowed.get(name) else {
            remarks.push(format!("ARCHITECTURE.md: the crate {name} is not in the table"));
            continue;
        };
        remarks
            .extend(sees.difference(may_see).map(|seen| format!("{name} must not see {seen}, says ARCHITECTURE.md")));
    }
    let gone = allowed.keys().filter(|name| !actual.contains_key(*name));
    remarks.extend(gone.map(|name| format!("ARCHITECTURE.md: there is no crate {name}")));
    remarks
}

/// Never shipped: the tests of the crates it knows may use it all the same.
const FOR_TESTS: &str = "simulation";

/// What each crate of the workspace depends on in the workspace, for tests or not.
fn actual(metadata: &Value) -> Arrows {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let arrows = packages.map(|package| {
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let local = dependencies.filter(|dependency| dependency["path"].is_string() && !is_for_tests(dependency));
        (text(&package["name"]), local.map(|dependency| text(&dependency["name"])).collect())
    });
    arrows.collect()
}

fn is_for_tests(dependency: &Value) -> bool {
    dependency["name"] == FOR_TESTS && dependency["kind"] == "dev"
}

fn owned(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_arrow_that_the_table_does_not_allow_is_remarked() {
        let table = "| Crate | Is | May use |\n|---|---|---|\n| `objects` | data | — |\n| `node`, `tools` | x | `objects` |\n| `gone` | x | |";
        let package = |name: &str, sees: &[&str]| {
            let dependencies: Vec<_> = sees.iter().map(|seen| json!({"name": seen, "path": "crates"})).collect();
            json!({"name": name, "dependencies": dependencies})
        };
        let metadata = json!({"packages": [
            json!({"name": "objects", "dependencies": [{"name": "simulation", "path": "crates", "kind": "dev"}]}), package("node", &["objects"]), package("tools", &["objects", "node"]), package("new", &[]),
        ]});
        let remarks = remarks(table, &metadata).unwrap();
        assert_eq!(
            remarks,
            [
                "ARCHITECTURE.md: the crate new is not in the table",
                "tools must not see node, says ARCHITECTURE.md",
                "ARCHITECTURE.md: there is no crate gone",
            ]
        );
    }
}
