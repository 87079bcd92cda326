//! A pod's `exec` subresource: the standard streams of a process as channels of a WebSocket. The first byte of a
//! message names its channel (`v4.channel.k8s.io`); a client may close one (`v5.channel.k8s.io`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use objects::status::Failure;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;

use super::logs::chosen_container;
use super::pod_access::{ExecRequest, ExecSession, PodAccess};
use super::websocket::{self, Client, Handshake};
use super::{Answer, ApiServer, Asked, Place};

const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Messages that wait for a slow client.
const MESSAGES_AHEAD: usize = 8;
const CHUNK_BYTES: usize = 32 * 1024;
/// Once the process has ended, others may hold its output open without writing to it.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

impl ApiServer {
    pub(super) fn exec(&self, place: &Place, asked: &Asked) -> Answer {
        let pod = self.find(place)?.value.clone();
        let container = chosen_container(place, &pod, asked)?;
        let terminal = asked.query.is_true("tty");
        let request = ExecRequest {
            command: asked.query.all("command").map(str::to_owned).collect(),
            stdin: asked.query.is_true("stdin"),
            stdout: asked.query.is_true("stdout"),
            stderr: asked.query.is_true("stderr") && !terminal,
            terminal,
        };
        check(&request, &pod, &container)?;
        let handshake = Handshake::read(asked, &PROTOCOLS)?;
        let answer = handshake.answer();
        tokio::spawn(serve(Arc::clone(&self.pods), handshake, pod, container, request));
        Ok(answer)
    }
}

fn check(request: &ExecRequest, pod: &Value, container: &str) -> Result<(), Failure> {
    if request.command.is_empty() {
        return Err(Failure::bad_request("you must specify at least one `command`, the program to run"));
    }
    if !(request.stdin || request.stdout || request.stderr) {
        return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut statuses = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    if !statuses.any(|status| status["name"] == container && status["state"]["running"].is_object()) {
        return Err(Failure::internal(format!(
            "unable to upgrade connection: container not found ({container:?}): it does not run"
        )));
    }
    Ok(())
}

async fn serve(node: Arc<dyn PodAccess>, handshake: Handshake, pod: Value, container: String, request: ExecRequest) {
    let socket = match handshake.open().await {
        Ok(socket) => socket,
        Err(error) => return tracing::trace!(%error, "a client that asked to run a process has gone"),
    };
    let (sink, mut client) = socket.split();
    let (say, said) = mpsc::channel(MESSAGES_AHEAD);
    let runs = async {
        let result = match node.exec(&pod, &container, &request).await {
            Ok(session) => carry(session, &mut client, &say).await,
            Err(sentence) => Some(Err(sentence)),
        };
        if let Some(result) = result {
            // A client that has gone needs no status.
            let _ = say.send(message(STATUS, status(&result).to_string().as_bytes())).await;
        }
        drop(say);
    };
    tokio::join!(websocket::tell(sink, said), runs);
    websocket::until_closed(&mut client).await;
}

/// Carries bytes until the process has ended. None when the client has gone first.
async fn carry(session: ExecSession, client: &mut Client, say: &mpsc::Sender<Message>) -> Option<Result<i32, String>> {
    let ExecSession { stdin, stdout, stderr, resize, mut ended } = session;
    let (has_ended, hear_end) = watch::channel(false);
    let outputs = async {
        tokio::join!(pump(stdout, STDOUT, say, hear_end.clone()), pump(stderr, STDERR, say, hear_end.clone()));
    };
    let hears = hear(client, stdin, resize);
    tokio::pin!(outputs, hears);
    let mut outputs_are_open = true;
    loop {
        tokio::select! {
            result = &mut ended => {
                has_ended.send_replace(true);
                if outputs_are_open {
                    outputs.await;
                }
                return Some(result);
            }
            () = &mut outputs, if outputs_are_open => outputs_are_open = false,
            () = &mut hears => return None,
        }
    }
}

/// Sends what the process writes until it closes the stream, or has ended and nothing more comes.
async fn pump(output: Option<Reader>, channel: u8, say: &mpsc::Sender<Message>, mut has_ended: watch::Receiver<bool>) {
    let Some(mut output) = output else { return };
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let silent_after_the_end = async {
            // The sender lives as long as this is asked.
            let _ = has_ended.wait_for(|ended| *ended).await;
            tokio::time::sleep(LAST_OUTPUT).await;
        };
        let read = tokio::select! {
            read = output.read(&mut chunk) => read,
            () = silent_after_the_end => return,
        };
        // A terminal that nobody holds any more answers with an error.
        let Ok(length @ 1..) = read else { return };
        if say.send(message(channel, &chunk[..length])).await.is_err() {
            return;
        }
    }
}

/// Passes on what the client sends until it has gone.
async fn hear(client: &mut Client, mut stdin: Option<Writer>, resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>) {
    while let Some(Ok(heard)) = client.next().await {
        let Message::Binary(bytes) = heard else { continue };
        match bytes.split_first() {
            Some((&STDIN, input)) => stdin = write(stdin, input).await,
            Some((&CLOSE, [STDIN])) => stdin = None,
            Some((&RESIZE, size)) => {
                let size = serde_json::from_slice(size).ok();
                resize.iter().zip(size).for_each(|(resize, Size { width, height })| resize(width, height));
            }
            _ => {}
        }
    }
}

/// None once the process reads no more: its end is what counts.
async fn write(stdin: Option<Writer>, input: &[u8]) -> Option<Writer> {
    let mut stdin = stdin?;
    stdin.write_all(input).await.ok().map(|()| stdin)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut framed = Vec::with_capacity(bytes.len() + 1);
    framed.push(channel);
    framed.extend_from_slice(bytes);
    Message::Binary(Bytes::from(framed))
}

/// How the process ended, as a `Status`.
fn status(ended: &Result<i32, String>) -> Value {
    match ended {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(sentence) => Failure::internal(format!("error executing command in container: {sentence}")).to_value(),
    }
}
