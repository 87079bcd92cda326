//! What happens to clients while proxies, keepers and engines are replaced.

use std::net::SocketAddr;

use decide::balancing::EndpointState::{Ready, Withdrawn};
use network::config::{Change, Transport};
use network::keeper::ProxyUser;

use crate::app::App;
use crate::load::{Client, Load, get};
use crate::plane::{PORT, Plane};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_is_replaced_and_no_connection_is_refused() {
    let mut plane = Plane::start().await;
    let _app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    for _ in 0..5 {
        let killed = plane.kill_proxy();
        for _ in 0..20 {
            assert_eq!(get(plane.service(), "/").await.1, "app-2");
        }
        assert_ne!(plane.proxy_pid(), killed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_killed_proxy_costs_only_what_was_open_in_it() {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    let load = Load::start(plane.service());
    app.has_begun(20).await;
    plane.kill_proxy();
    plane.acknowledgement(plane.config.version).await;
    let begun = app.begun();
    app.has_begun(begun + 20).await;
    let outcome = load.stop().await;
    assert!(outcome.failed.iter().all(|failure| !failure.starts_with("connect:")), "{:?}", outcome.failed);
    assert!(outcome.failed.len() <= 8, "each of 8 clients had one connection: {:?}", outcome.failed);
    assert!(outcome.answered > 20, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_pod_stays_withdrawn_over_a_killed_proxy() {
    let mut plane = Plane::start().await;
    let (old, _new) = (App::start(plane.pod(2), "app-2"), App::start(plane.pod(3), "app-3"));
    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    plane.kill_proxy();
    plane.acknowledgement(plane.config.version).await;
    plane.drained_to(2, 0, 0).await;
    for _ in 0..20 {
        assert_eq!(get(plane.service(), "/").await.1, "app-3");
    }
    assert_eq!(old.begun(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_keeper_breaks_nothing_and_its_successor_takes_over() {
    let mut plane = Plane::start().await;
    let (_one, _two) = (App::start(plane.pod(2), "app-2"), App::start(plane.pod(3), "app-3"));
    plane.route(&[(2, Ready)]).await;
    let mut client = Client::connect(plane.service()).await.unwrap();
    assert_eq!(client.get("/").await.1, "app-2");

    plane.kill_keeper();
    while plane.link.receive().await.is_ok_and(|report| report.is_some()) {}
    assert_eq!(client.get("/").await.1, "app-2", "the proxy serves without a keeper");
    assert_eq!(plane.connect_again().await, plane.config.version, "the successor knows the last version");
    assert!(plane.route(&[(3, Ready)]).await.is_empty(), "it has the sockets and need not open them");
    assert_eq!(client.get("/").await.1, "app-3", "over the same connection");
    assert_eq!(get(plane.service(), "/").await.1, "app-3");

    let other: SocketAddr = (plane.service_ip(), PORT + 1).into();
    plane.service_mut(0).ports[0].port = PORT + 1;
    assert!(plane.configure().await.is_empty());
    assert_eq!(get(other, "/").await.1, "app-3", "it opens sockets like the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_restarted_goes_on_where_the_last_one_was() {
    let mut plane = Plane::start().await;
    let _app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    plane.route(&[(2, Ready)]).await;
    assert_eq!(plane.connect_again().await, 2);
    plane.route(&[(2, Ready)]).await;
    assert_eq!(get(plane.service(), "/").await.1, "app-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_runs_under_its_own_user_and_hands_over_all_the_same() {
    let user = ProxyUser { uid: 64535, gid: 64535 };
    let mut plane = Plane::start_with_proxy_user(Some(user)).await;
    let _app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", plane.proxy_pid())).unwrap();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((line("Uid:"), line("Gid:")), ("64535\t64535\t64535\t64535".to_owned(), line("Uid:")));
    assert_eq!((line("Groups:"), line("CapEff:")), (String::new(), "0000000000000000".to_owned()));
    plane.kill_keeper();
    while plane.link.receive().await.is_ok_and(|report| report.is_some()) {}
    assert_eq!(plane.connect_again().await, plane.config.version);
    assert_eq!(get(plane.service(), "/").await.1, "app-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_another_configuration_is_refused_and_nothing_comes_of_it() {
    let mut plane = Plane::start().await;
    let _app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    let gone = [("production".to_owned(), "demo-app".to_owned())].into();
    plane.link.change(Change { from: 7, version: 8, gone, ..Change::default() }).await.unwrap();
    plane.greeting(1).await;
    assert_eq!(get(plane.service(), "/").await.1, "app-2");
    plane.route(&[(2, Ready)]).await;
    assert_eq!(get(plane.service(), "/").await.1, "app-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named_and_the_others_work() {
    let mut plane = Plane::start().await;
    let _app = App::start(plane.pod(2), "app-2");
    let taken = std::net::TcpListener::bind((plane.service_ip(), PORT + 1)).unwrap();
    plane.route(&[(2, Ready)]).await;
    let mut second = plane.config.services[0].ports[0].clone();
    second.port = PORT + 1;
    plane.service_mut(0).ports.push(second);
    let refused = plane.configure().await;
    let addresses: Vec<_> = refused.iter().map(|it| (it.listener.transport, it.listener.address)).collect();
    assert_eq!(addresses, [(Transport::Tcp, taken.local_addr().unwrap())]);
    assert_eq!(get(plane.service(), "/").await.1, "app-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_gone_is_not_listened_for() {
    let mut plane = Plane::start().await;
    plane.route(&[]).await;
    plane.config.services.clear();
    plane.configure().await;
    assert!(Client::connect(plane.service()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_lets_the_answers_that_are_on_their_way_out() {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    let mut idle = Client::connect(plane.service()).await.unwrap();
    idle.get("/").await;
    let service = plane.service();
    let last = tokio::spawn(async move { get(service, "/slow?500").await });
    app.has_begun(2).await;
    network::link::shut_down(plane.run_dir()).await.unwrap();
    assert_eq!(last.await.unwrap().1, "app-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_leaves_no_process_and_no_socket() {
    let mut plane = Plane::start().await;
    plane.route(&[]).await;
    let proxy = plane.proxy_pid();
    network::link::shut_down(plane.run_dir()).await.unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{proxy}")).exists());
    assert!(Client::connect(plane.service()).await.is_err());
    let left: Vec<_> = std::fs::read_dir(plane.run_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".sock")), "{left:?}");
    network::link::shut_down(plane.run_dir()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_the_proxy_fails_no_request() {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    let load = Load::start(plane.service());
    for _ in 0..5 {
        let begun = app.begun();
        app.has_begun(begun + 50).await;
        plane.replace_proxy().await;
    }
    let begun = app.begun();
    app.has_begun(begun + 50).await;
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    let proxies = plane.proxy_pids();
    assert!(proxies.len() <= 2, "those that had nothing left to do have ended: {proxies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_proxy_finishes_its_connections_and_is_told_what_goes_on() {
    let mut plane = Plane::start().await;
    let (old, _new) = (App::start(plane.pod(2), "app-2"), App::start(plane.pod(3), "app-3"));
    plane.route(&[(2, Ready)]).await;
    let mut kept = Client::connect(plane.service()).await.unwrap();
    assert_eq!(kept.get("/").await.1, "app-2");
    let service = plane.service();
    let slow = tokio::spawn(async move { get(service, "/slow?1500").await });
    old.has_begun(2).await;
    plane.replace_proxy().await;
    assert_eq!(plane.proxy_pids().len(), 2);

    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    plane.drained_to(2, 1, 0).await;
    assert_eq!(kept.get("/").await.1, "app-3", "what comes over an old connection goes where it should");
    assert_eq!(slow.await.unwrap().1, "app-2");
    plane.drained_to(2, 0, 0).await;
    drop(kept);
    while plane.proxy_pids().len() > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_keeper_goes_on_with_a_proxy_that_leaves() {
    for build in [Build::Same, Build::Another] {
        let mut plane = Plane::start().await;
        let (old, _new) = (App::start(plane.pod(2), "app-2"), App::start(plane.pod(3), "app-3"));
        plane.route(&[(2, Ready)]).await;
        let mut kept = Client::connect(plane.service()).await.unwrap();
        kept.get("/").await;
        let service = plane.service();
        let slow = tokio::spawn(async move { get(service, "/slow?3000").await });
        old.has_begun(2).await;
        plane.replace_proxy().await;
        match build {
            Build::Same => {
                plane.kill_keeper();
                while plane.link.receive().await.is_ok_and(|report| report.is_some()) {}
            }
            Build::Another => {
                let newer = plane.run_dir().join("data_plane");
                std::fs::copy(&plane.command.executable, &newer).unwrap();
                plane.command.executable = newer;
            }
        }
        assert_eq!(plane.connect_again().await, plane.config.version);
        assert!(plane.route(&[(2, Withdrawn), (3, Ready)]).await.is_empty());
        plane.drained_to(2, 1, 0).await;
        assert_eq!(kept.get("/").await.1, "app-3", "the proxy that leaves was told");
        assert_eq!(slow.await.unwrap().1, "app-2");
        plane.drained_to(2, 0, 0).await;
    }
}

#[derive(Clone, Copy)]
enum Build {
    Same,
    Another,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_of_another_build_replaces_keeper_and_proxy() {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    let load = Load::start(plane.service());
    app.has_begun(50).await;
    let before = plane.proxy_pid();
    let newer = plane.run_dir().join("data_plane");
    std::fs::copy(&plane.command.executable, &newer).unwrap();
    plane.command.executable = newer;
    assert_eq!(plane.connect_again().await, plane.config.version);
    plane.route(&[(2, Ready)]).await;
    let begun = app.begun();
    app.has_begun(begun + 50).await;
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    // The old one has nothing left to do, and ends.
    while std::fs::read(format!("/proc/{before}/cmdline")).is_ok_and(|arguments| !arguments.is_empty()) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let executable = std::fs::read_link(format!("/proc/{}/exe", plane.proxy_pids().pop().unwrap())).unwrap();
    assert_eq!(executable, plane.command.executable);
}
