//! The clients of the end-to-end tests, each a process of its own so that it can be in another network:
//! `client load PLAN`, `client streams PLAN`, `client datagrams PLAN`, `client write`; a plan is JSON, and all of these end
//! with their standard input. Those for figures end by themselves: `client pods COUNT IMAGE`, `client gets CLIENTS SECONDS`,
//! `client writes CLIENTS SECONDS`, `client services COUNT`, `client switches COUNT ADDRESS ENDPOINT ENDPOINT`.

mod figures;

use std::error::Error;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tools::{datagrams, load, streams};

/// A line is said after so many answers, a quarter of a second's.
const STEP: u64 = 60;
/// How often it is said how much was asked.
const SAYING: Duration = Duration::from_millis(100);
/// How long a writer that was refused waits: the engine starts again meanwhile.
const RETRY: Duration = Duration::from_millis(50);

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        ["load", plan] => load(serde_json::from_str(plan)?).await,
        ["streams", plan] => streams(&serde_json::from_str(plan)?).await,
        ["datagrams", plan] => datagrams(&serde_json::from_str(plan)?).await,
        ["write"] => write(Client::try_default().await?).await,
        ["pods", count, image] => pods(Client::try_default().await?, count.parse()?, image).await,
        ["gets", clients, seconds] => figures::gets(clients.parse()?, seconds.parse()?).await,
        ["writes", clients, seconds] => figures::writes(clients.parse()?, seconds.parse()?).await,
        ["services", count] => figures::services(count.parse()?).await,
        ["switches", count, address, one, other] => figures::switches(count.parse()?, address, [one, other]).await,
        other => Err(format!("{other:?} is none of what this can do").into()),
    }
}

/// Says how many requests were answered from time to time, and at the end the report as JSON.
async fn load(plan: load::Plan) -> Outcome<()> {
    let running = load::start(plan);
    let mut stopped = end_of_input();
    let mut answered = 0;
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            () = running.answered(answered + STEP) => {}
        }
        answered = running.so_far().sent;
        say(&answered.to_string())?;
    }
    let report = running.stop().await;
    say(&serde_json::to_string(&report)?)
}

/// Says how many connections were opened each time that there is another, and at the end the report as JSON.
async fn streams(plan: &streams::Plan) -> Outcome<()> {
    let running = streams::start(plan);
    let mut stopped = end_of_input();
    for count in 1.. {
        tokio::select! {
            _ = &mut stopped => break,
            () = running.opened(count) => say(&count.to_string())?,
        }
    }
    let report = running.stop().await;
    say(&serde_json::to_string(&report)?)
}

/// Says from time to time how many questions were asked, and at the end the report as JSON.
async fn datagrams(plan: &datagrams::Plan) -> Outcome<()> {
    let running = datagrams::start(plan);
    let mut stopped = end_of_input();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            () = sleep(SAYING) => say(&running.so_far().sent.to_string())?,
        }
    }
    say(&serde_json::to_string(&running.stop())?)
}

/// Writes ConfigMaps one after the other; says the number of each write that was acknowledged, and of no other.
/// Each creates one object and writes the same number into the object `last`.
async fn write(client: Client) -> Outcome<()> {
    let config_maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let last = object("last", json!({"number": "0"}))?;
    config_maps.create(&PostParams::default(), &last).await?;
    let mut stopped = end_of_input();
    for number in 1.. {
        let written = write_one(&config_maps, number).await;
        match written {
            Ok(()) => say(&number.to_string())?,
            Err(_) => sleep(RETRY).await,
        }
        if stopped.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
            return Ok(());
        }
    }
    Ok(())
}

async fn write_one(config_maps: &Api<ConfigMap>, number: u64) -> Outcome<()> {
    let data = json!({"number": number.to_string()});
    config_maps.create(&PostParams::default(), &object(&format!("write-{number}"), data.clone())?).await?;
    config_maps.patch("last", &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await?;
    Ok(())
}

/// Creates pods one after the other and says of each how many microseconds it took from the request to Running.
async fn pods(client: Client, count: usize, image: &str) -> Outcome<()> {
    let pods: Api<Pod> = Api::namespaced(client, "default");
    for number in 0..count {
        let name = format!("started-{number}");
        let container = json!({"name": "app", "image": image});
        let pod = serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}))?;
        let started = Instant::now();
        let created = pods.create(&PostParams::default(), &pod).await?;
        let version = created.resource_version().unwrap_or_default();
        let this_one = WatchParams::default().fields(&format!("metadata.name={name}"));
        let running = pods.watch(&this_one, &version).await?.try_filter(|event| {
            let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
            let running = matches!(event, WatchEvent::Modified(pod) if phase(pod).as_deref() == Some("Running"));
            std::future::ready(running)
        });
        let mut running = Box::pin(running);
        running.next().await.ok_or("the watch ended before the pod ran")??;
        say(&started.elapsed().as_micros().to_string())?;
        pods.delete(&name, &DeleteParams::default()).await?;
    }
    Ok(())
}

fn object(name: &str, data: Value) -> Outcome<ConfigMap> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name}, "data": data}))?)
}

fn end_of_input() -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || {
        // An input that cannot be read has ended too.
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = end.send(());
    });
    ended
}

fn say(line: &str) -> Outcome<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}
