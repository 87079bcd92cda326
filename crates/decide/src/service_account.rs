//! What does a pod get from its ServiceAccount? A volume with a token, so that its processes are known to the API, and the
//! Secrets with which its images are pulled. Source: Kubernetes' ServiceAccount admission controller.

use objects::names::{SERVICE_ACCOUNT_MOUNT, TOKEN_VOLUME};
use serde_json::{Value, json};

use crate::namespace::ROOT_CA;

/// Seconds that such a token lasts. The odd number is Kubernetes' own, by which it tells it from tokens that were asked for.
const TOKEN_SECONDS: u32 = 3607;

/// Gives a new pod what its account has for it. `suffix` makes the volume's name one of its own.
pub fn equip(pod: &mut Value, account: &Value, suffix: &str) {
    let wants_token = [&pod["spec"], account].into_iter().find_map(|it| it["automountServiceAccountToken"].as_bool());
    if wants_token.unwrap_or(true) {
        mount_token(&mut pod["spec"], &format!("{TOKEN_VOLUME}{suffix}"));
    }
    let secrets = &account["imagePullSecrets"];
    let has_own = pod["spec"]["imagePullSecrets"].as_array().is_some_and(|own| !own.is_empty());
    if !has_own && secrets.as_array().is_some_and(|secrets| !secrets.is_empty()) {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
}

/// Into every container that has nothing else there.
fn mount_token(spec: &mut Value, volume: &str) {
    let mut is_used = false;
    for containers in ["initContainers", "containers"] {
        for container in spec.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = &mut container["volumeMounts"];
            let is_taken = mounts.as_array().is_some_and(|all| {
                all.iter().any(|mount| {
                    mount["mountPath"].as_str().is_some_and(|path| path.trim_end_matches('/') == SERVICE_ACCOUNT_MOUNT)
                })
            });
            if !is_taken {
                is_used = true;
                add(mounts, json!({"name": volume, "readOnly": true, "mountPath": SERVICE_ACCOUNT_MOUNT}));
            }
        }
    }
    if is_used {
        let sources = json!([
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]);
        add(&mut spec["volumes"], json!({"name": volume, "projected": {"sources": sources, "defaultMode": 0o644}}));
    }
}

fn add(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equipped(mut spec: Value, account: Value) -> Value {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        for (field, value) in spec.as_object_mut().unwrap() {
            pod["spec"][field] = value.take();
        }
        equip(&mut pod, &account, "abcde");
        pod["spec"].take()
    }

    #[test]
    fn every_container_has_a_token_unless_it_has_something_else_there() {
        let mount = |spec: &Value, index: usize| spec["containers"][index]["volumeMounts"].clone();
        let spec = equipped(json!({}), json!({}));
        let token = json!([{"name": "kube-api-access-abcde", "readOnly": true, "mountPath": SERVICE_ACCOUNT_MOUNT}]);
        assert_eq!((mount(&spec, 0), mount(&spec, 1)), (token.clone(), token.clone()));
        assert_eq!(spec.get("initContainers"), None);
        assert_eq!(spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["path"], "token");
        let own = json!([{"name": "own", "mountPath": SERVICE_ACCOUNT_MOUNT}]);
        let some =
            json!({"containers": [{"name": "a", "volumeMounts": own}, {"name": "b"}], "volumes": [{"name": "own"}]});
        let spec = equipped(some, json!({}));
        assert_eq!((mount(&spec, 0), mount(&spec, 1)), (own.clone(), token));
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 2);
        let all = json!({"containers": [{"name": "a", "volumeMounts": own}], "volumes": [{"name": "own"}]});
        assert_eq!(equipped(all.clone(), json!({}))["volumes"], all["volumes"]);
    }

    #[test]
    fn the_pod_says_whether_it_wants_a_token_and_else_its_account() {
        let no = json!({"automountServiceAccountToken": false});
        let yes = json!({"automountServiceAccountToken": true});
        for (pod, account, has) in [(&no, &yes, false), (&yes, &no, true), (&json!({}), &no, false)] {
            assert_eq!(equipped(pod.clone(), account.clone())["volumes"].is_array(), has, "{pod} {account}");
        }
    }

    #[test]
    fn images_are_pulled_with_the_accounts_secrets_where_the_pod_names_none() {
        let account = json!({"imagePullSecrets": [{"name": "of-account"}], "automountServiceAccountToken": false});
        assert_eq!(equipped(json!({}), account.clone())["imagePullSecrets"], account["imagePullSecrets"]);
        let own = json!({"imagePullSecrets": [{"name": "own"}]});
        assert_eq!(equipped(own.clone(), account)["imagePullSecrets"], own["imagePullSecrets"]);
    }
}
