//! POST: an object comes into being.

use decide::service_account;
use http::StatusCode;
use jiff::Timestamp;
use objects::hash;
use objects::kind::{Kind, Subresource};
use objects::status::Failure;
use serde_json::{Value, json};
use uuid::Uuid;

use super::answer::{self, Form, Included};
use super::{Answer, ApiServer, Asked, Place, objects_in, refusals, write};
use crate::store::{Expected, WriteError};

/// Tries to find a free generated name before giving up; each has 27^5 possibilities, so one collision is rare.
const GENERATED_NAMES_TRIED: usize = 8;

const USUAL_ACCOUNT: &str = "default";

impl ApiServer {
    pub(super) async fn create(&self, place: &Place, asked: &Asked) -> Answer {
        let form = Form::wanted(asked)?;
        write::check_dry_run(asked, "CreateOptions")?;
        let incoming = objects_in::read(asked, place)?;
        let mut warnings = incoming.warnings;
        let mut value = incoming.value;
        let generated = name_generated(&mut value)?;
        self.prepare_new(place, &mut value, &mut warnings)?;
        self.check_grant(&asked.caller, place, &value, None)?;
        for _ in 0..GENERATED_NAMES_TRIED {
            match self.create_prepared(place, asked, value.clone()).await {
                Err(WriteError::Changed(Some(_))) if generated => {
                    value["metadata"]["name"] = Value::String(generate_name(&value));
                }
                Err(WriteError::Changed(_)) => return Err(refusals::already_exists(place.kind, name_of(&value))),
                Err(error) => return Err(write::failed(&error)),
                Ok(created) => {
                    let shown = answer::object(place.kind, &created, form, Included::wanted(asked)?);
                    return Ok(answer::json(StatusCode::CREATED, &shown, &warnings));
                }
            }
        }
        Err(refusals::already_exists(place.kind, name_of(&value)))
    }

    /// Everything between decoding and writing: metadata, defaults, addresses, validation.
    fn prepare_new(&self, place: &Place, value: &mut Value, warnings: &mut Vec<String>) -> Result<(), Failure> {
        let kind = place.kind;
        if value["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
            return Err(Failure::bad_request(
                "metadata.resourceVersion: must not be set on an object that is to be created",
            ));
        }
        self.namespace_takes(place, name_of(value))?;
        begin_life(kind, value);
        (kind.default)(value);
        self.default_ingress_class(kind, value);
        (kind.prepare_create)(value);
        self.equip_pod(kind, value)?;
        self.allocate_addresses(kind, value, None).inspect_err(|_| self.release_addresses(kind, value))?;
        let causes = (kind.validate)(value);
        if !causes.is_empty() {
            self.release_addresses(kind, value);
            return Err(Failure::invalid_object(kind, name_of(value), causes));
        }
        warnings.extend((kind.warnings)(value));
        Ok(())
    }

