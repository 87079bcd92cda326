//! The command line: what each command takes, and how it is explained.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, FromArgMatches, Parser, Subcommand};
use decide::node_pressure::Thresholds;
use network::rules::Rules;
use objects::ranges::{Range, RangeError};

use crate::settings::Directories;

/// Zero-downtime deployment for services on a Tailscale network.
#[derive(Parser)]
#[command(
    name = "segue",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  segue demo                                the whole story in two minutes, leaving nothing behind
  segue up --detach                         start the engine on this machine
  export KUBECONFIG=/var/lib/segue/kubeconfig
  kubectl apply -k manifests/overlays/production
  segue down                                drain and stop everything, keep what was declared"
)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start the engine on this machine: a Kubernetes API with a node, nothing else to install
    #[command(after_help = "\
Examples:
  segue up                                  in the foreground; Ctrl-C ends the engine, the pods go on
  segue up --detach                         in the background; returns when the node is ready
  segue up --mirror registry.example.com=http://127.0.0.1:5000
  segue up --data-dir /srv/second --listen 127.0.0.1:7444 --pod-cidr 10.54.0.0/16 --service-cidr 10.55.0.0/16

Exit codes: 0 the engine was told to end (or, with --detach, is ready); 1 it could not start; 2 wrong usage")]
    Up(Up),
    /// Drain and stop everything that runs here; what was declared is kept for the next `up`
    #[command(after_help = "\
Examples:
  segue down
  segue down --data-dir /srv/second --purge

Exit codes: 0 nothing is left running; 1 something could not be stopped or removed; 2 wrong usage")]
    Down(Down),
    /// Take this machine out of service: others take over, then everything here is drained and stopped
    #[command(after_help = "\
Examples:
  segue drain                               before maintenance or a reboot; `segue up` brings the machine back
  segue drain --force                       even if Services have no ready pod but here

Other machines of the mesh are told and acknowledge, new work goes to them, what is in flight ends, then pods stop. If a Service
has its last ready pod here, nothing is done.
Exit codes: 0 nothing is left running; 1 nothing was done, or something could not be stopped; 2 wrong usage")]
    Drain(Drain),
    /// The machines of the mesh: where Services are ready, who drains, how far they are
    #[command(after_help = "\
Examples:
  segue mesh
  segue mesh --output json

Exit codes: 0 it is shown; 1 no engine of a mesh runs here; 2 wrong usage")]
    Mesh {
        #[command(flatten)]
        directory: DataDirectory,
        /// text or json
        #[arg(long, short, default_value = "text")]
        output: Output,
    },
    /// Have systemd start the engine at boot, and now
    #[command(after_help = "\
Examples:
  segue install
  segue install --mirror registry.example.com=http://127.0.0.1:5000   options are those of `segue up`
  segue install --print                                               show the unit, change nothing

Once more with other options restarts the engine with these; pods and connections go on. When the machine goes down, everything
is drained first.
Exit codes: 0 the service runs and its node is ready; 1 not; 2 wrong usage")]
    Install(Install),
    /// Stop the service that `segue install` made, and start it at boot no more; pods go on
    #[command(after_help = "\
Examples:
  segue uninstall
  segue down                                drain and stop the pods that went on

Exit codes: 0 the service is gone; 1 not; 2 wrong usage")]
    Uninstall(DataDirectory),
    /// Print a kubeconfig: the administrator's, or one without secrets for whoever is on the tailnet
    #[command(after_help = "\
Examples:
  segue kubeconfig > ~/.kube/config
  segue kubeconfig --tailnet                for an engine that was started with --tailnet-api; works from any machine
                                            on the tailnet, for whoever may do something

Exit codes: 0 it is printed; 1 there is none; 2 wrong usage")]
    Kubeconfig(Kubeconfig),
    /// The proxy that carries every connection to a Service
    #[command(subcommand)]
    Proxy(ProxyCommand),
    /// Images on this machine, without a registry
    #[command(subcommand)]
    Image(ImageCommand),
    /// Write everything that was declared into one file; an engine may run meanwhile
    #[command(after_help = "\
Examples:
  segue backup /srv/backups/monday.tar
  segue backup --with-key /srv/backups/monday.tar

Images, volumes and logs are not in it. Secrets stay encrypted; without --with-key, keep store.key of the data directory too.
Exit codes: 0 written; 1 not; 2 wrong usage")]
    Backup(Backup),
    /// Put a backup in place of what an engine had; none may run on the data directory
    #[command(after_help = "\
