//! Who is a caller from the tailnet, to the API? What Tailscale's daemon says of its address, in Kubernetes' words, as
//! Tailscale's own API server proxy puts it: a person is a user by the login, a tagged machine by its name, with its tags as
//! groups. The tailnet policy adds groups by capabilities. What each may do, roles and bindings say.

use std::collections::BTreeMap;

use serde_json::Value;

/// `{"impersonate": {"groups": ["…"]}}`
const KUBERNETES: &str = "tailscale.com/cap/kubernetes";
/// `{"verbs": ["view", "deploy", "operate"]}`
const SEGUE: &str = "tailscale.com/cap/segue";
/// The groups of these verbs begin so; the roles that they have are made at the first start.
const GROUP: &str = "segue:";
const VERBS: [&str; 3] = ["view", "deploy", "operate"];

/// What the daemon says of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whois {
    /// The machine's name, with the tailnet's domain and without a dot at the end.
    pub machine: String,
    pub tags: Vec<String>,
    /// Who uses it; of a tagged machine that is nobody.
    pub login: String,
    /// What the tailnet policy lets it do here, by the capability's name.
    pub capabilities: BTreeMap<String, Vec<Value>>,
}

/// A caller in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
}

impl Whois {
    /// None for somebody who has no name.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        let user = if self.tags.is_empty() { &self.login } else { &self.machine };
        let granted = |capability: &str| self.capabilities.get(capability).into_iter().flatten();
        let impersonated = granted(KUBERNETES).flat_map(|value| texts(&value["impersonate"]["groups"]));
        let verbs = granted(SEGUE).flat_map(|value| texts(&value["verbs"])).filter(|verb| VERBS.contains(verb));
        let groups = self.tags.iter().cloned().chain(impersonated.map(str::to_owned));
        let groups = groups.chain(verbs.map(|verb| format!("{GROUP}{verb}"))).collect();
        (!user.is_empty()).then(|| Identity { user: user.clone(), groups })
    }
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(tags: &[&str], capabilities: Value) -> Option<(String, Vec<String>)> {
        let whois = Whois {
            machine: "ci.example.ts.net".to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            login: "ann@example.com".to_owned(),
            capabilities: serde_json::from_value(capabilities).unwrap(),
        };
        whois.identity().map(|Identity { user, groups }| (user, groups))
    }

    #[test]
    fn people_are_known_by_their_login_and_tagged_machines_by_their_name_and_tags() {
        assert_eq!(identity(&[], json!({})), Some(("ann@example.com".to_owned(), vec![])));
        assert_eq!(identity(&["tag:ci"], json!({})), Some(("ci.example.ts.net".to_owned(), vec!["tag:ci".to_owned()])));
        assert_eq!(Whois::default().identity(), None);
    }

    #[test]
    fn the_tailnet_policy_gives_groups_and_nothing_that_is_no_group() {
        let groups = |capabilities| identity(&[], capabilities).unwrap().1;
        let kubernetes = json!({KUBERNETES: [{"impersonate": {"groups": ["system:masters", 7]}}, {"impersonate": {"groups": ["dev"]}}]});
        assert_eq!(groups(kubernetes), ["system:masters", "dev"]);
        assert_eq!(groups(json!({SEGUE: [{"verbs": ["deploy", "fly"]}], "other": [{}]})), ["segue:deploy"]);
        for nonsense in [json!({KUBERNETES: ["x", null, {"impersonate": []}]}), json!({SEGUE: [{"verbs": "deploy"}]})] {
            assert_eq!(groups(nonsense), Vec::<String>::new());
        }
    }
}
