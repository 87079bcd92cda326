//! The engine: store, API, controllers, node agent and routing, wired together, from start to `segue down`.

mod in_mesh;

use std::fmt::Debug;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use control::apiserver::{ApiServer, Metrics, dns_address};
use control::audit::{self, AuditLog};
use control::pki::Pki;
use control::serve::Known;
use control::store::Store;
use control::tokens::Tokens;
use control::{controllers, serve};
use decide::exposure;
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::networking::v1::IngressClass;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use network::config::{Base, Dns, Tailnet};
use network::keeper::{KeeperSettings, ProxyUser};
use network::link::DataPlaneCommand;
use network::mesh;
use network::routing;
use network::rules;
use network::tailnet::{self, LocalApi, Shared};
use node::agent::{self, AgentError, Order as AgentOrder, StoredImages};
use node::images::{ImageStore, Mirrors};
use objects::names;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::cli::{self, Up};
use crate::engine_socket::{self, Order, Received, Report};
use crate::pod_access::NodePods;
use crate::preflight;
use crate::settings::Directories;
use crate::tailnet_api::TailnetApi;
use crate::traffic::DataPlaneTraffic;

/// Namespaces that are always there.
const NAMESPACES: [&str; 3] = ["default", "kube-node-lease", "kube-system"];

/// The domain of the names that pods find Services by.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Conditions of a node that takes no new pods, and what it lacks.
const SHORTAGES: [(&str, &str); 3] =
    [("MemoryPressure", "memory"), ("DiskPressure", "disk space"), ("PIDPressure", "process ids")];
/// A node that is not ready by then has a problem that waiting does not solve.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How often the node's condition is looked at while the engine starts.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// How often it is looked whether the Service by which pods find the API is there; as often as Kubernetes looks.
const API_SERVICE_INTERVAL: Duration = Duration::from_secs(10);

/// How often the engine looks whether its certificates are old.
const RENEWAL_INTERVAL: Duration = Duration::from_hours(24);

const INGRESS_CLASS: &str = "segue";
/// As Tailscale's Kubernetes operator has it.
const TAILNET_CONTROLLER: &str = "tailscale.com/ts-ingress";

const DNS_PORT: u16 = 53;
/// Beside DNS, where other clusters' DNS servers show theirs.
const METRICS_PORT: u16 = 9153;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The data plane's own user and group: free in Debian's ranges, and with no rights anywhere.
const PROXY_USER: ProxyUser = ProxyUser { uid: 64_535, gid: 64_535 };

/// The program itself, which is also keeper, proxy and shim.
const EXECUTABLE: &str = "/proc/self/exe";

/// An engine that runs.
pub(crate) struct Engine {
    directories: Directories,
    address: Option<SocketAddr>,
    node_name: String,
    client: Client,
    socket: UnixListener,
    orders: watch::Sender<AgentOrder>,
    agent: JoinHandle<Result<(), AgentError>>,
    traffic: watch::Sender<routing::Order>,
    routing: JoinHandle<()>,
    replacement: routing::Replacement,
    mesh: Option<mesh::Handle>,
    tailnet: tailnet::Handle,
    /// API, controllers; they end with the engine.
    tasks: JoinSet<()>,
    /// Held open: it makes this the only engine on its directory.
    _lock: File,
}

/// By which the tailnet and the mesh are asked how they are, once they are there.
type Handles = OnceLock<(tailnet::Handle, Option<mesh::Handle>)>;

/// Why an engine ended by itself.
pub(crate) enum Ended {
    /// `segue down` stopped everything.
    Down,
}

impl Engine {
    /// Checks the machine, then starts everything and serves the API.
    ///
    /// # Errors
    /// What the machine lacks, or what could not be started; a refused start has changed nothing.
    pub(crate) async fn start(options: &Up) -> anyhow::Result<Self> {
        let listener = preflight::check(options)?;
        Self::start_with(options, Some(listener)).await
    }

