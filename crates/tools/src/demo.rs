//! The story that `segue demo` tells, as a client of the API: a good version rolls out under traffic, a broken one
//! replaces nobody and is undone. What it prints as good, it has checked.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::timeout;

use crate::follow::follow;
use crate::load::{self, Plan, Running};
use crate::rollout::{self, Progress};

pub use outcome::{Claim, Outcome, Rollout};

use audience::Audience;
use manifests::{CONTAINER, Manifests, NAME, NAMESPACE, SELECTOR};
use outcome::{Observed, Standing};
use screen::Screen;

mod audience;
mod manifests;
mod outcome;
mod screen;

/// No rollout of the story takes nearly as long, nor does giving up the broken one.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The whole story ends in two minutes; the load would end by itself soon after.
const LONGEST_LOAD: Duration = Duration::from_secs(180);
/// Requests between two scenes: two seconds of traffic.
const INTERLUDE: u64 = 480;

/// The controller writes the Deployment's status meanwhile, a few times a second at most.
const UNDO_TRIES: usize = 5;

/// What the story is played on.
pub struct Stage {
    /// Of an engine on which nothing of the story exists yet.
    pub client: Client,
    pub images: Images,
}

/// The versions of the bundled application, in the order they are deployed.
#[derive(Clone, Debug)]
pub struct Images {
    pub first: Image,
    pub second: Image,
    /// Never becomes ready.
    pub broken: Image,
}

/// One version of the bundled application.
#[derive(Clone, Debug)]
pub struct Image {
    /// As a manifest names it.
    pub reference: String,
    /// As the application calls itself in its answers.
    pub version: String,
}

