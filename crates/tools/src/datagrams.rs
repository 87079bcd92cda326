//! What clients that ask over UDP see while something is deployed. A question whose answer doesn't come counts as lost;
//! nothing is asked twice.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// An answer that takes longer is lost; on one machine it takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_ANSWER: usize = 1500;

/// Whom to ask, and how often.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub target: SocketAddr,
    /// Each asks one thing at a time. The even ones ask from the same port always, the others from a new one each time.
    pub clients: u16,
    /// Between two questions of a client.
    pub pause: Duration,
}

/// Questions asked and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub sent: u64,
    pub lost: u64,
    /// Right answers by the version that gave them.
    pub by_version: BTreeMap<String, u64>,
    /// Why the first was lost.
    pub first_loss: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sent, lost, by_version, first_loss } = self;
        write!(out, "{sent} questions over UDP, {lost} lost; answered by {by_version:?}")?;
        first_loss.as_ref().map_or(Ok(()), |loss| write!(out, "; the first loss: {loss}"))
    }
}

/// Clients under way. Dropping them ends them at once.
#[derive(Debug)]
pub struct Running {
    report: Arc<Mutex<Report>>,
    clients: JoinSet<()>,
}

/// Starts asking. Must be called in a tokio runtime.
#[must_use]
pub fn start(plan: &Plan) -> Running {
    let report = Arc::new(Mutex::new(Report::default()));
    let mut clients = JoinSet::new();
    for number in 0..plan.clients {
        clients.spawn(ask_always(plan.clone(), number, Arc::clone(&report)));
    }
    Running { report, clients }
}

impl Running {
    #[must_use]
    pub fn so_far(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the clients. A question that waits for its answer is not counted.
    #[must_use]
    pub fn stop(mut self) -> Report {
        self.clients.abort_all();
        self.so_far()
    }
}

async fn ask_always(plan: Plan, number: u16, report: Arc<Mutex<Report>>) {
    let mut ticks = interval(plan.pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept = None;
    for count in 0_u64.. {
        ticks.tick().await;
        let question = format!("question {number} {count}");
        let answer = ask(&mut kept, plan.target, &question).await;
        let port = kept.as_ref().and_then(|socket| socket.local_addr().ok()).map_or(0, |address| address.port());
        if number % 2 == 1 {
            kept = None;
        }
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.sent += 1;
        match answer {
            Ok(version) => *report.by_version.entry(version).or_default() += 1,
            Err(error) => {
                report.lost += 1;
                report.first_loss.get_or_insert_with(|| format!("{question}, from port {port}: {error}"));
            }
        }
    }
}

/// The version that answered.
async fn ask(kept: &mut Option<UdpSocket>, target: SocketAddr, question: &str) -> io::Result<String> {
    let socket = match kept {
        Some(socket) => socket,
        None => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
            // Answers of others, and from elsewhere, are none.
            socket.connect(target).await?;
            kept.insert(socket)
        }
    };
    socket.send(question.as_bytes()).await?;
    let mut buffer = [0; LONGEST_ANSWER];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await??;
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    match answer.split_once('\n') {
        Some((version, asked)) if asked == question => Ok(version.to_owned()),
        _ => Err(io::Error::other(format!("the answer is to something else: {answer}"))),
    }
}
