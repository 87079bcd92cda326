//! Who asked the API for what, and what came of it: a file of `audit.k8s.io/v1` Events, one JSON object a line, at the
//! level Metadata. An answer is sent only once its line is written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use http::{Method, Request, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::apiserver::{self, Caller};

/// A file that is this long is set aside …
const MAX_FILE_BYTES: u64 = 100 << 20;
/// … and so many are kept.
const FILES_KEPT: u32 = 5;

/// Which requests are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those that change something, and those that reach into pods.
    Changes,
    Everything,
}

/// The file.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    scope: Scope,
    file: Mutex<(File, u64)>,
}

/// A request that will be written down once it is answered.
pub(crate) struct Noted {
    event: Value,
}

impl AuditLog {
    /// Goes on with the file at `path`, readable by its owner only.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(path: &Path, scope: Scope) -> io::Result<Self> {
        let file = append_to(path)?;
        Ok(Self { path: path.to_owned(), scope, file: Mutex::new(file) })
    }

    /// None for one that isn't written down.
    pub(crate) fn note<B>(&self, request: &Request<B>, caller: &Caller, client: SocketAddr) -> Option<Noted> {
        let about = apiserver::describe(request.method(), request.uri());
        let opens_streams = matches!(about["subresource"].as_str(), Some("exec" | "portforward"));
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) && !opens_streams;
        if reads && self.scope == Scope::Changes {
            return None;
        }
        let text = |name: http::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": Uuid::new_v4().to_string(),
            "stage": "ResponseComplete", "requestURI": request.uri().to_string(), "verb": about["verb"],
            "user": {"username": caller.user(), "groups": caller.groups()}, "sourceIPs": [client.ip().to_string()],
            "userAgent": text(http::header::USER_AGENT), "requestReceivedTimestamp": now(),
        });
        if let Some(user) = text(http::HeaderName::from_static("impersonate-user")) {
            let groups = request.headers().get_all("impersonate-group").iter().filter_map(|group| group.to_str().ok());
            event["impersonatedUser"] = json!({"username": user, "groups": groups.collect::<Vec<_>>()});
        }
        let mut object = about;
        object.as_object_mut().and_then(|fields| fields.remove("verb"));
        if object["resource"].is_string() {
            event["objectRef"] = object;
        }
        Some(Noted { event })
    }

    /// Writes the request down with its answer.
    pub(crate) fn write(&self, noted: Noted, status: StatusCode) {
        let mut event = noted.event;
        event["responseStatus"] = json!({"metadata": {}, "code": status.as_u16()});
        event["stageTimestamp"] = now();
        let mut line = event.to_string();
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.make_room(&mut file, line.len()).and_then(|()| file.0.write_all(line.as_bytes()));
        match written {
            Ok(()) => file.1 += line.len() as u64,
            Err(error) => tracing::error!(%error, "a line of the audit log is lost: {}", line.trim_end()),
        }
    }

    fn make_room(&self, file: &mut (File, u64), bytes: usize) -> io::Result<()> {
        if file.1 == 0 || file.1 + bytes as u64 <= MAX_FILE_BYTES {
            return Ok(());
        }
        let aside = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..FILES_KEPT - 1).rev().filter(|number| aside(*number).exists()) {
            fs::rename(aside(number), aside(number + 1))?;
        }
        fs::rename(&self.path, aside(1))?;
        *file = append_to(&self.path)?;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options().append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn now() -> Value {
    json!(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(scope: Scope, method: Method, uri: &str) -> Option<Value> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let log = AuditLog::open(&path, scope).unwrap();
        let request = Request::builder().method(method).uri(uri).header("user-agent", "kubectl").body(()).unwrap();
        let caller = Caller::Known { user: "ann".to_owned(), groups: vec!["team".to_owned()] };
        let noted = log.note(&request, &caller, "127.0.0.1:40000".parse().unwrap())?;
        log.write(noted, StatusCode::CREATED);
        Some(serde_json::from_slice(&fs::read(&path).unwrap()).unwrap())
    }

    #[test]
    fn a_line_says_who_did_what_to_what() {
        let line = line(Scope::Changes, Method::POST, "/api/v1/namespaces/shop/pods/web/eviction?dryRun=All").unwrap();
        let expected = json!({"resource": "pods", "namespace": "shop", "name": "web", "apiVersion": "v1", "subresource": "eviction"});
        assert_eq!(line["objectRef"], expected);
        assert_eq!((&line["verb"], &line["responseStatus"]["code"]), (&json!("create"), &json!(201)));
        assert_eq!(line["user"], json!({"username": "ann", "groups": ["team"]}));
        assert_eq!(line["userAgent"], "kubectl");
    }

    #[test]
    fn reads_are_written_only_when_everything_is() {
        let pods = "/apis/apps/v1/namespaces/shop/deployments?watch=true";
        assert!(line(Scope::Changes, Method::GET, pods).is_none());
        let watched = line(Scope::Everything, Method::GET, pods).unwrap();
        assert_eq!((&watched["verb"], &watched["objectRef"]["apiGroup"]), (&json!("watch"), &json!("apps")));
        assert!(line(Scope::Changes, Method::GET, "/api/v1/namespaces/shop/pods/web/exec?command=sh").is_some());
        assert_eq!(line(Scope::Everything, Method::GET, "/version").unwrap()["verb"], "get");
    }

    #[test]
    fn a_long_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let log = AuditLog::open(&path, Scope::Changes).unwrap();
        log.file.lock().unwrap().1 = MAX_FILE_BYTES;
        let request = Request::builder().method(Method::DELETE).uri("/api/v1/namespaces/shop").body(()).unwrap();
        for _ in 0..2 {
            let noted = log.note(&request, &Caller::Anonymous, "127.0.0.1:1".parse().unwrap()).unwrap();
            log.write(noted, StatusCode::FORBIDDEN);
        }
        assert!(directory.path().join("audit.log.1").exists());
        assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 2);
    }
}
