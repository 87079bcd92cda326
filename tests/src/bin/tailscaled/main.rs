//! A stand-in for Tailscale's daemon, for one machine of a tailnet that a test makes up. It speaks the LocalAPI as the real
//! one does, errors and permissions included, really forwards what its serve configuration says, keeps that and its
//! preferences in a file over restarts, and records what it was asked.
//!
//! `tailscaled SOCKET STATE TAILNET`: the LocalAPI's socket, a file of its own, and as JSON what the coordination server
//! would tell it, which a test changes with `PUT /test/tailnet`. `GET /test/asked` has all requests so far.

mod forward;
mod local_api;
mod state;

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

use state::Daemon;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, state, tailnet] = &arguments[..] else { return Err("usage: tailscaled SOCKET STATE TAILNET".into()) };
    let daemon = Arc::new(Daemon::new(Path::new(state), serde_json::from_str(tailnet)?)?);
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    tokio::spawn(forward::run(Arc::clone(&daemon)));
    // Whoever started it holds the other end.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    loop {
        let (stream, _) = listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        let daemon = Arc::clone(&daemon);
        tokio::spawn(async move {
            let answer = service_fn(move |request| local_api::answer(Arc::clone(&daemon), uid, request));
            // A client that goes is its own business.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
