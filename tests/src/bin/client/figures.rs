//! What the benchmark measures over the API.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Outcome, object, say};

/// Objects that are made at once where it is not their making that is measured.
const MADE_AT_ONCE: usize = 16;
/// Reading a switch takes no longer, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_millis(1);

/// Says how many objects a second are read.
pub(crate) async fn gets(clients: usize, seconds: u64) -> Outcome<()> {
    let config_maps: Api<ConfigMap> = Api::namespaced(Client::try_default().await?, "default");
    config_maps.create(&PostParams::default(), &object("read", json!({"number": "1"}))?).await?;
    rate(clients, seconds, async |api: &Api<ConfigMap>, _| api.get("read").await.map(drop)).await
}

/// Says how many writes a second are acknowledged, of clients that each write an object of their own.
pub(crate) async fn writes(clients: usize, seconds: u64) -> Outcome<()> {
    let config_maps: Api<ConfigMap> = Api::namespaced(Client::try_default().await?, "default");
    for client in 0..clients {
        config_maps.create(&PostParams::default(), &object(&format!("written-{client}"), json!({}))?).await?;
    }
    rate(clients, seconds, async |api: &Api<ConfigMap>, (client, number)| {
        let change = Patch::Merge(json!({"data": {"number": number.to_string()}}));
        api.patch(&format!("written-{client}"), &PatchParams::default(), &change).await.map(drop)
    })
    .await
}

/// Each client has a connection of its own, and asks one thing after the other.
async fn rate(
    clients: usize,
    seconds: u64,
    ask: impl AsyncFn(&Api<ConfigMap>, (usize, u64)) -> kube::Result<()>,
) -> Outcome<()> {
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let asking = (0..clients).map(async |client| {
        let api: Api<ConfigMap> = Api::namespaced(Client::try_default().await?, "default");
        let mut count = 0;
        while Instant::now() < end {
            ask(&api, (client, count)).await?;
            count += 1;
        }
        Outcome::Ok(count)
    });
    let counts = try_join_all(asking).await?;
    let per_second = counts.iter().sum::<u64>() as f64 / started.elapsed().as_secs_f64();
    say(&format!("{per_second:.0}"))
}

/// Makes Services, each with an endpoint that was written by hand.
pub(crate) async fn services(count: usize) -> Outcome<()> {
    let client = Client::try_default().await?;
    let (services, slices) = (Api::default_namespaced(client.clone()), Api::default_namespaced(client));
    let make = |number: usize| {
        let (name, services, slices) = (format!("many-{number}"), services.clone(), slices.clone());
        async move {
            services.create(&PostParams::default(), &read::<Service>(service(&name))?).await?;
            slices.create(&PostParams::default(), &slice(&name, "192.0.2.1")?).await?;
            Outcome::Ok(())
        }
    };
    stream::iter((0..count).map(make)).buffer_unordered(MADE_AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// Makes a Service at an address, lets it lead to one and the other of two endpoints in turn, and says of each change
/// how many microseconds it took from the API's answer until a new connection leads to the other.
pub(crate) async fn switches(count: usize, address: &str, endpoints: [&str; 2]) -> Outcome<()> {
    let client = Client::try_default().await?;
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client);
    let mut switched = service("switched");
    switched["spec"]["clusterIP"] = json!(address);
    services.create(&PostParams::default(), &read(switched)?).await?;
    slices.create(&PostParams::default(), &slice("switched", endpoints[0])?).await?;
    let mut last = answer_other_than(address, "").await?;
    for number in 1..=count {
        let change = json!({"endpoints": slice_endpoints(endpoints[number % 2])});
        slices.patch("switched", &PatchParams::default(), &Patch::Merge(change)).await?;
        let started = Instant::now();
        last = answer_other_than(address, &last).await?;
        say(&started.elapsed().as_micros().to_string())?;
    }
    Ok(())
}

/// Asks over new connections until the answer is another: every millisecond, so that asking takes no core from who is asked.
async fn answer_other_than(address: &str, known: &str) -> Outcome<String> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        match ask(address).await {
            Ok(answer) if answer != known => return Ok(answer),
            Ok(_) | Err(_) => tokio::time::sleep(ASK_EVERY).await,
        }
    }
    Err(format!("{address} never answers anything but {known:?}").into())
}

async fn ask(address: &str) -> Outcome<String> {
    let mut connection = TcpStream::connect((address, 80)).await?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: switched\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if head.starts_with("HTTP/1.1 200") { Ok(body.to_owned()) } else { Err(head.to_owned().into()) }
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

fn slice(service: &str, endpoint: &str) -> Outcome<EndpointSlice> {
    read(json!({
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": slice_endpoints(endpoint),
    }))
}

fn slice_endpoints(endpoint: &str) -> Value {
    json!([{"addresses": [endpoint], "conditions": {"ready": true}}])
}

fn read<K: DeserializeOwned>(value: Value) -> Outcome<K> {
    Ok(serde_json::from_value(value)?)
}
