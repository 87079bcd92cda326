//! The small application that Segue shows itself with: it answers over HTTP/1.1, HTTP/2, gRPC and, at the same port,
//! UDP, sends messages over WebSockets and as server-sent events, always says which version it is, and fails in every
//! way that a real one does when its settings ask for it.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

pub use settings::{OnSigterm, Readiness, Settings, SettingsError};

use answers::State;

mod answers;
pub(crate) mod messages;
mod settings;

/// What a shell reports for a process that SIGTERM ended.
const ENDED_BY_SIGTERM: u8 = 128 + 15;

/// What is longer is cut.
const LONGEST_DATAGRAM: usize = 1024;

/// Why the application could not serve.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("could not start the runtime")]
    Runtime(#[source] io::Error),
    #[error("could not listen on port {port}")]
    Listen {
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("could not watch for SIGTERM")]
    Sigterm(#[source] io::Error),
}

/// Serves until SIGTERM, or until its settings make it crash; the result is its exit code.
/// The settings are the process's environment and `arguments`, see [`Settings::parse`].
///
/// # Errors
/// Says which setting means nothing, which port could not be listened on, or what the kernel refused.
pub fn run(arguments: impl IntoIterator<Item = String>) -> Result<ExitCode, AppError> {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let environment = [("HOSTNAME".to_owned(), hostname.trim().to_owned())].into_iter().chain(std::env::vars());
    let settings = Settings::parse(environment, arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::Runtime)?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<ExitCode, AppError> {
    let app = listen(settings.http_port).await?;
    let datagrams = listen_for_datagrams(settings.http_port).await?;
    let metrics = listen(settings.metrics_port).await?;
    let sigterm = signal(SignalKind::terminate()).map_err(AppError::Sigterm)?;
    if let Some(mebibytes) = settings.memory_hog_mebibytes {
        std::thread::spawn(move || hog(mebibytes));
    }
    let state = Arc::new(State::new(settings, Instant::now()));
    log(&format!(
        "{} of version {} listens on port {}",
        state.settings.pod, state.settings.version, state.settings.http_port
    ));
    tokio::spawn(serve_metrics(metrics, Arc::clone(&state)));
    tokio::spawn(echo_datagrams(datagrams, Arc::clone(&state)));
    let mut connections = GracefulShutdown::new();
    let code = serve_until_over(&app, &state, &mut connections, sigterm).await;
    drop(app);
    if code == ExitCode::SUCCESS {
        state.drain(connections).await;
        log("drained");
    }
    Ok(code)
}

async fn listen(port: u16) -> Result<TcpListener, AppError> {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listening = match TcpListener::bind(address).await {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => TcpListener::bind(("0.0.0.0", port)).await,
        bound => bound,
    };
    listening.map_err(|source| AppError::Listen { port, source })
}

async fn listen_for_datagrams(port: u16) -> Result<UdpSocket, AppError> {
    let listening = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await;
    listening.map_err(|source| AppError::Listen { port, source })
}

/// Answers each datagram with a line that names the version, and the datagram.
async fn echo_datagrams(socket: UdpSocket, state: Arc<State>) {
    let mut buffer = [0; LONGEST_DATAGRAM];
    loop {
        // What a client that is gone left behind fails the next receive; it concerns nobody.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let mut answer = format!("{}\n", state.settings.version).into_bytes();
        answer.extend(&buffer[..length]);
        let _ = socket.send_to(&answer, client).await;
    }
}

async fn serve_until_over(
    listener: &TcpListener,
    state: &Arc<State>,
    connections: &mut GracefulShutdown,
    mut sigterm: Signal,
) -> ExitCode {
    let mut crash = pin!(crash(state.settings.crash_after));
    // HTTP/1.1 or, to who begins with its preface, HTTP/2.
    let builder = auto::Builder::new(TokioExecutor::new());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that was gone before it was accepted concerns nobody.
                let Ok((stream, _)) = accepted else { continue };
                let state = Arc::clone(state);
                let service = service_fn(move |request| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(answers::answer(&state, request).await) }
                });
                let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                tokio::spawn(connections.watch(connection.into_owned()));
            }
            _ = sigterm.recv() => match state.settings.on_sigterm {
                OnSigterm::Drain => { log("SIGTERM: draining"); return ExitCode::SUCCESS }
                OnSigterm::Exit => { log("SIGTERM: exiting at once"); return ExitCode::from(ENDED_BY_SIGTERM) }
                OnSigterm::Ignore => log("SIGTERM: ignored"),
            },
            () = &mut crash => { log("error: this version crashes, as its settings ask"); return ExitCode::FAILURE }
        }
    }
}

async fn crash(after: Option<Duration>) {
    match after {
        Some(after) => sleep(after).await,
        None => pending().await,
    }
}

async fn serve_metrics(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let answer = answers::metrics(&state, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn hog(mebibytes: usize) {
    let mut held = Vec::new();
    for number in 1..=mebibytes {
        held.push(std::hint::black_box(vec![1_u8; 1 << 20]));
        if number.is_multiple_of(16) {
            log(&format!("holds {number} MiB"));
        }
    }
    loop {
        std::thread::park();
    }
}

fn log(line: &str) {
    // Nobody is left to tell when the log itself is gone.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

#[cfg(test)]
mod tests;