    /// The same without an API for others: to take down what an earlier engine left.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub(crate) async fn start_closed(options: &Up) -> anyhow::Result<Self> {
        preflight::check_machine()?;
        preflight::check_network(options, &Directories::find(&options.directory.data_dir)?)?;
        Self::start_with(options, None).await
    }

    async fn start_with(options: &Up, listener: Option<std::net::TcpListener>) -> anyhow::Result<Self> {
        let directories = Directories::find(&options.directory.data_dir)?;
        let mirrors = Mirrors::parse(options.mirror.iter().map(String::as_str)).context("--mirror")?;
        let lock = take(&directories).await?;
        let settings = agent_settings(options, &directories);
        let images = Arc::new(StoredImages {
            store: ImageStore::open(&directories.images())?,
            mirrors: mirrors.with_certificates(options.registry_certs.clone()),
            docker_config: docker_config(),
        });
        let (counted, replacement) = (DataPlaneTraffic::default(), routing::Replacement::default());
        let handles: Arc<Handles> = Arc::default();
        let api = api(options, &directories, &settings, &counted)?.with_metrics(metrics_of(&handles));
        let client = serve::client(&api);
        let service = ensure_objects(&client, options.listen.port()).await?;
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), options.listen.ip()].into_iter().chain(service);
        let pki = Pki::open(&directories.pki(), &addresses.collect::<Vec<_>>())?;
        options.rules(&directories).apply()?;

        let audit = audit_log(options, &directories)?;
        let mut tasks = JoinSet::new();
        let authority = pki.authority_pem().to_owned();
        let address = listener
            .map(|listener| listen(&mut tasks, &api, pki, listener, &directories, audit.clone()))
            .transpose()?;
        let daemon = LocalApi::at(&options.tailscale_socket);
        if options.tailnet_api && address.is_some() {
            let (api, port) = (api.clone(), options.listen.port());
            tasks.spawn(TailnetApi { api, daemon: daemon.clone(), port, audit }.run());
        }
        tasks.spawn(controllers::run(client.clone(), authority, std::future::pending()));
        tasks.spawn(keep_api_service(client.clone(), options.listen.port(), service));
        let (traffic, routed) = watch::channel(routing::Order::Route);
        let routing_settings = routing_settings(options, &directories, counted.0, replacement.clone());
        let exposing = tailnet::Settings {
            daemon,
            services: options.service_cidr,
            fronts: routing_settings.fronts.clone(),
            peers: routing_settings.peers.clone(),
        };
        let mesh = in_mesh::settings(options, &directories, &exposing.daemon, &routing_settings)?
            .map(|settings| spawned(&mut tasks, mesh::new(settings)));
        let tailnet = spawned(&mut tasks, tailnet::new(client.clone(), exposing));
        let _ = handles.set((tailnet.clone(), mesh.clone()));
        let routing = tokio::spawn(routing::run(client.clone(), routing_settings, routed));
        let (orders, ordered) = watch::channel(AgentOrder::Run);
        let node_name = settings.node_name.clone();
        let agent = tokio::spawn(agent::run(settings, client.clone(), images, ordered));
        let socket = engine_socket::bind(&directories.engine_socket())?;
        Ok(Self {
            directories,
            address,
            node_name,
            client,
            socket,
            orders,
            agent,
            traffic,
            routing,
            replacement,
            mesh,
            tailnet,
            tasks,
            _lock: lock,
        })
    }

    /// Waits until the node says that it is ready. Returns what it says.
    ///
    /// # Errors
    /// When a part of the engine ended, or the node was not ready in time.
    pub(crate) async fn wait_until_ready(&mut self) -> anyhow::Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let started = Instant::now();
        while started.elapsed() < READY_LIMIT {
            if self.agent.is_finished() {
                self.join_agent().await?;
                anyhow::bail!("the node agent ended before the node was ready");
            }
            if let Some(node) = nodes.get_opt(&self.node_name).await?.filter(|node| says(node, "Ready")) {
                return Ok(node);
            }
            tokio::time::sleep(READY_INTERVAL).await;
        }
        anyhow::bail!(
            "the node was not ready after {} s; see the engine's log for what it lacks",
            READY_LIMIT.as_secs()
        )
    }

    /// Serves until `segue down` has stopped everything.
    ///
    /// # Errors
    /// When a part of the engine ended that should not.
    pub(crate) async fn serve(&mut self) -> anyhow::Result<Ended> {
        loop {
            let mut received = tokio::select! {
                received = engine_socket::receive(&self.socket) => received?,
                broken = watch_parts(&mut self.tasks, &mut self.agent) => return Err(broken),
            };
            match received.order {
                Order::Down => return self.go_down(&mut received).await,
                Order::Drain { force } => match self.leave_mesh(force).await {
                    Some(error) => received.report(&Report::Failed { error }).await,
                    None => return self.go_down(&mut received).await,
                },
                Order::Mesh => received.report(&self.mesh_report()).await,
                Order::ReplaceProxy => drop(tokio::spawn(replace_proxy(self.replacement.clone(), received))),
            }
        }
    }

    /// Has other machines take over; gives why they can't.
    async fn leave_mesh(&self, force: bool) -> Option<String> {
        if let Some(error) = self.objection(force) {
            return Some(error);
        }
        let mesh = self.mesh.as_ref()?;
        mesh.drain().await;
        // Another machine may have been asked to go at the same time.
        self.objection(force).inspect(|_| mesh.go_on())
    }

    /// Why the machine is not taken out of service.
    fn objection(&self, force: bool) -> Option<String> {
        let Some(mesh) = &self.mesh else {
            let error = "this engine is in no mesh, so nobody takes over: start it with --mesh, or use --force";
            return (!force).then(|| error.to_owned());
        };
        if !force && !mesh.is_settled() {
            return Some(
                "it is not known yet what depends on this machine: try again in a moment, or use --force".to_owned(),
            );
        }
        let depend: Vec<String> = mesh.seen().depend_on_this.into_iter().collect();
        (!depend.is_empty() && !force).then(|| {
            format!(
                "nothing is drained, since these Services have no ready pod on another machine: {}. Start pods of them \
                 elsewhere and annotate them segue.dev/mesh: \"true\", or use --force",
                depend.join(", ")
            )
        })
    }

    fn mesh_report(&self) -> Report {
        match &self.mesh {
            Some(mesh) => Report::Mesh { seen: Box::new(mesh.seen()) },
            None => Report::Failed { error: "this engine is in no mesh: start it with `segue up --mesh`".to_owned() },
        }
    }

    /// What could not be taken down is left for the next `segue down`, which takes this engine's place.
    async fn go_down(&mut self, received: &mut Received) -> anyhow::Result<Ended> {
        let mut tell = async |line: String| received.report(&Report::Progress { line }).await;
        match self.stop_everything(&mut tell).await {
            Ok(()) => {
                received.report(&Report::Done).await;
                Ok(Ended::Down)
            }
            Err(error) => {
                received.report(&Report::Failed { error: format!("{error:#}") }).await;
                Err(error)
            }
        }
    }

    /// Drains and stops every pod, then removes everything but the data directory.
    ///
    /// # Errors
    /// What could not be stopped or removed; the rest is.
    pub(crate) async fn stop_everything(&mut self, tell: &mut impl AsyncFnMut(String)) -> anyhow::Result<()> {
        self.hand_over(tell).await;
        tell("draining: no new requests, waiting for those in flight".to_owned()).await;
        fs::write(self.directories.going_down(), "")?;
        self.traffic.send_replace(routing::Order::DrainAll);
        (&mut self.routing).await.context("routing broke")?;
        tell("stopping pods".to_owned()).await;
        self.orders.send_replace(AgentOrder::Down);
        self.join_agent().await?;
        self.tasks.shutdown().await;
        network::link::shut_down(&self.directories.run).await?;
        rules::remove(&self.directories.instance)?;
        self.directories
            .remove_run()
            .with_context(|| format!("could not remove {}", self.directories.run.display()))?;
        tell("everything is stopped".to_owned()).await;
        Ok(())
    }

    /// Has new work go elsewhere, as far as there is an elsewhere.
    async fn hand_over(&self, tell: &mut impl AsyncFnMut(String)) {
        if let Some(mesh) = &self.mesh {
            tell("telling the other machines of the mesh".to_owned()).await;
            let silent: Vec<String> = mesh.drain().await.into_iter().collect();
            if !silent.is_empty() {
                tell(format!("{} did not say that they take over; going on", silent.join(", "))).await;
            }
        }
        if !self.tailnet.withdraw().await {
            tell("Tailscale's daemon still leads callers here; `tailscale serve status` shows them".to_owned()).await;
        }
    }

    /// A client with the engine's own rights.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits for a part of the engine to end, which none should.
    pub(crate) async fn watch_parts(&mut self) -> anyhow::Error {
        watch_parts(&mut self.tasks, &mut self.agent).await
    }

    /// How to use the engine, for whoever started it, and what its node lacks.
    pub(crate) fn how_to_use(&self, node: &Node) -> String {
        let kubeconfig = self.directories.kubeconfig();
        let address = self.address.map(|address| format!("https://{address}")).unwrap_or_default();
        let lacks = SHORTAGES.into_iter().filter(|(condition, _)| says(node, condition)).map(|(condition, what)| {
            format!("\n\n  The machine is short of {what} ({condition}): pods don't start until it has more; see --eviction-hard")
        });
        format!(
            "Segue is up: node {} is ready\n  Kubernetes API  {address}\n  kubeconfig      {path}\n\n  export KUBECONFIG={path}\n  kubectl get nodes{lacks}",
            self.node_name,
            path = kubeconfig.display(),
            lacks = lacks.collect::<String>(),
        )
    }

    async fn join_agent(&mut self) -> anyhow::Result<()> {
        (&mut self.agent).await.context("the node agent broke")?.map_err(anyhow::Error::from)
    }
}

