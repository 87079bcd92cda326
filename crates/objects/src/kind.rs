//! What the API server must know of a kind in order to serve it. Every kind is one file in `kinds/` that gives one
//! [`Kind`]; the list of them is in `kinds.rs`. Nothing here reads the store or the clock.

use jiff::Timestamp;
use serde_json::Value;

use crate::metadata;
use crate::validation::Cause;

/// One kind of object, as data and pure functions over its JSON form.
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version, e.g. `v1`.
    pub version: &'static str,
    /// CamelCase kind, e.g. `ReplicaSet`.
    pub kind: &'static str,
    /// Lower-case plural: the resource's name in paths.
    pub plural: &'static str,
    /// Lower-case singular.
    pub singular: &'static str,
    /// Short names that kubectl accepts, e.g. `rs`.
    pub short_names: &'static [&'static str],
    /// Categories such as `all`.
    pub categories: &'static [&'static str],
    /// Where its objects live.
    pub scope: Scope,
    /// What stands below an object's path.
    pub subresources: &'static [Subresource],
    /// The type's name in the OpenAPI document, e.g. `io.k8s.api.apps.v1.Deployment`.
    pub type_name: &'static str,
    /// Adds the type and all it refers to, e.g. `kinds::add_type::<Pod>`.
    pub add_types: fn(&mut schemars::SchemaGenerator),
    /// Whether `metadata.generation` counts changes outside metadata and status.
    pub counts_generations: bool,
    /// Whether its objects are made when they are asked for, and so can't be written.
    pub is_computed: bool,
    /// Whether its objects are questions, answered when they are posted and never kept.
    pub is_answered: bool,
    /// Whether DELETE answers with the object that is gone, rather than with a Status.
    pub answers_with_deleted: bool,
    /// Fills what the user left out, as the real API server's defaulting does.
    pub default: fn(&mut Value),
    /// Brings a decoded, defaulted object into the form it is created in: server-owned fields set, status cleared.
    pub prepare_create: fn(&mut Value),
    /// The same for an update through the main path: what may not be changed there is taken from `old`.
    pub prepare_update: fn(new: &mut Value, old: &Value),
    /// Every mistake in an object that is to be created or updated.
    pub validate: fn(&Value) -> Vec<Cause>,
    /// Every change from `old` to `new` that is not allowed.
    pub validate_update: fn(new: &Value, old: &Value) -> Vec<Cause>,
    /// Sentences for `Warning` headers of an accepted object.
    pub warnings: fn(&Value) -> Vec<String>,
    /// Columns of its table, in the order in which they are printed.
    pub columns: &'static [Column],
    /// The cells of one object, one a column.
    pub row: fn(&Value, now: Timestamp) -> Vec<Value>,
    /// Values for field selectors beyond `metadata.name` and `metadata.namespace`, e.g. `("status.phase", "Running")`.
    pub field_labels: fn(&Value) -> Vec<(&'static str, String)>,
}

/// What most kinds share: nothing to default, prepare or refuse beyond the metadata. Kinds are written as differences
/// from it.
pub(crate) const PLAIN: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    subresources: &[],
    type_name: "",
    add_types: |_| {},
    counts_generations: false,
    is_computed: false,
    is_answered: false,
    answers_with_deleted: false,
    default: |_| {},
    prepare_create: |_| {},
    prepare_update: |_, _| {},
    validate: |object| metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults),
    validate_update: metadata::validate_update,
    warnings: |_| Vec::new(),
    columns: &[],
    row: |_, _| Vec::new(),
    field_labels: |_| Vec::new(),
};

/// Where a kind's objects live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// A path below an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: replaces only the status.
    Status,
    /// `scale`: an `autoscaling/v1` Scale over spec.replicas, status.replicas and the selector.
    Scale,
    /// `log`, of pods.
    Log,
    /// `exec`, of pods: runs a process in a container.
    Exec,
    /// `portforward`, of pods: connects to their ports.
    PortForward,
    /// `binding`, of pods: names their node.
    Binding,
    /// `eviction`, of pods: deletes them if their disruption budget allows it.
    Eviction,
    /// `finalize`, of namespaces.
    Finalize,
    /// `token`, of ServiceAccounts: gives one out.
    Token,
}

/// A column of a kind's table, as `meta.k8s.io/v1` TableColumnDefinition has it.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean` or `number`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
    pub description: &'static str,
}

impl Kind {
    /// `v1` or `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Whether its objects live in namespaces.
    #[must_use]
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether it has this subresource.
    #[must_use]
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }
}

impl Subresource {
    /// Its last path segment.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::PortForward => "portforward",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Finalize => "finalize",
            Self::Token => "token",
        }
    }
}
