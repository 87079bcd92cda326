//! One line of JSON for each request, where that is wanted. Requests never wait for the log: lines that can't be
//! written in time are left out and counted.

use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use http::{HeaderMap, Method, Uri, header};
use jiff::Timestamp;
use serde::Serialize;

/// Lines that wait to be written.
const MOST_WAITING: usize = 8192;
/// Of what a client says of itself.
const LONGEST_TEXT: usize = 1024;

/// What is known of a request when it comes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    time: Timestamp,
    client: IpAddr,
    /// Who it is on the tailnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    service: String,
    port: u16,
    protocol: &'static str,
    method: String,
    host: String,
    path: String,
    user_agent: String,
}

/// How it ended.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct End<'a> {
    #[serde(flatten)]
    pub(crate) entry: &'a Entry,
    /// None where no answer was sent.
    pub(crate) status: Option<u16>,
    pub(crate) outcome: &'static str,
    pub(crate) pod: &'a str,
    pub(crate) version: &'a str,
    pub(crate) bytes_to_client: u64,
    pub(crate) milliseconds: f64,
}

/// The log, on or off.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    is_on: AtomicBool,
    lines: OnceLock<SyncSender<Vec<u8>>>,
    left_out: AtomicU64,
}

impl AccessLog {
    pub(crate) fn switch(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// What will be written about a request, if anything is.
    pub(crate) fn entry(&self, make: impl FnOnce() -> Entry) -> Option<Box<Entry>> {
        self.is_on.load(Ordering::Relaxed).then(|| Box::new(make()))
    }

    pub(crate) fn write(&self, end: &End<'_>) {
        let Ok(mut line) = serde_json::to_vec(end) else { return };
        line.push(b'\n');
        if self.lines.get_or_init(start_writing).try_send(line).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were left out, since requests don't wait for them.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

impl Entry {
    pub(crate) fn new(
        (client, user): (IpAddr, Option<&str>),
        (service, port): (&str, u16),
        protocol: &'static str,
        (method, uri, headers): (&Method, &Uri, &HeaderMap),
    ) -> Self {
        let text = |name| headers.get(name).map(|value| cut(&String::from_utf8_lossy(value.as_bytes())));
        Self {
            time: Timestamp::now(),
            client: client.to_canonical(),
            user: user.map(cut),
            service: service.to_owned(),
            port,
            protocol,
            method: method.to_string(),
            host: uri.host().map(cut).or_else(|| text(header::HOST)).unwrap_or_default(),
            path: cut(uri.path_and_query().map_or("", |path| path.as_str())),
            user_agent: text(header::USER_AGENT).unwrap_or_default(),
        }
    }
}

fn cut(text: &str) -> String {
    let end = (0..=LONGEST_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

fn start_writing() -> SyncSender<Vec<u8>> {
    let (sender, lines) = sync_channel(MOST_WAITING);
    let started = thread::Builder::new().name("access-log".to_owned()).spawn(move || write_all(&lines));
    if let Err(error) = started {
        tracing::warn!("no access log: {error}");
    }
    sender
}

/// Writes to standard output, which whoever started the proxy has directed to the log.
fn write_all(lines: &Receiver<Vec<u8>>) {
    let mut out = BufWriter::new(io::stdout());
    loop {
        let line = match lines.try_recv() {
            Ok(line) => Some(line),
            Err(TryRecvError::Empty) => out.flush().ok().and_then(|()| lines.recv().ok()),
            Err(TryRecvError::Disconnected) => None,
        };
        let Some(line) = line else { break };
        if let Err(error) = out.write_all(&line) {
            tracing::warn!("the access log can't be written: {error}");
            break;
        }
    }
    let _ = out.flush();
}

/// Milliseconds with three digits after the point.
pub(crate) fn milliseconds(length: Duration) -> f64 {
    length.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_say_is_cut() {
        assert_eq!(cut(&"ä".repeat(LONGEST_TEXT)).chars().count(), LONGEST_TEXT / 2);
        assert_eq!(cut("short"), "short");
    }

    #[test]
    fn nothing_is_made_while_the_log_is_off() {
        let log = AccessLog::default();
        assert!(log.entry(|| unreachable!("nobody wants it")).is_none());
    }
}
