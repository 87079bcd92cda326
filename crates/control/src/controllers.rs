//! The controllers' loops: each takes a snapshot over the API, asks `decide`, applies the steps, and sleeps until
//! something happens. They keep nothing that a restart would lose.

mod aggregation;
mod control_loop;
mod deployment;
mod disruption;
mod endpointslice;
mod garbage;
mod kinds;
mod namespace;
mod replicaset;
mod scheduler;
mod snapshot;
mod watches;
mod work_queue;
mod writes;

use std::future::Future;
use std::sync::Arc;

use kube::Client;
use tokio::task::JoinSet;

use crate::events::Events;
use control_loop::ControlLoop;

/// What every loop has at hand.
#[derive(Clone)]
struct Context {
    client: Client,
    events: Events,
}

/// What stops a look at one object; it is taken again after a while.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read {what}")]
    Read { what: String, source: Box<kube::Error> },
    #[error("cannot {step}")]
    Apply { step: String, source: Box<kube::Error> },
    #[error("the API serves no kind {kind}")]
    UnknownKind { kind: String },
}

/// Runs all controllers until `stop` is done. Whatever is half done then is carried on at the next start. `root_ca` is
/// the certificate of the API's authority in PEM form, which every namespace holds for its pods.
pub async fn run(client: Client, root_ca: String, stop: impl Future<Output = ()>) {
    let context = |component| Context { client: client.clone(), events: Events::start(client.clone(), component) };
    let mut tasks = JoinSet::new();
    deployment::start(ControlLoop::new("deployment", context("deployment-controller"), &mut tasks));
    replicaset::start(ControlLoop::new("replicaset", context("replicaset-controller"), &mut tasks));
    endpointslice::start(ControlLoop::new("endpointslice", context("endpoint-slice-controller"), &mut tasks));
    disruption::start(ControlLoop::new("disruption", context("controllermanager"), &mut tasks));
    aggregation::start(ControlLoop::new("aggregation", context("clusterrole-aggregation-controller"), &mut tasks));
    scheduler::start(ControlLoop::new("scheduler", context("default-scheduler"), &mut tasks));
    let (garbage, namespace) = (context("garbage-collector-controller"), context("namespace-controller"));
    tasks.spawn(async move {
        let kinds = Arc::new(kinds::discover(&garbage.client).await);
        let mut tasks = JoinSet::new();
        garbage::start(ControlLoop::new("garbage", garbage, &mut tasks), &kinds);
        namespace::start(ControlLoop::new("namespace", namespace, &mut tasks), &kinds, &root_ca);
        while tasks.join_next().await.is_some() {}
    });
    // The tasks never end by themselves; dropping the set ends them.
    stop.await;
}

#[cfg(test)]
mod tests;