    /// An Ingress without a class gets the one that is marked as the default; without or with several of them, none.
    fn default_ingress_class(&self, kind: &Kind, value: &mut Value) {
        let has_class = value["spec"]["ingressClassName"].is_string()
            || value["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_string();
        if kind.kind != "Ingress" || has_class {
            return;
        }
        let classes = self.store.list("ingressclasses.networking.k8s.io", None).objects;
        let is_default =
            |class: &Value| class["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"] == "true";
        let mut defaults = classes.iter().filter(|class| is_default(&class.value));
        if let (Some(only), None) = (defaults.next(), defaults.next()) {
            value["spec"]["ingressClassName"] = only.value["metadata"]["name"].clone();
        }
    }

    /// A pod gets what its ServiceAccount has for it. The usual account, which its namespace is about to get, is not waited
    /// for.
    fn equip_pod(&self, kind: &Kind, value: &mut Value) -> Result<(), Failure> {
        if kind.kind != "Pod" {
            return Ok(());
        }
        let text = |of: &str, field: &str| value[of][field].as_str().unwrap_or_default().to_owned();
        let (namespace, account) = (text("metadata", "namespace"), text("spec", "serviceAccountName"));
        let found = self.store.get("serviceaccounts", &namespace, &account);
        if found.is_none() && account != USUAL_ACCOUNT {
            let why = format!(
                "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
            );
            return Err(Failure::forbidden("", kind.plural, name_of(value), &why));
        }
        let suffix = hash::suffix(Uuid::new_v4().as_u64_pair().0);
        service_account::equip(value, found.as_ref().map_or(&Value::Null, |found| &found.value), &suffix);
        Ok(())
    }

    async fn create_prepared(&self, place: &Place, asked: &Asked, value: Value) -> Result<Value, WriteError> {
        let name = (place.namespace().to_owned(), name_of(&value).to_owned());
        if write::is_dry_run(asked) {
            self.release_addresses(place.kind, &value);
            return match self.store.get(&place.resource(), &name.0, &name.1) {
                Some(found) => Err(WriteError::Changed(Some(found))),
                None => Ok(value),
            };
        }
        let written = self.store.write(&place.resource(), name, Expected::Absent, value.clone()).await;
        if written.is_err() {
            self.release_addresses(place.kind, &value);
        }
        written.map(|object| object.value.clone())
    }

    /// Refuses objects in namespaces that are not there or going away.
    fn namespace_takes(&self, place: &Place, name: &str) -> Result<(), Failure> {
        let Some(namespace) = &place.namespace else { return Ok(()) };
        match self.store.get("namespaces", "", namespace) {
            None => Err(Failure::not_found("", "namespaces", namespace)),
            Some(found) if found.value["metadata"]["deletionTimestamp"].is_string() => {
                Err(refusals::namespace_terminating(place.kind, name, namespace))
            }
            Some(_) => Ok(()),
        }
    }

    /// POST to a pod's `binding`: names the node that runs it.
    pub(super) async fn bind(&self, place: &Place, asked: &Asked) -> Answer {
        let parsed = objects_in::parse(asked)?;
        let Some(node) = parsed.value["target"]["name"].as_str().filter(|node| !node.is_empty()) else {
            return Err(Failure::bad_request("target.name: names the node and is required"));
        };
        self.change(place, asked, |pod| {
            if pod["spec"]["nodeName"].as_str().is_some_and(|bound| !bound.is_empty()) {
                let sentence = format!("pod {} is already assigned to node {}", place.name(), pod["spec"]["nodeName"]);
                return Err(refusals::conflict(place, &sentence).at_subresource(Subresource::Binding.path()));
            }
            pod["spec"]["nodeName"] = Value::String(node.to_owned());
            let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                "lastTransitionTime": write::timestamp(Timestamp::now()), "observedGeneration": pod["metadata"]["generation"]});
            write::set_condition(pod, scheduled);
            Ok(())
        })
        .await?;
        let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(answer::json(StatusCode::CREATED, &done, &[]))
    }
}

/// Gives the object a name if it asks for one by `generateName`; whether it did.
fn name_generated(value: &mut Value) -> Result<bool, Failure> {
    let metadata = &value["metadata"];
    if metadata["name"].as_str().is_some_and(|name| !name.is_empty()) {
        return Ok(false);
    }
    if metadata["generateName"].as_str().is_none_or(str::is_empty) {
        return Ok(false);
    }
    value["metadata"]["name"] = Value::String(generate_name(value));
    Ok(true)
}

fn generate_name(value: &Value) -> String {
    /// Kubernetes cuts the prefix so that the whole stays a DNS label.
    const PREFIX_LENGTH_MAX: usize = 58;
    let prefix = value["metadata"]["generateName"].as_str().unwrap_or_default();
    let cut: String = prefix.chars().take(PREFIX_LENGTH_MAX).collect();
    let (random, _) = Uuid::new_v4().as_u64_pair();
    format!("{cut}{}", hash::suffix(random))
}

/// Sets what only the server may set.
fn begin_life(kind: &Kind, value: &mut Value) {
    let Some(metadata) = value["metadata"].as_object_mut() else { return };
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"] {
        metadata.shift_remove(field);
    }
    if !kind.is_namespaced() {
        metadata.shift_remove("namespace");
    }
    metadata.insert("uid".to_owned(), Value::String(Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), Value::String(write::timestamp(Timestamp::now())));
    if kind.counts_generations {
        metadata.insert("generation".to_owned(), Value::from(1));
    }
}

fn name_of(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}