async fn replace_proxy(replacement: routing::Replacement, mut received: Received) {
    let report = match replacement.replace().await {
        Ok(()) => Report::Done,
        Err(error) => Report::Failed { error: error.to_string() },
    };
    received.report(&report).await;
}

async fn watch_parts(tasks: &mut JoinSet<()>, agent: &mut JoinHandle<Result<(), AgentError>>) -> anyhow::Error {
    tokio::select! {
        _ = tasks.join_next() => anyhow::anyhow!("a part of the engine ended; its log says why"),
        ended = agent => match ended {
            Ok(Ok(())) => anyhow::anyhow!("the node agent ended"),
            Ok(Err(error)) => error.into(),
            Err(error) => anyhow::Error::from(error).context("the node agent broke"),
        },
    }
}

fn audit_log(options: &Up, directories: &Directories) -> anyhow::Result<Option<Arc<AuditLog>>> {
    let scope = match options.audit_log {
        cli::Audit::Off => return Ok(None),
        cli::Audit::Changes => audit::Scope::Changes,
        cli::Audit::All => audit::Scope::Everything,
    };
    let path = directories.audit_log();
    let log = AuditLog::open(&path, scope).with_context(|| format!("could not open {}", path.display()))?;
    Ok(Some(Arc::new(log)))
}

