//! Plans one after the other: what is made of the same as last time is not made again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use decide::draining::DrainStep;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use objects::ranges::Range;

use super::{Part, Plan, Routes, SERVICE_NAME, Snapshot, has_endpoints, plan, uid_of};
use crate::config::PodUid;
use crate::mesh::Machines;
use crate::routing::fronts;
use crate::watch::Objects;

/// Knows what the last plan was made of, and its parts.
#[derive(Debug, Default)]
pub(in crate::routing) struct Planner {
    /// By the key of the Service.
    parts: BTreeMap<String, (Made, Part)>,
    pods: Objects<Pod>,
    leaving: BTreeMap<PodUid, DrainStep>,
    host: Option<IpAddr>,
    service_range: Option<Range>,
    /// Services that Ingresses on the tailnet lead to.
    led_to: BTreeSet<String>,
    machines: Arc<Machines>,
}

/// A pod that a slice names, if there is one, and its step.
type Named = Option<(Arc<Pod>, Option<DrainStep>)>;

/// What the part of a Service is made of: these objects, not only their like.
#[derive(Debug)]
struct Made {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    pods: Vec<Named>,
}

/// Where parts come from.
#[derive(Clone, Copy)]
struct Source<'a> {
    snapshot: &'a Snapshot,
    leaving: &'a BTreeMap<PodUid, DrainStep>,
    led_to: &'a BTreeSet<String>,
}

impl Planner {
    /// Everything that the data plane is to do. `leaving` has the step that each pod is at that goes away.
    pub(in crate::routing) fn plan(&mut self, snapshot: &Snapshot, leaving: &BTreeMap<PodUid, DrainStep>) -> Plan {
        let led_to = fronts::led_to(&snapshot.ingresses);
        let source = Source { snapshot, leaving, led_to: &led_to };
        if (self.host, self.service_range) != (snapshot.host, snapshot.service_range) {
            self.parts.clear();
        }
        if !Arc::ptr_eq(&self.machines, &snapshot.machines) {
            // Few are in the mesh, and others have nothing of it.
            self.parts.retain(|_, (_, part)| !part.service.is_in_mesh);
        }
        let has_same_pods = Arc::ptr_eq(&self.pods, &snapshot.pods) && self.leaving == *leaving;
        let slices = by_service(snapshot);
        for (key, service) in snapshot.services.iter().filter(|(_, service)| has_endpoints(service)) {
            let of_service = full_name(service).and_then(|name| slices.get(&name)).map_or(&[][..], Vec::as_slice);
            let is_known = self.parts.get(key).is_some_and(|(made, _)| {
                made.is_of(service, of_service)
                    && self.led_to.contains(key) == led_to.contains(key)
                    && (has_same_pods || made.is_with(&pods(source, service, of_service)))
            });
            if !is_known {
                self.parts.insert(key.clone(), Made::part(source, key, service, of_service));
            }
        }
        self.parts.retain(|key, _| snapshot.services.get(key).is_some_and(|service| has_endpoints(service)));
        (self.pods, self.leaving) = (Arc::clone(&snapshot.pods), leaving.clone());
        (self.host, self.service_range, self.led_to) = (snapshot.host, snapshot.service_range, led_to);
        self.machines = Arc::clone(&snapshot.machines);
        plan(snapshot, leaving, self.parts.iter().map(|(key, (_, part))| (key, part)))
    }
}

/// Namespace and name.
fn full_name(service: &Service) -> Option<(&str, &str)> {
    Some((service.metadata.namespace.as_deref().unwrap_or_default(), service.metadata.name.as_deref()?))
}

/// Slices by namespace and name of the Service.
fn by_service(snapshot: &Snapshot) -> HashMap<(&str, &str), Vec<&Arc<EndpointSlice>>> {
    let mut slices: HashMap<_, Vec<_>> = HashMap::new();
    for slice in snapshot.slices.values().filter(|slice| slice.address_type == "IPv4") {
        let name = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if let Some(name) = name {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            slices.entry((namespace, name.as_str())).or_default().push(slice);
        }
    }
    slices
}

/// The pods that the slices of a Service name.
fn pods(source: Source<'_>, service: &Service, slices: &[&Arc<EndpointSlice>]) -> Vec<Named> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let names = endpoints.filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.as_deref());
    let pod = |name: &str| {
        let pod = source.snapshot.pods.get(&format!("{namespace}/{name}"))?;
        Some((Arc::clone(pod), source.leaving.get(&uid_of(pod)).copied()))
    };
    names.map(pod).collect()
}

