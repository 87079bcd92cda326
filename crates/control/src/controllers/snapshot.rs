//! Fresh reads over the API; no controller keeps what it has read.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::ListParams;
use kube::core::Resource;
use kube::{Api, Client};
use serde::de::DeserializeOwned;

use super::Error;
use super::work_queue::Key;

/// All objects of the namespace.
pub(super) async fn list<K>(client: &Client, namespace: &str) -> Result<Vec<K>, Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    list_of(&Api::namespaced(client.clone(), namespace)).await
}

/// All objects.
pub(super) async fn list_all<K>(client: &Client) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    list_of(&Api::all(client.clone())).await
}

/// All objects that `api` is about.
pub(super) async fn list_of<K>(api: &Api<K>) -> Result<Vec<K>, Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(source) => Err(Error::Read { what: api.resource_url().to_owned(), source: Box::new(source) }),
    }
}

/// The object, if it is there.
pub(super) async fn get<K>(client: &Client, key: &Key) -> Result<Option<K>, Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    get_of(&Api::namespaced(client.clone(), &key.namespace), &key.name).await
}

/// The object of this name that `api` is about, if it is there.
pub(super) async fn get_of<K>(api: &Api<K>, name: &str) -> Result<Option<K>, Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let found = api.get_opt(name).await;
    found.map_err(|source| Error::Read { what: format!("{}/{name}", api.resource_url()), source: Box::new(source) })
}