/// Serves the API on a socket and writes the kubeconfig that leads there.
fn listen(
    tasks: &mut JoinSet<()>,
    api: &ApiServer,
    pki: Pki,
    listener: std::net::TcpListener,
    directories: &Directories,
    audit: Option<Arc<AuditLog>>,
) -> anyhow::Result<SocketAddr> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    tasks.spawn(serve::serve(
        api.clone(),
        TcpListener::from_std(listener)?,
        pki.server_config()?,
        audit,
        Known::ByWhatTheyShow,
    ));
    let (kubeconfig, server) = (directories.kubeconfig(), format!("https://{address}"));
    pki.write_kubeconfig(&kubeconfig, &server)?;
    tasks.spawn(renew_certificates(pki, kubeconfig, server));
    Ok(address)
}

async fn renew_certificates(mut pki: Pki, kubeconfig: PathBuf, server: String) {
    loop {
        tokio::time::sleep(RENEWAL_INTERVAL).await;
        match pki.renew(Timestamp::now()) {
            Ok(false) => continue,
            Ok(true) => tracing::info!("the API's certificates are new; clients need the new kubeconfig"),
            Err(error) => tracing::warn!("can't make new certificates for the API: {error}"),
        }
        if let Err(error) = pki.write_kubeconfig(&kubeconfig, &server) {
            tracing::warn!("can't write the kubeconfig: {error}");
        }
    }
}

