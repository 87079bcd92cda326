//! The API on the tailnet: at the machine's addresses there, with the tailnet's certificate, for whoever Tailscale's daemon
//! knows. Whatever else a caller shows counts for nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use control::apiserver::ApiServer;
use control::audit::AuditLog;
use control::pki::{Pki, PkiError};
use control::serve::{self, Known};
use decide::callers::Identity;
use futures::future::BoxFuture;
use network::tailnet::{Callers, LocalApi, LocalApiError};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A certificate is good for so much longer at least, and looked after so often.
const GOOD_FOR: Duration = Duration::from_hours(24 * 14);
const RENEWED_EVERY: Duration = Duration::from_hours(24);
/// The pause before what was not possible is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// What it takes.
pub(crate) struct TailnetApi {
    pub(crate) api: ApiServer,
    pub(crate) daemon: LocalApi,
    pub(crate) port: u16,
    pub(crate) audit: Option<Arc<AuditLog>>,
}

/// Why the API is not on the tailnet.
#[derive(Debug, thiserror::Error)]
enum Unable {
    #[error(transparent)]
    Daemon(#[from] LocalApiError),
    #[error("this machine is not on a tailnet: `tailscale up` joins one")]
    NotThere,
    #[error("the tailnet gives out no certificates: an administrator enables them under DNS, HTTPS Certificates")]
    NoCertificates,
    #[error("can't use the tailnet's certificate for {0}")]
    Certificate(String, #[source] PkiError),
    #[error("can't listen at {0}")]
    Listen(SocketAddr, #[source] io::Error),
}

struct ByWhois {
    callers: Arc<Callers>,
    /// The machine itself, by whose address any of its processes would call.
    own: String,
}

impl serve::Callers for ByWhois {
    fn who(&self, client: SocketAddr) -> BoxFuture<'_, Option<(String, Vec<String>)>> {
        Box::pin(async move {
            let whois =
                self.callers.who(client).await.filter(|whois| whois.machine != self.own.to_ascii_lowercase())?;
            let Identity { user, groups } = whois.identity()?;
            Some((user, groups))
        })
    }
}

impl TailnetApi {
    /// Serves until it is dropped; follows the machine's name and addresses.
    pub(crate) async fn run(self) {
        let heard = Arc::new(Notify::new());
        let callers = Arc::new(Callers::of(self.daemon.clone()));
        let mut following = JoinSet::new();
        following.spawn(Arc::clone(&callers).follow());
        let (daemon, tell) = (self.daemon.clone(), Arc::clone(&heard));
        following.spawn(async move { daemon.listen(|| tell.notify_one()).await });
        let mut said = String::new();
        loop {
            let pause = match self.serve(&callers, &heard).await {
                Ok(()) => Duration::ZERO,
                Err(unable) => {
                    let sentence = format!("{:#}", anyhow::Error::from(unable));
                    if sentence != said {
                        tracing::warn!("the API is not on the tailnet: {sentence}");
                        said = sentence;
                    }
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Until the machine is another one on the tailnet, or its certificate gets old.
    async fn serve(&self, callers: &Arc<Callers>, heard: &Notify) -> Result<(), Unable> {
        let machine = self.daemon.machine().await?.ok_or(Unable::NotThere)?;
        if !machine.has_certificates {
            return Err(Unable::NoCertificates);
        }
        let pair = self.certificate(&machine.name).await?;
        let known = Known::ByAddress(Arc::new(ByWhois { callers: Arc::clone(callers), own: machine.name.clone() }));
        let tls = Pki::server_config_of(&pair).map_err(|source| Unable::Certificate(machine.name.clone(), source))?;
        let mut serving = JoinSet::new();
        for ip in &machine.addresses {
            let at = SocketAddr::new(*ip, self.port);
            match TcpListener::bind(at).await {
                Ok(listener) => {
                    let (api, audit) = (self.api.clone(), self.audit.clone());
                    serving.spawn(serve::serve(api, listener, tls.clone(), audit, known.clone()));
                }
                // A machine may do without IPv6.
                Err(error) if ip.is_ipv6() => tracing::debug!("can't listen at {at}: {error}"),
                Err(error) => return Err(Unable::Listen(at, error)),
            }
        }
        tracing::info!("the API is on the tailnet at https://{}:{}", machine.name, self.port);
        let mut renewed_at = Instant::now() + RENEWED_EVERY;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(renewed_at) => {
                    renewed_at = Instant::now() + RENEWED_EVERY;
                    if self.certificate(&machine.name).await.is_ok_and(|new| new != pair) {
                        return Ok(());
                    }
                }
                () = heard.notified() => {}
            }
            // A daemon that is away for a moment has not moved the machine.
            if self.daemon.machine().await.is_ok_and(|now| now.as_ref() != Some(&machine)) {
                return Ok(());
            }
        }
    }

    /// A certificate that lasts, or else the one that there is.
    async fn certificate(&self, name: &str) -> Result<String, LocalApiError> {
        match self.daemon.certificate(name, GOOD_FOR).await {
            Err(LocalApiError::Refused { .. } | LocalApiError::Silent { .. }) => {
                self.daemon.certificate(name, Duration::ZERO).await
            }
            had => had,
        }
    }
}
