//! The source document's Deployment on a machine, with the demonstration's overlay, and how it stands.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tools::load::Plan;

use crate::images::APP;
use crate::machine::Machine;
use crate::outside::{self, Load};
use crate::paths::project;

pub const NAME: &str = "tailscale-mesh-zero-downtime-deployment";
const DEPLOYMENT: &str = "deployment/tailscale-mesh-zero-downtime-deployment -n production";
const SELECTED: &str = "-l app=tailscale-mesh-zero-downtime-deployment -n production";

/// The Deployment `tailscale-mesh-zero-downtime-deployment` of one machine.
pub struct Document<'machine>(&'machine Machine);

/// A pod as far as anybody could have replaced or restarted it: by uid.
pub type Standing = BTreeMap<String, Pod>;

/// One pod that is not terminating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub image: String,
    pub container: String,
    pub restarts: i64,
    pub ready: bool,
}

impl<'machine> Document<'machine> {
    /// Applies the overlay, deploys `version` and waits until it is rolled out.
    #[must_use]
    pub fn deployed(machine: &'machine Machine, version: &str) -> Document<'machine> {
        let document = Document(machine);
        let kubectl = machine.kubectl();
        kubectl.run("create namespace production");
        kubectl.run(&format!("apply -k {}", project("demo/overlay").display()));
        document.roll_to(version);
        document
    }

    /// One that was deployed before.
    #[must_use]
    pub fn of(machine: &'machine Machine) -> Document<'machine> {
        Document(machine)
    }

    pub fn set_image(&self, version: &str) {
        self.0.kubectl().run(&format!("set image {DEPLOYMENT} app={APP}:{version}"));
    }

    pub fn rolled_out(&self) {
        self.0.kubectl().run(&format!("rollout status {DEPLOYMENT} --timeout=60s"));
    }

    pub fn roll_to(&self, version: &str) {
        self.set_image(version);
        self.rolled_out();
        self.assert_declared(version, 3);
    }

    pub fn undo(&self) {
        self.0.kubectl().run(&format!("rollout undo {DEPLOYMENT}"));
        self.rolled_out();
    }

    /// Scales and waits until so many pods are there; a rollout's status says nothing of pods that are too many.
    pub fn scale(&self, replicas: usize) {
        let kubectl = self.0.kubectl();
        kubectl.run(&format!("scale {DEPLOYMENT} --replicas={replicas}"));
        for counted in [".status.replicas", ".status.availableReplicas"] {
            kubectl.wait_for(DEPLOYMENT, counted, &replicas.to_string());
        }
    }

    /// Scales to nothing, and waits until no pod is left.
    pub fn without_pods(&self) {
        let kubectl = self.0.kubectl();
        kubectl.run(&format!("scale {DEPLOYMENT} --replicas=0"));
        kubectl.run(&format!("wait --for=delete pods {SELECTED} --timeout=60s"));
    }

    /// What `kubectl rollout status` says of a rollout that must fail.
    pub fn rollout_failure(&self) -> String {
        self.0.kubectl().fails(&format!("rollout status {DEPLOYMENT} --timeout=60s"))
    }

    /// Fails unless the pods that stay are `replicas` ready ones of `version` that were never restarted.
    pub fn assert_declared(&self, version: &str, replicas: usize) {
        let standing = self.standing();
        let right = |pod: &Pod| pod.image == format!("{APP}:{version}") && pod.ready && pod.restarts == 0;
        assert!(
            standing.len() == replicas && standing.values().all(right),
            "not {replicas} of {version}: {standing:#?}"
        );
    }

    /// The pods that are not terminating.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let pods = self.0.kubectl().json(&format!("get pods {SELECTED}"));
        let items = pods["items"].as_array().expect("a list").iter();
        let staying = items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        staying.map(|pod| (text(&pod["metadata"]["uid"]), Pod::of(pod))).collect()
    }

    /// Waits until the pods that are going away are gone.
    pub fn settled(&self) {
        let kubectl = self.0.kubectl();
        let pods = kubectl.json(&format!("get pods {SELECTED}"));
        let items = pods["items"].as_array().expect("a list").iter();
        for pod in items.filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null()) {
            let name = text(&pod["metadata"]["name"]);
            kubectl.run(&format!("wait pod/{name} -n production --for=delete --timeout=60s"));
        }
    }

    /// Waits until containers were restarted so many times, and all pods are ready.
    pub fn restarted(&self, times: i64) {
        let are_back = |standing: &Standing| {
            standing.values().map(|pod| pod.restarts).sum::<i64>() == times && standing.values().all(|pod| pod.ready)
        };
        while !are_back(&self.standing()) {}
    }

    /// The deletion of each pod that is going away, by the pod's name.
    #[must_use]
    pub fn deletions(&self) -> BTreeMap<String, SystemTime> {
        let pods = self.0.kubectl().json(&format!("get pods {SELECTED}"));
        let pods: Vec<k8s_openapi::api::core::v1::Pod> =
            serde_json::from_value(pods["items"].clone()).expect("a list of pods");
        let deleted = pods.into_iter().filter_map(|pod| {
            let ends: SystemTime = pod.metadata.deletion_timestamp?.0.into();
            let grace_seconds = pod.metadata.deletion_grace_period_seconds?.try_into().ok()?;
            Some((pod.metadata.name?, ends - Duration::from_secs(grace_seconds)))
        });
        deleted.collect()
    }

    /// Sets an annotation of the pods, which replaces them all.
    pub fn annotate_pods(&self, name: &str, value: &str) {
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {name: value}}}}});
        self.0.kubectl().run(&format!("patch {DEPLOYMENT} --patch {patch}"));
        self.rolled_out();
    }

    /// 240 requests a second from the outside to the Service.
    #[must_use]
    pub fn load(&self) -> Load {
        self.0.outside().send(&self.plan())
    }

    /// The same, to be changed.
    #[must_use]
    pub fn plan(&self) -> Plan {
        outside::plan(self.address())
    }

    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.0.service_address(NAME)
    }
}

impl Pod {
    fn of(pod: &Value) -> Pod {
        let status = &pod["status"]["containerStatuses"][0];
        Pod {
            name: text(&pod["metadata"]["name"]),
            image: text(&pod["spec"]["containers"][0]["image"]),
            container: text(&status["containerID"]),
            restarts: status["restartCount"].as_i64().unwrap_or_default(),
            ready: status["ready"].as_bool().unwrap_or_default(),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