Examples:
  segue restore /srv/backups/monday.tar
  segue restore --replace /srv/backups/monday.tar

Exit codes: 0 restored; 1 not, and nothing was changed; 2 wrong usage")]
    Restore(Restore),
    /// The whole story: engine, app, traffic, a good deploy, a bad one that is undone, and the numbers
    #[command(after_help = "\
Examples:
  segue demo

It works beside an engine that is running, and leaves nothing behind.
Exit codes: 0 everything it shows as good was so; 1 something was not; 2 wrong usage")]
    Demo,
}

/// Where an engine keeps what it has.
#[derive(Args, Clone)]
pub(crate) struct DataDirectory {
    /// Where the engine keeps its store, images, volumes and keys
    #[arg(long, default_value = "/var/lib/segue", value_name = "DIRECTORY")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Args, Clone)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) directory: DataDirectory,
    /// Where the Kubernetes API listens; loopback only
    #[arg(long, default_value = "127.0.0.1:7443", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
    /// Addresses for pods
    #[arg(long, default_value = "10.44.0.0/16", value_name = "RANGE", value_parser = range)]
    pub(crate) pod_cidr: Range,
    /// Addresses for Services
    #[arg(long, default_value = "10.45.0.0/16", value_name = "RANGE", value_parser = range)]
    pub(crate) service_cidr: Range,
    /// Pull images of a registry from elsewhere, e.g. registry.example.com=http://127.0.0.1:5000 (may be repeated)
    #[arg(long, value_name = "REGISTRY=URL")]
    pub(crate) mirror: Vec<String>,
    /// Where, below HOST[:PORT], *.crt files have the authorities of registries whose certificates nobody else knows
    #[arg(long, default_value = "/etc/docker/certs.d", value_name = "DIRECTORY")]
    pub(crate) registry_certs: PathBuf,
    /// The node's name; the machine's host name if not given
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Processes and threads that a pod may have: one that forks wildly harms nobody else
    #[arg(long, default_value_t = 16_384, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pod_pids_limit: u32,
    /// When the machine is so short of memory or disk that pods have to go, one at a time, those first that use more than
    /// they asked for
    #[arg(long, default_value = "memory.available<100Mi,nodefs.available<10%", value_name = "SIGNAL<AMOUNT,…")]
    pub(crate) eviction_hard: Thresholds,
    /// Connections that one address may have open to Services; 0 for no limit
    #[arg(long, default_value_t = 16_384, value_name = "NUMBER")]
    pub(crate) connections_per_client: u32,
    /// Write a line of JSON about each request to access.log in the data directory
    #[arg(long)]
    pub(crate) access_log: bool,
    /// The socket of Tailscale's daemon, by which Services are put on the tailnet
    #[arg(long, default_value = "/var/run/tailscale/tailscaled.sock", value_name = "PATH")]
    pub(crate) tailscale_socket: PathBuf,
    /// Serve the API on the tailnet too, at the port of `--listen`, to whoever Tailscale's daemon knows and roles allow
    #[arg(long)]
    pub(crate) tailnet_api: bool,
    /// Cover for the other machines of the tailnet that have this tag, and be covered for by them: Services annotated
    /// `segue.dev/mesh: "true"` are one on all of them
    #[arg(long, value_name = "TAG", num_args = 0..=1, default_missing_value = "tag:segue")]
    pub(crate) mesh: Option<String>,
    /// Where engines of the mesh listen to each other on the tailnet; their proxies do at the port after it. The same on all
    /// machines, and one that only root can take
    #[arg(long, default_value_t = 745, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..1023))]
    pub(crate) mesh_port: u16,
    /// Which requests to the API are written to audit.log in the data directory
    #[arg(long, default_value = "changes", value_name = "WHICH")]
    pub(crate) audit_log: Audit,
    /// Go on in the background; return when the node is ready
    #[arg(long)]
    pub(crate) detach: bool,
    /// Standard input is a pipe on which to say that the node is ready
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

impl Up {
    /// The kernel's part for this engine.
    pub(crate) fn rules(&self, directories: &Directories) -> Rules {
        let instance = directories.instance.clone();
        let links = node::link_prefix(&instance);
        Rules { instance, links, pods: self.pod_cidr, services: self.service_cidr, mesh_port: self.mesh_port }
    }