impl Made {
    fn part(source: Source<'_>, key: &str, service: &Arc<Service>, slices: &[&Arc<EndpointSlice>]) -> (Self, Part) {
        let Source { snapshot, leaving, led_to } = source;
        let pods = pods(source, service, slices);
        let slices: Vec<_> = slices.iter().map(|slice| Arc::clone(slice)).collect();
        let part = Part::of(&Routes {
            snapshot,
            leaving,
            service,
            slices: &slices,
            has_front: fronts::is_wanted(key, service, led_to),
        });
        (Self { service: Arc::clone(service), slices, pods }, part)
    }

    fn is_of(&self, service: &Arc<Service>, slices: &[&Arc<EndpointSlice>]) -> bool {
        Arc::ptr_eq(&self.service, service)
            && self.slices.len() == slices.len()
            && self.slices.iter().zip(slices).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    fn is_with(&self, pods: &[Named]) -> bool {
        let is_same = |(one, other): (&Named, &Named)| match (one, other) {
            (Some((one, step)), Some((other, other_step))) => Arc::ptr_eq(one, other) && step == other_step,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.pods.len() == pods.len() && self.pods.iter().zip(pods).all(is_same)
    }
}

#[cfg(test)]
mod tests {
    use decide::draining::DrainStep;
    use serde_json::json;

    use super::*;
    use crate::routing::plan::tests::{Cluster, plan, pod, service, slice, uid};

    /// As the API has it after a change of one object: the others are the same ones.
    fn changed<K: Clone>(objects: &mut Objects<K>, name: &str, change: impl FnOnce(&mut K)) {
        let object = Arc::make_mut(objects).get_mut(&format!("production/{name}")).unwrap();
        let mut copy = K::clone(object);
        change(&mut copy);
        *object = Arc::new(copy);
    }

    #[test]
    fn a_plan_is_the_same_as_one_made_of_nothing_and_only_what_changed_is_made_anew() {
        let pods = [pod("demo", 1, "True"), pod("demo", 2, "True"), pod("other", 3, "True")];
        let mut other = service("other", "10.45.0.8");
        other["metadata"]["annotations"] = json!({"tailscale.com/expose": "true"});
        let mut outside = service("outside", "10.45.0.9");
        outside["spec"]["externalIPs"] = json!(["192.0.2.9"]);
        let cluster = Cluster {
            services: vec![service("demo", "10.45.0.7"), outside, other],
            slices: vec![slice("demo", &[&pods[0], &pods[1]]), slice("other", &[&pods[2]])],
            pods: pods.to_vec(),
            ..Cluster::default()
        };
        let (mut snapshot, mut leaving) = (cluster.snapshot(), BTreeMap::new());
        let late = Arc::make_mut(&mut snapshot.pods).remove("production/demo-2").unwrap();
        let mut planner = Planner::default();
        let mut before = planner.plan(&snapshot, &leaving);
        for step in 0..6 {
            match step {
                0 => drop(Arc::make_mut(&mut snapshot.pods).insert("production/demo-2".to_owned(), Arc::clone(&late))),
                1 => changed(&mut snapshot.slices, "demo-1", |slice| {
                    slice.endpoints.as_mut().unwrap().pop();
                }),
                2 => changed(&mut snapshot.services, "demo", |service| {
                    service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].port = 81;
                }),
                3 => changed(&mut snapshot.pods, "demo-1", |pod| {
                    pod.metadata = serde_json::from_value(json!({
                        "namespace": "production", "name": "demo-1", "uid": "u1", "deletionTimestamp": "2026-01-01T00:00:30Z",
                    }))
                    .unwrap();
                }),
                4 => drop(leaving.insert(uid(1), DrainStep::Withdraw)),
                _ => drop(Arc::make_mut(&mut snapshot.services).remove("production/demo")),
            }
            let after = planner.plan(&snapshot, &leaving);
            assert_eq!(after, plan(&snapshot, &leaving), "step {step}");
            assert_ne!(after.services, before.services, "step {step}");
            let others = [&before, &after].map(|plan| plan.services.iter().find(|it| it.name == "other").unwrap());
            assert!(others[1].addresses.contains(&[127, 45, 0, 8].into()));
            assert!(Arc::ptr_eq(others[0], others[1]), "step {step}");
            before = after;
        }
    }
}
