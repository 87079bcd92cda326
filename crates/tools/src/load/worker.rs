//! One client of the load: one request at a time, all of them in one way.
//! A connection that was closed while nothing was asked is opened again, or that says it left a request alone; anything
//! else is a failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::connections::{Age, Broken, Connections, Shared, broken, chain, is_unprocessed};
use super::exchange::{Answer, Question, Served};
use super::{Failure, Methods, Plan, Sample, Stop, Tally, Way};

pub(super) struct Worker {
    number: u16,
    way: Way,
    methods: Methods,
    connections: Connections,
    target: SocketAddr,
    host: HeaderValue,
    delay: Duration,
    patience: Duration,
    started: Instant,
    first: Instant,
    end: Instant,
    interval: Duration,
}

impl Worker {
    pub(super) fn new(number: u16, way: Way, plan: &Plan, shared: &Shared, started: Instant) -> Worker {
        let between_all = Duration::from_secs(1) / plan.requests_per_second.get();
        let invalid_host = HeaderValue::from_static("invalid");
        Worker {
            number,
            way,
            methods: plan.methods,
            connections: Connections::of(way, shared),
            target: plan.target,
            host: HeaderValue::from_str(&plan.host).unwrap_or(invalid_host),
            delay: plan.delay,
            patience: plan.patience,
            started,
            first: started + between_all * u32::from(number),
            end: started + plan.longest,
            interval: between_all * u32::from(plan.workers.get()),
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
            self.ask(&Question::numbered(self.number, number, self.way, self.methods), due, &tally).await;
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
                tally.record(|report| report.count_answer(self.way, &version, &pod, latency));
            }
            Err((failure, detail)) => {
                let detail = format!("{} over {}: {detail}", question.name(), self.way);
                let after = self.started.elapsed();
                tally.record(|report| report.count_failure(Sample { after, failure, detail }));
            }
        }
    }

    async fn exchange(&mut self, question: &Question, tally: &Tally) -> Result<Served, Broken> {
        let new_request = || question.request(self.way, &self.host, self.delay);
        let mut request = new_request();
        loop {
            let (mut connection, age) = self.connections.next(self.target).await?;
            if age == Age::New {
                tally.record(|report| report.connections += 1);
            }
            let mut error = match connection.send(request).await {
                Ok(response) => {
                    let answer = read(response).await?;
                    self.connections.keep(connection);
                    return question.check(&answer);
                }
                Err(error) => error,
            };
            request = match error.take_message() {
                // Closed before anything was written: what any client does is to open another.
                Some(unsent) if age == Age::Used => unsent,
                None if is_unprocessed(error.error()) => {
                    tally.record(|report| report.unprocessed += 1);
                    new_request()
                }
                Some(_) | None => return Err(broken(error.error())),
            };
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, Broken> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| (Failure::Short, chain(&error)))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
}