fn agent_settings(options: &Up, directories: &Directories) -> agent::Settings {
    agent::Settings {
        node_name: options.node_name.clone().unwrap_or_else(host_name),
        host_ip: host_address(),
        data_dir: directories.data.clone(),
        run_dir: directories.run.clone(),
        instance: directories.instance.clone(),
        pod_range: options.pod_cidr,
        dns: dns_address(options.service_cidr),
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        pod_pids_limit: i64::from(options.pod_pids_limit),
        eviction: options.eviction_hard,
        executable: EXECUTABLE.into(),
    }
}

fn routing_settings(
    options: &Up,
    directories: &Directories,
    traffic: routing::Traffic,
    replacement: routing::Replacement,
) -> routing::Settings {
    let dns = dns_address(options.service_cidr);
    routing::Settings {
        rules: options.rules(directories),
        host: host_address().into(),
        api: api_address(options.listen),
        data_plane: DataPlaneCommand {
            executable: EXECUTABLE.into(),
            keeper: KeeperSettings { run_dir: directories.run.clone(), proxy_user: Some(PROXY_USER) },
            log: directories.data_plane_log(),
            access_log: directories.access_log(),
        },
        base: Base {
            dns: Dns {
                listen: vec![(dns, DNS_PORT).into()],
                domain: CLUSTER_DOMAIN.to_owned(),
                forward_to: resolvers(&fs::read_to_string(RESOLV_CONF).unwrap_or_default()),
                ranges: vec![options.pod_cidr, options.service_cidr],
            },
            metrics: Some((dns, METRICS_PORT).into()),
            access_log: options.access_log,
            connections_per_client: Some(options.connections_per_client).filter(|most| *most > 0),
            tailnet: Some(Tailnet {
                fronts: exposure::fronts(options.service_cidr),
                daemon: options.tailscale_socket.clone(),
            }),
        },
        traffic,
        replacement,
        fronts: Shared::default(),
        peers: Shared::default(),
        machines: options.mesh.is_some().then(Shared::default),
        mesh_ports: options.mesh_port..=options.mesh_port + 1,
        here: Shared::default(),
    }
}

fn api(
    options: &Up,
    directories: &Directories,
    settings: &agent::Settings,
    counted: &DataPlaneTraffic,
) -> anyhow::Result<ApiServer> {
    let store = Store::open(&directories.store(), &directories.store_key())?;
    let pods = Arc::new(NodePods { settings: settings.clone() });
    let tokens = Tokens::open(&directories.pki())?;
    Ok(ApiServer::new(store, options.service_cidr, pods, Arc::new(counted.clone()), tokens))
}

/// Empty until the parts that have something to say are there.
fn metrics_of(handles: &Arc<Handles>) -> Metrics {
    let handles = Arc::clone(handles);
    Arc::new(move || {
        let Some((tailnet, mesh)) = handles.get() else { return String::new() };
        network::metrics::written(tailnet, mesh.as_ref())
    })
}

/// Starts a part of the engine; gives what others have of it.
fn spawned<H>(tasks: &mut JoinSet<()>, (part, handle): (impl Future<Output = ()> + Send + 'static, H)) -> H {
    tasks.spawn(part);
    handle
}

/// The machine's own resolvers, which answer for names outside the cluster.
fn resolvers(resolv_conf: &str) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse::<IpAddr>().ok()).map(|address| (address, DNS_PORT).into()).collect()
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase()
}

/// The address that this machine uses towards others; nothing is sent to find out.
fn host_address() -> Ipv4Addr {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        // An address for documentation (RFC 5737): it is routed like any other, and nobody has it.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    match found {
        Ok(SocketAddr::V4(address)) => *address.ip(),
        Ok(SocketAddr::V6(_)) | Err(_) => Ipv4Addr::LOCALHOST,
    }
}

/// Where `docker login` keeps what it was told.
fn docker_config() -> PathBuf {
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let of_home = || Path::new(&std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".docker");
    directory.unwrap_or_else(of_home).join("config.json")
}

