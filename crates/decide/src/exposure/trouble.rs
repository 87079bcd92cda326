//! What keeps something from being on the tailnet as it was asked for, and what to do about it.

use std::collections::BTreeSet;
use std::fmt;

use super::Owner;

/// Why something is on the tailnet in another way than it might, or not at all. The first is the one that it is called by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Only tagged machines host Tailscale Services.
    Untagged { service: String, machine: String },
    /// The tailnet does not let this machine host it, or not yet.
    NotApproved { service: String, machine: String },
    /// Something else on the tailnet, or an entry of the user's, has the name.
    NameTaken { service: String, by: Option<Owner> },
    /// Something else, or an entry of the user's, has a port of the machine's name.
    PortTaken { port: u16, machine: String },
    /// Whatever is at that port of the machine's name is reached from the Internet.
    PortIsPublic { port: u16, machine: String },
    /// The tailnet gives out no certificates.
    NoCertificates,
    /// The tailnet does not let the machine be reached from the Internet.
    NoFunnel { machine: String },
    /// An Ingress has one name on the tailnet.
    OtherHost { host: String, name: String },
    /// A path of an Ingress leads to something that is not there.
    NoSuchBackend { backend: String },
    /// The daemon knows prefixes only.
    PathIsPrefix { path: String },
    /// The machine does not have them.
    OtherTags { tags: BTreeSet<String>, machine: String },
}

impl Trouble {
    /// In one word, for an event's or a condition's reason.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Untagged { .. } => "NodeIsUntagged",
            Self::NotApproved { .. } => "HostNotApproved",
            Self::NameTaken { .. } => "NameTaken",
            Self::PortTaken { .. } => "PortTaken",
            Self::PortIsPublic { .. } => "PortIsPublic",
            Self::NoCertificates => "NoCertificates",
            Self::NoFunnel { .. } => "FunnelNotAllowed",
            Self::OtherHost { .. } => "HostIgnored",
            Self::NoSuchBackend { .. } => "BackendNotFound",
            Self::PathIsPrefix { .. } => "PathIsPrefix",
            Self::OtherTags { .. } => "TagsDiffer",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged { service, machine } => write!(
                f,
                "{machine} has no tag, and only tagged machines may host {service}. For a name of its own, an administrator \
                 gives the machine a tag: tailscale up --advertise-tags=tag:segue"
            ),
            Self::NotApproved { service, machine } => write!(
                f,
                "the tailnet does not let {machine} host {service}, or not yet. For a name of its own, an administrator \
                 defines {service} under Services in Tailscale's admin console and approves {machine} there, or names its tag under autoApprovers.services in the tailnet policy"
            ),
            Self::NameTaken { service, by: Some(other) } => {
                write!(f, "{other} is {service} already: set another name")
            }
            Self::NameTaken { service, by: None } => write!(
                f,
                "the machine's serve configuration has another {service}: set another name, or take that away with \
                 tailscale serve clear {service}"
            ),
            Self::PortTaken { port, machine } => write!(
                f,
                "port {port} of {machine} leads elsewhere already: give this another port, or take that away; \
                 tailscale serve status shows it"
            ),
            Self::PortIsPublic { port, machine } => write!(
                f,
                "port {port} of {machine} is left alone, since Funnel leads to it from the Internet: take that away with \
                 tailscale funnel reset, or give this another port"
            ),
            Self::NoCertificates => f.write_str(
                "there is no HTTPS, since the tailnet gives out no certificates: an administrator enables them under DNS, \
                 HTTPS Certificates, in Tailscale's admin console",
            ),
            Self::NoFunnel { machine } => write!(
                f,
                "it is reached from the tailnet and not from the Internet, since the tailnet does not let {machine} use \
                 Funnel: an administrator gives the machine the attribute funnel under nodeAttrs in the tailnet policy"
            ),
            Self::OtherHost { host, name } => write!(
                f,
                "the rules for {host} are left out: its name on the tailnet is {name}, from tls[0].hosts[0]; make \
                 another Ingress for another name"
            ),
            Self::NoSuchBackend { backend } => write!(f, "there is no {backend} that has a cluster address"),
            Self::PathIsPrefix { path } => write!(
                f,
                "what is below {path} is reached as well, since Tailscale's daemon knows no exact paths: set pathType to \
                 Prefix to say so"
            ),
            Self::OtherTags { tags, machine } => write!(
                f,
                "{machine} does not have the tags {}: what is on the tailnet has its machine's tags, or those that an \
                 administrator gives the Tailscale Service in the admin console",
                tags.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
            ),
        }
    }
}
