//! What happens to requests while pods come and go.

use std::time::Duration;

use decide::balancing::EndpointState::{Deprioritised, Ready, Withdrawn};
use network::config::Affinity;

use crate::app::App;
use crate::load::{Client, Load, get};
use crate::plane::Plane;

/// Lets the load run on for a while; its length decides how much is tried, not whether it passes.
async fn some_traffic() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_that_exit_at_once_when_drained_lose_no_request() {
    let mut plane = Plane::start().await;
    let mut old = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    let load = Load::start(plane.service());
    old.has_begun(20).await;
    for number in 3..9 {
        let new = App::start(plane.pod(number), &format!("app-{number}"));
        plane.route(&[(number - 1, Ready), (number, Ready)]).await;
        new.has_begun(20).await;
        plane.route(&[(number - 1, Withdrawn), (number, Ready)]).await;
        plane.drained_to(number - 1, 0, 0).await;
        std::mem::replace(&mut old, new).exit();
    }
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert!(outcome.answered > 100, "{outcome:?}");
    assert_eq!(outcome.by_app.len(), 7, "every app had its turn: {:?}", outcome.by_app);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_pod_gets_not_one_request_more() {
    let mut plane = Plane::start().await;
    let (one, _two) = (App::start(plane.pod(2), "app-2"), App::start(plane.pod(3), "app-3"));
    plane.route(&[(2, Ready), (3, Ready)]).await;
    let load = Load::start(plane.service());
    some_traffic().await;
    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    plane.drained_to(2, 0, 0).await;
    let begun = one.begun();
    assert!(begun > 0, "it had requests before");
    some_traffic().await;
    // Not even a later configuration brings it back.
    plane.route(&[(2, Ready), (3, Ready)]).await;
    some_traffic().await;
    assert_eq!(one.begun(), begun);
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_pod_finishes_what_it_has() {
    let mut plane = Plane::start().await;
    let (one, _two) = (App::start(plane.pod(2), "app-2"), App::start(plane.pod(3), "app-3"));
    plane.route(&[(2, Ready)]).await;
    let service = plane.service();
    let slow = tokio::spawn(async move { get(service, "/slow?1500").await });
    one.has_begun(1).await;
    plane.route(&[(2, Deprioritised)]).await;
    plane.drained_to(2, 1, 0).await;
    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    plane.drained_to(2, 1, 0).await;
    assert_eq!(get(service, "/").await.1, "app-3");
    plane.drained_to(2, 0, 0).await;
    assert_eq!(slow.await.unwrap().1, "app-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprioritised_pod_is_used_only_while_nothing_is_ready() {
    let mut plane = Plane::start().await;
    let (_one, _two) = (App::start(plane.pod(2), "app-2"), App::start(plane.pod(3), "app-3"));
    plane.route(&[(2, Deprioritised)]).await;
    let mut client = Client::connect(plane.service()).await.unwrap();
    assert_eq!(client.get("/").await.1, "app-2");
    plane.route(&[(2, Deprioritised), (3, Ready)]).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.1, "app-3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_pod_to_arrive() {
    let mut plane = Plane::start().await;
    let _app = App::start(plane.pod(2), "app-2");
    plane.route(&[]).await;
    let service = plane.service();
    let waiting = tokio::spawn(async move { get(service, "/").await });
    some_traffic().await;
    assert!(!waiting.is_finished());
    plane.route(&[(2, Ready)]).await;
    assert_eq!(waiting.await.unwrap().1, "app-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waited_in_vain_is_told_why() {
    let mut plane = Plane::start().await;
    plane.route(&[(2, Withdrawn)]).await;
    let (status, body) = get(plane.service(), "/").await;
    assert_eq!(status, 503);
    assert_eq!(body, "Service production/demo-app: no pod of the Service was ready for 10 seconds\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_refuses_connections_costs_no_request() {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready), (3, Ready), (4, Ready)]).await;
    let load = Load::start(plane.service());
    some_traffic().await;
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert_eq!(app.begun(), outcome.answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_affinity_comes_to_the_same_pod_until_that_goes() {
    let mut plane = Plane::start().await;
    plane.affinity = Affinity::ClientIp;
    let _apps = [2, 3, 4].map(|number| App::start(plane.pod(number), &format!("app-{number}")));
    plane.route(&[(2, Ready), (3, Ready), (4, Ready)]).await;
    let first = get(plane.service(), "/").await.1;
    for _ in 0..20 {
        assert_eq!(get(plane.service(), "/").await.1, first);
    }
    let own: u8 = first.trim_start_matches("app-").parse().unwrap();
    let without_own = [2, 3, 4].map(|number| (number, if number == own { Withdrawn } else { Ready }));
    plane.route(&without_own).await;
    let second = get(plane.service(), "/").await.1;
    assert_ne!(second, first);
    for _ in 0..20 {
        assert_eq!(get(plane.service(), "/").await.1, second);
    }
}