/// Why the story could not be told to its end, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("the manifest {file} could not be read")]
    Manifest {
        file: &'static str,
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    #[error("could not {action}")]
    Api {
        action: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the Service has no address that traffic could be sent to: {address:?}")]
    NoServiceAddress { address: Option<String> },
    #[error("waited {} s for {what}; see `kubectl describe deployment` and `kubectl get events`", LONGEST_WAIT.as_secs())]
    TooLate { what: &'static str },
    #[error("the rollout of a good version exceeded its progress deadline; see `kubectl get events`")]
    GoodVersionFailed,
    #[error("the broken version was reported as rolled out")]
    BrokenVersionSucceeded,
    #[error("there is no earlier revision to go back to")]
    NothingToUndo,
    #[error("the pods could not be watched to the end")]
    Watch(#[source] Box<kube::Error>),
    #[error("not so: {}", .0.join("; "))]
    NotSo(Vec<&'static str>),
}

/// Plays the whole story, prints its table, and fails if anything in it was not so.
///
/// # Errors
/// Says what could not be done, or which claims of the story were not so.
pub async fn play(stage: Stage) -> Result<Outcome, DemoError> {
    let screen = Screen::detect();
    let outcome = Story::new(&stage, &screen).tell().await;
    screen.end();
    let outcome = outcome?;
    screen.show(&outcome);
    let broken: Vec<_> = outcome.claims.iter().filter(|claim| !claim.holds).map(|claim| claim.sentence).collect();
    if broken.is_empty() { Ok(outcome) } else { Err(DemoError::NotSo(broken)) }
}

struct Story<'stage> {
    images: &'stage Images,
    client: Client,
    deployments: Api<Deployment>,
    pods: Api<Pod>,
    screen: &'stage Screen,
}

impl<'stage> Story<'stage> {
    fn new(stage: &'stage Stage, screen: &'stage Screen) -> Story<'stage> {
        let client = stage.client.clone();
        Story {
            images: &stage.images,
            deployments: Api::namespaced(client.clone(), NAMESPACE),
            pods: Api::namespaced(client.clone(), NAMESPACE),
            client,
            screen,
        }
    }

    async fn tell(&self) -> Result<Outcome, DemoError> {
        let Images { first, second, broken } = self.images;
        self.screen.say("The document's Deployment, Service and HorizontalPodAutoscaler, with shorter probe delays and smaller requests");
        let mut rollouts = vec![self.roll_out("first version", self.apply(first)).await?];
        let audience = Audience::watch(self.pods.clone());
        let load = load::start(self.plan().await?);
        let _live = self.screen.follow(load.observer(), audience.census());
        self.screen.say("Traffic: 240 requests a second over HTTP/1.1, HTTP/2 and gRPC, every answer checked");
        self.interlude(&load).await;

        self.screen.say(&format!("A good version: {} takes over from {}", second.version, first.version));
        rollouts.push(self.roll_out("good version", self.set_image(second)).await?);
        self.interlude(&load).await;

        let before = self.standing().await?;
        self.screen.say(&format!("A broken version: {} never becomes ready", broken.version));
        rollouts.push(self.give_up(self.set_image(broken)).await?);
        let after = self.standing().await?;
        self.screen.say(&format!(
            "Its rollout is stuck and {} still serves; undone, as `kubectl rollout undo` does",
            second.version
        ));
        rollouts.push(self.roll_out("undo", self.undo()).await?);
        self.interlude(&load).await;

        let report = load.stop().await;
        let lowest_ready = audience.lowest_ready().await.map_err(|source| DemoError::Watch(Box::new(source)))?;
        let end = self.standing().await?;
        Ok(Observed { report, rollouts, lowest_ready, before, after, end }.judge(self.images))
    }

    async fn apply(&self, image: &Image) -> Result<(), DemoError> {
        let Manifests { namespace, deployment, service, autoscaler } = manifests::in_a_hurry(&image.reference)?;
        let create = PostParams::default();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.create(&create, &namespace).await.map_err(api("create the Namespace"))?;
        let services: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        services.create(&create, &service).await.map_err(api("create the Service"))?;
        self.deployments.create(&create, &deployment).await.map_err(api("create the Deployment"))?;
        let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), NAMESPACE);
        autoscalers.create(&create, &autoscaler).await.map_err(api("create the HorizontalPodAutoscaler"))?;
        Ok(())
    }

    async fn plan(&self) -> Result<Plan, DemoError> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        let service = services.get(NAME).await.map_err(api("read the Service"))?;
        let address = service.spec.and_then(|spec| spec.cluster_ip);
        let parsed: Option<IpAddr> = address.as_deref().and_then(|address| address.parse().ok());
        let Some(ip) = parsed else {
            return Err(DemoError::NoServiceAddress { address });
        };
        let host = format!("{NAME}.{NAMESPACE}.svc.cluster.local");
        Ok(Plan { host, longest: LONGEST_LOAD, ..Plan::against((ip, 80).into()) })
    }

    async fn interlude(&self, load: &Running) {
        let so_far = load.so_far().sent;
        load.answered(so_far + INTERLUDE).await;
    }

    async fn set_image(&self, image: &Image) -> Result<(), DemoError> {
        let containers = json!([{"name": CONTAINER, "image": image.reference}]);
        let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
        let patched = self.deployments.patch(NAME, &PatchParams::default(), &patch).await;
        patched.map(drop).map_err(api("set the image"))
    }

    async fn undo(&self) -> Result<(), DemoError> {
        let replica_sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), NAMESPACE);
        let sets =
            replica_sets.list(&ListParams::default().labels(SELECTOR)).await.map_err(api("list the ReplicaSets"))?;
        let mut conflict = None;
        for _ in 0..UNDO_TRIES {
            let mut deployment = self.deployments.get(NAME).await.map_err(api("read the Deployment"))?;
            let template = rollout::previous_template(&deployment, &sets.items).ok_or(DemoError::NothingToUndo)?;
            deployment.spec.get_or_insert_default().template = template;
            match self.deployments.replace(NAME, &PostParams::default(), &deployment).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => conflict = Some(kube::Error::Api(status)),
                Err(source) => return Err(api("undo the rollout")(source)),
            }
        }
        Err(conflict.map_or(DemoError::NothingToUndo, api("undo the rollout")))
    }

    /// Makes a change and waits until it is rolled out.
    async fn roll_out(
        &self,
        name: &'static str,
        change: impl Future<Output = Result<(), DemoError>>,
    ) -> Result<Rollout, DemoError> {
        let started = Instant::now();
        change.await?;
        match self.settled("a rollout to end").await? {
            Settled::Complete => {
                let length = started.elapsed();
                self.screen.say(&format!("  rolled out in {:.1} s", length.as_secs_f64()));
                Ok(Rollout { name, length })
            }
            Settled::DeadlineExceeded => Err(DemoError::GoodVersionFailed),
        }
    }

    /// Makes a change that cannot work and waits until that is reported.
    async fn give_up(&self, change: impl Future<Output = Result<(), DemoError>>) -> Result<Rollout, DemoError> {
        let started = Instant::now();
        change.await?;
        match self.settled("the broken version's deadline").await? {
            Settled::DeadlineExceeded => {
                Ok(Rollout { name: "broken version, until given up", length: started.elapsed() })
            }
            Settled::Complete => Err(DemoError::BrokenVersionSucceeded),
        }
    }

    async fn settled(&self, what: &'static str) -> Result<Settled, DemoError> {
        let this_one = ListParams::default().fields(&format!("metadata.name={NAME}"));
        let settling = follow(&self.deployments, &this_one, |found| match found.get(NAME).map(rollout::progress) {
            Some(Progress::Complete) => ControlFlow::Break(Settled::Complete),
            Some(Progress::DeadlineExceeded) => ControlFlow::Break(Settled::DeadlineExceeded),
            Some(Progress::Unobserved | Progress::Updating | Progress::RetiringOld | Progress::WaitingForAvailable)
            | None => ControlFlow::Continue(()),
        });
        let settled = timeout(LONGEST_WAIT, settling).await.map_err(|_| DemoError::TooLate { what })?;
        settled.map_err(api("watch the Deployment"))
    }

    async fn standing(&self) -> Result<Vec<Standing>, DemoError> {
        let pods = self.pods.list(&ListParams::default().labels(SELECTOR)).await.map_err(api("list the pods"))?;
        Ok(pods.items.iter().map(Standing::of).collect())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Complete,
    DeadlineExceeded,
}

fn api(action: &'static str) -> impl FnOnce(kube::Error) -> DemoError {
    move |source| DemoError::Api { action, source: Box::new(source) }
}
