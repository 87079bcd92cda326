//! Every kind that the API serves and that garbage collection and namespaces deal with.

use std::time::Duration;

use decide::object::{AnyObject, AnyTarget, KindName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use tracing::warn;

use super::{Error, snapshot};

const RETRY: Duration = Duration::from_secs(1);

/// Verbs without which an object can neither be found nor deleted.
const NEEDED_VERBS: &[&str] = &["list", "watch", "delete"];

/// Events have no dependents, and there are too many of them to look at each time.
const IGNORED_KINDS: &[&str] = &["Event"];

/// A kind as the API serves it.
#[derive(Clone, Debug)]
pub(super) struct ServedKind {
    pub(super) resource: ApiResource,
    pub(super) namespaced: bool,
}

/// The kinds that are served; asked until there is an answer.
pub(super) async fn discover(client: &Client) -> Vec<ServedKind> {
    loop {
        match served(client).await {
            Ok(kinds) => return kinds,
            Err(error) => warn!(%error, "cannot ask which kinds the API serves; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn served(client: &Client) -> kube::Result<Vec<ServedKind>> {
    let mut kinds = kinds_of("", "v1", &client.list_core_api_resources("v1").await?);
    for group in client.list_api_groups().await?.groups {
        let Some(version) = group.preferred_version.as_ref().or(group.versions.first()) else { continue };
        let resources = client.list_api_group_resources(&version.group_version).await?;
        kinds.extend(kinds_of(&group.name, &version.version, &resources));
    }
    Ok(kinds)
}

fn kinds_of(group: &str, version: &str, resources: &APIResourceList) -> Vec<ServedKind> {
    let can = |verbs: &[String], verb: &str| verbs.iter().any(|it| it == verb);
    let wanted = resources
        .resources
        .iter()
        .filter(|it| !it.name.contains('/') && NEEDED_VERBS.iter().all(|verb| can(&it.verbs, verb)));
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let kind = |it: &k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource| ServedKind {
        resource: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.clone(),
            kind: it.kind.clone(),
            plural: it.name.clone(),
        },
        namespaced: it.namespaced,
    };
    wanted.map(kind).collect()
}

impl ServedKind {
    pub(super) fn name(&self) -> KindName {
        KindName { api_version: self.resource.api_version.clone(), kind: self.resource.kind.clone() }
    }

    /// Whether owners and dependents of this kind are looked at.
    pub(super) fn is_collected(&self) -> bool {
        !IGNORED_KINDS.contains(&self.resource.kind.as_str())
    }

    /// All objects of the kind.
    pub(super) fn everywhere(&self, client: &Client) -> Api<DynamicObject> {
        Api::all_with(client.clone(), &self.resource)
    }

    /// The objects of the kind in one namespace; an empty name stands for none.
    pub(super) fn within(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => self.everywhere(client),
            namespace => Api::namespaced_with(client.clone(), namespace, &self.resource),
        }
    }

    /// Reads the objects of the kind that `api` is about.
    pub(super) async fn read(&self, api: &Api<DynamicObject>) -> Result<Vec<AnyObject>, Error> {
        let found = snapshot::list_of(api).await?;
        Ok(found.into_iter().map(|object| AnyObject { kind: self.name(), meta: object.metadata }).collect())
    }
}

/// The objects of the target's kind, in its namespace.
pub(super) fn api_of(kinds: &[ServedKind], client: &Client, object: &AnyTarget) -> Result<Api<DynamicObject>, Error> {
    let kind = kinds.iter().find(|kind| kind.name() == object.kind);
    let kind = kind.ok_or_else(|| Error::UnknownKind { kind: object.kind.kind.clone() })?;
    Ok(kind.within(client, &object.target.namespace))
}
