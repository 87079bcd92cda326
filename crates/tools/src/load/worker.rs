//! One client of the load: one request at a time, over a connection it keeps or over a new one for each.
//! A kept connection that was closed while nothing was asked is opened again; anything later is a failure.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::exchange::{Question, Served};
use super::{Failure, Plan, Sample, Stop, Tally};

pub(super) struct Worker {
    number: u16,
    habit: Habit,
    target: SocketAddr,
    host: HeaderValue,
    patience: Duration,
    started: Instant,
    first: Instant,
    end: Instant,
    interval: Duration,
    kept: Option<SendRequest<Full<Bytes>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    KeepAlive,
    NewConnection,
}

type Broken = (Failure, String);

impl Worker {
    pub(super) fn new(number: u16, plan: &Plan, started: Instant) -> Worker {
        let between_all = Duration::from_secs(1) / plan.requests_per_second.get();
        let invalid_host = HeaderValue::from_static("invalid");
        Worker {
            number,
            habit: if number.is_multiple_of(2) { Habit::KeepAlive } else { Habit::NewConnection },
            target: plan.target,
            host: HeaderValue::from_str(&plan.host).unwrap_or(invalid_host),
            patience: plan.patience,
            started,
            first: started + between_all * u32::from(number),
            end: started + plan.longest,
            interval: between_all * u32::from(plan.workers.get()),
            kept: None,
        }
    }

    pub(super) async fn work(mut self, tally: Arc<Tally>, mut stopped: watch::Receiver<Stop>) {
        let mut due = self.first;
        for number in 0.. {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop == Stop::Now) => return,
                () = sleep_until(due.min(self.end)) => {}
            }
            if due >= self.end {
                return;
            }
            self.ask(&Question::numbered(self.number, number), due, &tally).await;
            due += self.interval;
        }
    }

    async fn ask(&mut self, question: &Question, due: Instant, tally: &Tally) {
        let outcome = match timeout(self.patience, self.exchange(question, tally)).await {
            Ok(outcome) => outcome,
            Err(_) => Err((Failure::Timeout, format!("waited {:?}", self.patience))),
        };
        match outcome {
            Ok(Served { version, pod }) => {
                let latency = due.elapsed();
                tally.record(|report| report.count_answer(&version, &pod, latency));
            }
            Err((failure, detail)) => {
                self.kept = None;
                let detail = format!("{question:.60?} over {:?}: {detail}", self.habit);
                let after = self.started.elapsed();
                tally.record(|report| report.count_failure(Sample { after, failure, detail }));
            }
        }
    }

    async fn exchange(&mut self, question: &Question, tally: &Tally) -> Result<Served, Broken> {
        let mut request = question.request(&self.host, self.habit.header());
        if let Some(mut kept) = self.kept.take()
            && kept.ready().await.is_ok()
        {
            match kept.try_send_request(request).await {
                Ok(response) => return self.answered(question, kept, response).await,
                Err(mut error) => match error.take_message() {
                    // Closed before anything was written: what any client does is to open another.
                    Some(unsent) => request = unsent,
                    None => return Err(broken(&error.into_error())),
                },
            }
        }
        tally.record(|report| report.connections += 1);
        let mut fresh = connect(self.target).await?;
        let response = fresh.try_send_request(request).await.map_err(|error| broken(error.error()))?;
        self.answered(question, fresh, response).await
    }

    async fn answered(
        &mut self,
        question: &Question,
        connection: SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
    ) -> Result<Served, Broken> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
        self.keep(connection);
        question.check(head.status, &head.headers, &body)
    }

    fn keep(&mut self, connection: SendRequest<Full<Bytes>>) {
        self.kept = match self.habit {
            Habit::KeepAlive => Some(connection),
            Habit::NewConnection => None,
        };
    }
}

impl Habit {
    fn header(self) -> &'static str {
        match self {
            Habit::KeepAlive => "keep-alive",
            Habit::NewConnection => "close",
        }
    }
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Broken> {
    let stream = TcpStream::connect(target).await.map_err(|error| {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        let failure = if refused { Failure::Refused } else { Failure::Unreachable };
        (failure, error.to_string())
    })?;
    let nodelay = stream.set_nodelay(true);
    nodelay.map_err(|error| (Failure::Reset, error.to_string()))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // Its error is the request's error too, and is reported there.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn broken(error: &hyper::Error) -> Broken {
    let mut chain = error.to_string();
    let mut failure = if error.is_parse() { Failure::Malformed } else { Failure::Short };
    let mut cause = error.source();
    while let Some(source) = cause {
        chain = format!("{chain}: {source}");
        if source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() != io::ErrorKind::UnexpectedEof) {
            failure = Failure::Reset;
        }
        cause = source.source();
    }
    (failure, chain)
}
