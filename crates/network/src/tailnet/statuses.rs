//! What is written on Services and Ingresses about their place on the tailnet: an event when it changes, a condition on
//! Services, and on load balancers and Ingresses where they are reached.

use std::collections::BTreeMap;
use std::fmt::Debug;

use decide::exposure::{CLASS, CannotExpose, Owner, Place, Trouble, is_on_tailnet};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::concerns;
use crate::events::{About, Component, EventType, Said, write_event};
use crate::watch::Objects;

/// The condition by which Tailscale's operator says that a Service is on the tailnet.
const CONDITION: &str = "TailscaleProxyReady";
const EXPOSED: &str = "Exposed";
const FOUND: &str = "TargetFound";

/// What came of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Placed(Place),
    Refused(CannotExpose),
    /// A Service stands for this.
    StandsFor(String),
    /// In one word and in sentences.
    Unable(&'static str, String),
}

/// What is said of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    status: &'static str,
    reason: &'static str,
    message: String,
    /// None: as it was.
    points: Option<Vec<Value>>,
}

/// How many have each reason.
pub(super) fn reasons(outcomes: &BTreeMap<Owner, Outcome>) -> BTreeMap<&'static str, u64> {
    let mut reasons = BTreeMap::new();
    for outcome in outcomes.values() {
        *reasons.entry(Told::of(outcome).reason).or_default() += 1;
    }
    reasons
}

impl Told {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Placed(place) => {
                let points = points(place);
                let reason = place.troubles.first().map_or(EXPOSED, Trouble::reason);
                let (status, at) = match &place.name {
                    Some(name) => ("True", Some(format!("reached at {name}"))),
                    None => ("False", None),
                };
                let sentences = at.into_iter().chain(place.troubles.iter().map(Trouble::to_string));
                Self { status, reason, message: sentences.collect::<Vec<_>>().join(". "), points: Some(points) }
            }
            Outcome::Refused(refused) => {
                let message = refused.to_string();
                Self { status: "False", reason: "CannotExpose", message, points: Some(Vec::new()) }
            }
            Outcome::StandsFor(what) => {
                Self { status: "True", reason: FOUND, message: format!("stands for {what}"), points: None }
            }
            Outcome::Unable(reason, message) => {
                Self { status: "False", reason, message: message.clone(), points: None }
            }
        }
    }

    fn is_said_by(&self, service: &Service) -> bool {
        let says = condition(service).is_some_and(|said| {
            (said.status.as_str(), said.reason.as_str(), &said.message) == (self.status, self.reason, &self.message)
        });
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let said = json!(balancer.and_then(|balancer| balancer.ingress.clone()).unwrap_or_default());
        says && (!is_balancer(service) || self.points.as_ref().is_none_or(|points| said == json!(points)))
    }

    fn event(&self) -> Said {
        let type_ = if [EXPOSED, FOUND].contains(&self.reason) { EventType::Normal } else { EventType::Warning };
        Said { by: Component::Tailnet, type_, reason: self.reason, message: self.message.clone() }
    }
}

fn points(place: &Place) -> Vec<Value> {
    let Some(name) = &place.name else { return Vec::new() };
    let addresses = place.addresses.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "Proxy"}));
    [json!({"hostname": name})].into_iter().chain(addresses).collect()
}

/// Writes what is not said yet.
pub(super) struct Writer {
    client: Client,
    /// What was said last of each Ingress, whose status has no place for a reason.
    said: BTreeMap<String, Told>,
}

impl Writer {
    pub(super) fn new(client: Client) -> Self {
        Self { client, said: BTreeMap::new() }
    }

    /// What is on the tailnet and has no outcome yet stays as it is.
    pub(super) async fn write(
        &mut self,
        services: &Objects<Service>,
        ingresses: &Objects<Ingress>,
        outcomes: &BTreeMap<Owner, Outcome>,
    ) {
        for (key, service) in services.iter() {
            let saying = outcomes.get(&Owner::Service(key.clone())).map(Told::of);
            self.write_service(service, saying).await;
        }
        self.said.retain(|key, _| ingresses.contains_key(key));
        for (key, ingress) in ingresses.iter() {
            match outcomes.get(&Owner::Ingress(key.clone())).map(Told::of) {
                Some(saying) => self.write_ingress(key, ingress, saying).await,
                None if !is_on_tailnet(ingress) && self.said.remove(key).is_some() => {
                    write_status(&self.client, ingress.as_ref(), &ingress_patch(ingress, &[])).await;
                }
                None => {}
            }
        }
    }

    async fn write_service(&self, service: &Service, saying: Option<Told>) {
        let is_over = saying.is_none() && !concerns(service);
        let patch = match &saying {
            Some(saying) if !saying.is_said_by(service) => patch(service, Some(saying), Timestamp::now()),
            None if is_over && condition(service).is_some() => patch(service, None, Timestamp::now()),
            Some(_) | None => return,
        };
        let is_news =
            condition(service).map(|said| said.reason.as_str()) != saying.as_ref().map(|saying| saying.reason);
        // What has changed or gone meanwhile is looked at afresh.
        if write_status(&self.client, service, &patch).await
            && is_news
            && let Some(saying) = saying
        {
            write_event(self.client.clone(), About::of(service), saying.event()).await;
        }
    }