    /// The defaults, on a data directory.
    pub(crate) fn on(directory: &DataDirectory) -> Self {
        Self::of(&["--data-dir".into(), directory.data_dir.clone().into()])
    }

    /// Reads options; ends the program when they make no sense.
    pub(crate) fn of(options: &[OsString]) -> Self {
        let arguments = [OsString::from("up")].into_iter().chain(options.iter().cloned());
        let matches = Self::augment_args(clap::Command::new("up").no_binary_name(false)).get_matches_from(arguments);
        match Self::from_arg_matches(&matches) {
            Ok(options) => options,
            Err(error) => error.exit(),
        }
    }
}

#[derive(Args, Clone)]
pub(crate) struct Install {
    /// Show the unit and change nothing
    #[arg(long)]
    pub(crate) print: bool,
    /// Options of `segue up`
    #[arg(value_name = "OPTION OF UP", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) up: Vec<OsString>,
}

#[derive(Args, Clone)]
pub(crate) struct Backup {
    /// Where to write it; readable by root only
    pub(crate) file: PathBuf,
    /// With the key that the Secrets in it are encrypted with
    #[arg(long)]
    pub(crate) with_key: bool,
    #[command(flatten)]
    pub(crate) directory: DataDirectory,
}

#[derive(Args, Clone)]
pub(crate) struct Restore {
    /// What `segue backup` wrote
    pub(crate) file: PathBuf,
    /// Move the store that is there aside, with its keys, to *.before-restore
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) directory: DataDirectory,
}

#[derive(Args, Clone)]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) directory: DataDirectory,
    /// Also remove the data directory: what was declared, images, volumes and keys
    #[arg(long)]
    pub(crate) purge: bool,
}

/// What `segue drain` takes.
#[derive(Args, Clone)]
pub(crate) struct Drain {
    #[command(flatten)]
    pub(crate) directory: DataDirectory,
    /// Also if that leaves a Service without a ready pod
    #[arg(long)]
    pub(crate) force: bool,
}

/// What `segue kubeconfig` takes.
#[derive(Args)]
pub(crate) struct Kubeconfig {
    /// For callers on the tailnet, who are known by their machines and have no secrets
    #[arg(long)]
    pub(crate) tailnet: bool,
    /// The port of the API on the tailnet: that of the engine's `--listen`
    #[arg(long, default_value_t = 7443, requires = "tailnet", value_name = "PORT")]
    pub(crate) port: u16,
    /// The socket of Tailscale's daemon
    #[arg(long, default_value = "/var/run/tailscale/tailscaled.sock", requires = "tailnet", value_name = "PATH")]
    pub(crate) tailscale_socket: PathBuf,
    #[command(flatten)]
    pub(crate) directory: DataDirectory,
}

#[derive(Subcommand)]
pub(crate) enum ProxyCommand {
    /// Replace the running proxy by a new one; no connection is refused or cut
    #[command(after_help = "\
Examples:
  segue proxy upgrade

The new proxy takes every connection from then on; the old one finishes its own and ends. `segue up` with another build of
segue does the same by itself.
Exit codes: 0 the new proxy serves; 1 the old one goes on; 2 wrong usage")]
    Upgrade {
        #[command(flatten)]
        directory: DataDirectory,
    },
}

#[derive(Subcommand)]
pub(crate) enum ImageCommand {
    /// Load images from a Docker or OCI archive
    #[command(
        after_help = "Examples:\n  docker save web:2 | segue image load -\n  segue image load web.tar\n\nExit codes: 0 loaded; 1 not; 2 wrong usage"
    )]
    Load {
        /// The archive, compressed or not; `-` reads standard input
        file: PathBuf,
        #[command(flatten)]
        directory: DataDirectory,
    },
    /// List the images on this machine
    #[command(
        after_help = "Examples:\n  segue image list\n  segue image list --output json\n\nExit codes: 0 listed; 1 not; 2 wrong usage"
    )]
    List {
        #[command(flatten)]
        directory: DataDirectory,
        /// text or json
        #[arg(long, short, default_value = "text")]
        output: Output,
    },
}

/// Which requests are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Audit {
    /// None
    Off,
    /// Those that change something, and those that reach into pods
    Changes,
    /// Every one
    All,
}

/// How a command shows what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

fn range(text: &str) -> Result<Range, RangeError> {
    text.parse::<Range>()?.to_give_out()
}
