//! A tailnet that a test makes up, with a stand-in for Tailscale's daemon on a machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::paths::built;

/// The tailnet's domain.
pub const DOMAIN: &str = "example.ts.net";
/// The name and address of the machine.
pub const NAME: &str = "box.example.ts.net";
pub const ADDRESS: &str = "100.64.0.1";
/// Another network's addresses lead to the machine.
pub const ADDRESSES: &str = "100.64.0.0/10";

/// Segue looks by itself every 30 seconds.
const LIMIT: Duration = Duration::from_secs(100);
const PAUSE: Duration = Duration::from_millis(20);

/// The daemon of one machine.
pub struct Daemon<'m> {
    machine: &'m Machine,
    tailnet: Value,
    child: Option<Child>,
}

/// An answer of the LocalAPI.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub etag: String,
    pub body: String,
}

impl<'m> Daemon<'m> {
    /// A daemon on a machine that is logged in, without tags.
    #[must_use]
    pub fn start(machine: &'m Machine) -> Self {
        let tailnet = json!({
            "domain": DOMAIN, "has_certificates": true,
            "node": {"name": NAME.split_once('.').expect("a name and a domain").0, "addresses": [ADDRESS], "login": "ann@example.com"},
        });
        Self::start_in(machine, tailnet)
    }

    /// The same for what the coordination server says.
    #[must_use]
    pub fn start_in(machine: &'m Machine, tailnet: Value) -> Self {
        let mut daemon = Self { machine, tailnet, child: None };
        daemon.start_again();
        daemon
    }

    /// Where its LocalAPI is, from everywhere.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.machine.directory().join("tailscaled.sock")
    }

    pub fn start_again(&mut self) {
        let mut command = self.machine.namespace().in_network_unlimited(built("tailscaled"));
        command.arg(self.socket()).arg(self.machine.directory().join("tailscaled.state")).arg(self.tailnet.to_string());
        // It ends with us.
        command.stdin(Stdio::piped());
        self.child = Some(command.spawn().expect("a program that was built"));
        let started = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            assert!(started.elapsed() < LIMIT, "the daemon does not come up");
            thread::park_timeout(PAUSE);
        }
    }

    /// Its serve configuration and preferences stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("it is ours");
        }
    }

    /// Changes what the coordination server says.
    pub fn change(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.tailnet);
        let answer = self.ask("PUT", "/test/tailnet", Some(&self.tailnet), &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// What it was asked so far, but for questions.
    #[must_use]
    pub fn told(&self) -> Vec<Value> {
        let asked = self.ask("GET", "/test/asked", None, &[]).body;
        let asked: Vec<Value> = serde_json::from_str(&asked).expect("the stand-in answers in JSON");
        asked.into_iter().filter(|asked| asked["method"] != "GET").collect()
    }

    #[must_use]
    pub fn serve_config(&self) -> Value {
        serde_json::from_str(&self.local_api("GET", "serve-config", None, &[]).body).expect("JSON")
    }

    /// Changes it as `tailscale serve` would.
    pub fn serve(&self, change: impl FnOnce(&mut Value)) {
        let known = self.local_api("GET", "serve-config", None, &[]);
        let mut config = serde_json::from_str(&known.body).expect("JSON");
        change(&mut config);
        let answer = self.local_api("POST", "serve-config", Some(&config), &[("If-Match", &known.etag)]);
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Waits until the serve configuration is as wanted.
    pub fn wait_for(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let config = self.serve_config();
            if is_so(&config) {
                return config;
            }
            assert!(started.elapsed() < LIMIT, "{what}: {config:#}");
            thread::park_timeout(PAUSE);
        }
    }

    /// The Tailscale Services that it offers.
    #[must_use]
    pub fn advertised(&self) -> Value {
        let prefs = self.local_api("GET", "prefs", None, &[]).body;
        serde_json::from_str::<Value>(&prefs).expect("JSON")["AdvertiseServices"].take()
    }

    #[must_use]
    pub fn local_api(&self, method: &str, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Answer {
        self.ask(method, &format!("/localapi/v0/{path}"), body, headers)
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request += "Host: local-tailscaled.sock\r\n";
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        let mut stream = UnixStream::connect(self.socket()).expect("the daemon runs");
        stream.set_read_timeout(Some(LIMIT)).expect("a socket of ours");
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).expect("the daemon reads");
        let mut reader = BufReader::new(stream);
        let mut answer = Answer { status: 0, etag: String::new(), body: String::new() };
        let mut line = String::new();
        reader.read_line(&mut line).expect("the daemon answers");
        answer.status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        loop {
            line.clear();
            reader.read_line(&mut line).expect("headers");
            match line.trim().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("etag") => value.clone_into(&mut answer.etag),
                Some(_) => {}
                None => break,
            }
        }
        reader.read_to_string(&mut answer.body).expect("a body that has an end");
        answer
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}