    async fn write_ingress(&mut self, key: &str, ingress: &Ingress, saying: Told) {
        let known = self.said.get(key).map(|said| said.reason);
        let points = saying.points.clone().map(|points| points.into_iter().map(without_mode).collect::<Vec<_>>());
        let status = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let said = json!(status.and_then(|status| status.ingress.clone()).unwrap_or_default());
        let is_said = points.as_ref().is_none_or(|points| said == json!(points));
        let patch = ingress_patch(ingress, &points.unwrap_or_default());
        if !is_said && !write_status(&self.client, ingress, &patch).await {
            return;
        }
        // After a restart, nobody wants to hear what the status shows.
        let is_news = known.map_or(!is_said || saying.reason != EXPOSED, |known| known != saying.reason);
        if is_news {
            write_event(self.client.clone(), About::of(ingress), saying.event()).await;
        }
        self.said.insert(key.to_owned(), saying);
    }
}

/// The API knows modes of addresses for Services alone.
fn without_mode(mut point: Value) -> Value {
    if let Some(point) = point.as_object_mut() {
        point.remove("ipMode");
    }
    point
}

fn ingress_patch(ingress: &Ingress, points: &[Value]) -> Value {
    let metadata = &ingress.metadata;
    let status = json!({"loadBalancer": {"ingress": points}});
    json!({"metadata": {"uid": metadata.uid, "resourceVersion": metadata.resource_version}, "status": status})
}

/// Whether it was written.
async fn write_status<K>(client: &Client, object: &K, patch: &Value) -> bool
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let About { kind, namespace, name, .. } = About::of(object);
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => true,
        Err(kube::Error::Api(refused)) if refused.code == 409 || refused.code == 404 => false,
        Err(error) => {
            tracing::warn!("can't write on {kind} {namespace}/{name} where it is on the tailnet: {error}");
            false
        }
    }
}

/// What makes a Service say this, or nothing of it any more.
fn patch(service: &Service, saying: Option<&Told>, now: Timestamp) -> Value {
    let known = service.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut conditions: Vec<Condition> = known.into_iter().filter(|condition| condition.type_ != CONDITION).collect();
    conditions.extend(saying.map(|saying| {
        let before = condition(service).filter(|before| before.status == saying.status);
        Condition {
            type_: CONDITION.to_owned(),
            status: saying.status.to_owned(),
            reason: saying.reason.to_owned(),
            message: saying.message.clone(),
            last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
            observed_generation: None,
        }
    }));
    let metadata = &service.metadata;
    let mut status = json!({"conditions": conditions});
    let points = saying.map_or(Some(Vec::new()), |saying| saying.points.clone());
    if let Some(points) = points.filter(|_| is_balancer(service)) {
        status["loadBalancer"] = json!({"ingress": points});
    }
    json!({"metadata": {"uid": metadata.uid, "resourceVersion": metadata.resource_version}, "status": status})
}

fn condition(service: &Service) -> Option<&Condition> {
    let conditions = service.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == CONDITION)
}

fn is_balancer(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref()) == Some(CLASS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(status: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "web", "uid": "u", "resourceVersion": "7"},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": CLASS}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_service_says_where_it_is_reached_and_what_is_in_the_way() {
        let mut place = Place {
            name: Some("web.example.ts.net".to_owned()),
            addresses: vec!["100.100.0.1".parse().unwrap()],
            troubles: [].into(),
        };
        let told = Told::of(&Outcome::Placed(place.clone()));
        assert_eq!(
            (told.status, told.reason, told.message.as_str()),
            ("True", "Exposed", "reached at web.example.ts.net")
        );
        let other = json!({"type": "Other", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let before = service(json!({"conditions": [other]}));
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let patched = patch(&before, Some(&told), now);
        assert_eq!(patched["metadata"]["resourceVersion"], "7");
        assert_eq!(patched["status"]["conditions"][0], other);
        let points = json!([{"hostname": "web.example.ts.net"}, {"ip": "100.100.0.1", "ipMode": "Proxy"}]);
        assert_eq!(patched["status"]["loadBalancer"]["ingress"], points);
        let after = service(patched["status"].clone());
        assert!(!told.is_said_by(&before) && told.is_said_by(&after));

        place.troubles.insert(Trouble::NoCertificates);
        let troubled = Told::of(&Outcome::Placed(place));
        assert_eq!((troubled.status, troubled.reason), ("True", "NoCertificates"));
        let later = patch(&after, Some(&troubled), "2026-01-03T00:00:00Z".parse().unwrap());
        assert_eq!(later["status"]["conditions"][1]["lastTransitionTime"], "2026-01-02T00:00:00Z");

        let unable = Told::of(&Outcome::Unable("NoDaemon", "It is not there".to_owned()));
        assert_eq!(patch(&after, Some(&unable), now)["status"].get("loadBalancer"), None, "the name is still the name");
        let over = patch(&after, None, now);
        assert_eq!(over["status"], json!({"conditions": [other], "loadBalancer": {"ingress": []}}));
    }
}