/// Makes the directories this engine's alone.
async fn take(directories: &Directories) -> anyhow::Result<File> {
    directories.make().with_context(|| format!("could not make {}", directories.data.display()))?;
    let lock = preflight::lock(directories)?;
    // An empty store in its place would look like the one that was restored.
    preflight::check_restored(directories)?;
    end_what_went_down(directories).await?;
    Ok(lock)
}

/// An engine died while it took everything down: its data plane refuses these pods for good.
async fn end_what_went_down(directories: &Directories) -> anyhow::Result<()> {
    if directories.going_down().exists() {
        network::link::shut_down(&directories.run).await?;
        fs::remove_file(directories.going_down())?;
    }
    Ok(())
}

/// What every cluster has; gives the address of the Service by which pods find the API.
async fn ensure_objects(client: &Client, port: u16) -> anyhow::Result<Option<IpAddr>> {
    ensure_namespaces(client).await?;
    ensure_ingress_classes(client).await?;
    ensure_roles(client).await?;
    Ok(api_service(client, port, None).await)
}

async fn ensure_namespaces(client: &Client) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in NAMESPACES {
        if namespaces.get_opt(name).await?.is_none() {
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some(name.to_owned());
            namespaces.create(&PostParams::default(), &namespace).await?;
        }
    }
    Ok(())
}

/// Roles that everybody knows, and who has them without being told. One that somebody changed is left as it is.
async fn ensure_roles(client: &Client) -> anyhow::Result<()> {
    let Defaults { roles, bindings } = serde_json::from_str(include_str!("default-roles.json"))?;
    ensure::<ClusterRole>(client, roles).await?;
    ensure::<ClusterRoleBinding>(client, bindings).await
}

#[derive(Deserialize)]
struct Defaults {
    roles: Vec<ClusterRole>,
    bindings: Vec<ClusterRoleBinding>,
}

async fn ensure<K>(client: &Client, wanted: Vec<K>) -> anyhow::Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let api: Api<K> = Api::all(client.clone());
    let options = PostParams::default();
    let ensured = wanted.iter().map(async |one| {
        if api.get_opt(&one.name_any()).await?.is_none() {
            api.create(&options, one).await?;
        }
        Ok(())
    });
    try_join_all(ensured).await.map(drop)
}

/// Makes the Service by which pods find the API, should somebody delete it, at the address that they were told.
async fn keep_api_service(client: Client, port: u16, address: Option<IpAddr>) {
    loop {
        tokio::time::sleep(API_SERVICE_INTERVAL).await;
        api_service(&client, port, address).await;
    }
}

/// The address of the Service by which pods find the API.
async fn api_service(client: &Client, port: u16, address: Option<IpAddr>) -> Option<IpAddr> {
    let (namespace, name) = names::API_SERVICE;
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let wanted = json!({
        "metadata": {"name": name, "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": address, "ports": [{"name": "https", "port": 443, "targetPort": port}]},
    });
    let ensured = async {
        match services.get_opt(name).await? {
            Some(known) => Ok(known),
            None => services
                .create(&PostParams::default(), &serde_json::from_value(wanted)?)
                .await
                .map_err(anyhow::Error::from),
        }
    };
    match ensured.await {
        Ok(service) => service.spec?.cluster_ip?.parse().ok(),
        Err(error) => {
            tracing::warn!("pods don't find the API by the Service {name}: {error:#}");
            None
        }
    }
}

/// Where the data plane finds the API.
fn api_address(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, listen.port()).into() } else { listen }
}

/// The classes by whose names Ingresses ask for this engine's data plane, and for a name on the tailnet.
async fn ensure_ingress_classes(client: &Client) -> anyhow::Result<()> {
    let controllers = [(INGRESS_CLASS, names::INGRESS_CONTROLLER), (exposure::CLASS, TAILNET_CONTROLLER)];
    let classes = controllers.map(|(name, controller)| {
        let mut class = IngressClass::default();
        class.metadata.name = Some(name.to_owned());
        class.spec.get_or_insert_default().controller = Some(controller.to_owned());
        class
    });
    ensure(client, classes.into()).await
}

fn says(node: &Node, condition: &str) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|each| each.type_ == condition && each.status == "True")
}
