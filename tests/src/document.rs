//! The source document's Deployment on a machine, with the demonstration's overlay, and how it stands.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::images::APP;
use crate::machine::Machine;
use crate::outside::Load;
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

    /// 240 requests a second from the outside to the Service.
    #[must_use]
    pub fn load(&self) -> Load {
        self.0.outside().load(self.0.service_address(NAME))
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
