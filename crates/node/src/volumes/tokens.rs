//! Tokens of a pod's ServiceAccount in its volumes: asked for when there is none, and anew when most of the time of the one
//! that is there is over, as the kubelet does.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection, Volume};
use kube::api::{Api, PostParams};
use serde::Deserialize;

/// What Kubernetes takes where nothing is said.
const USUAL_SECONDS: i64 = 3600;
/// No token is used for longer.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
const ACCOUNT: &str = "default";
/// Longer than a token is.
const MOST_BYTES: u64 = 64 * 1024;

/// By their path in the volume.
pub(super) type Tokens = BTreeMap<String, String>;

/// What a token says of its time, in seconds since 1970.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Times {
    iat: i64,
    exp: i64,
}

/// The tokens that a volume is to have; `data` has those that it has.
pub(super) async fn fetch(
    client: &kube::Client,
    pod: &Pod,
    volume: &Volume,
    data: &Path,
    now: Timestamp,
) -> kube::Result<Tokens> {
    let mut tokens = Tokens::new();
    for source in sources(volume) {
        let known = read(data, &source.path);
        let token = match known.filter(|token| due(token).is_some_and(|due| now < due)) {
            Some(token) => token,
            None => ask(client, pod, source).await?,
        };
        tokens.insert(source.path.clone(), token);
    }
    Ok(tokens)
}

/// When the first of a volume's tokens is to be asked for anew.
pub(super) fn first_due(volume: &Volume, data: &Path) -> Option<Timestamp> {
    let tokens = sources(volume).filter_map(|source| read(data, &source.path));
    tokens.filter_map(|token| due(&token)).min()
}

/// A token as it is in a volume. Of what is no file there, whatever a pod names, nothing is read.
fn read(data: &Path, path: &str) -> Option<String> {
    let is_below = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let file = is_below.then(|| data.join(path))?;
    let metadata = std::fs::symlink_metadata(&file).ok()?;
    let is_token = metadata.is_file() && metadata.len() <= MOST_BYTES;
    is_token.then(|| std::fs::read_to_string(&file).ok())?
}

fn sources(volume: &Volume) -> impl Iterator<Item = &ServiceAccountTokenProjection> {
    let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    projected.filter_map(|source| source.service_account_token.as_ref())
}

/// None for what is no token.
fn due(token: &str) -> Option<Timestamp> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let Times { iat, exp } = serde_json::from_slice(&claims).ok()?;
    let lasts = SignedDuration::from_secs(exp.saturating_sub(iat)) * 4 / 5;
    Timestamp::from_second(iat).ok()?.checked_add(lasts.min(LONGEST)).ok()
}

async fn ask(client: &kube::Client, pod: &Pod, source: &ServiceAccountTokenProjection) -> kube::Result<String> {
    let metadata = &pod.metadata;
    let accounts: Api<ServiceAccount> =
        Api::namespaced(client.clone(), metadata.namespace.as_deref().unwrap_or_default());
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or(ACCOUNT);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: source.audience.clone().filter(|audience| !audience.is_empty()).map(|audience| vec![audience]),
            expiration_seconds: Some(source.expiration_seconds.unwrap_or(USUAL_SECONDS)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: metadata.name.clone(),
                uid: metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let given = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(given.status.and_then(|status| status.token).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_file_in_the_volume_is_read() {
        let volume = tempfile::tempdir().unwrap();
        std::fs::write(volume.path().join("token"), "known").unwrap();
        std::os::unix::fs::symlink("/dev/zero", volume.path().join("link")).unwrap();
        assert_eq!(read(volume.path(), "token").as_deref(), Some("known"));
        for path in ["/dev/zero", "../token", "link", "none", "."] {
            assert_eq!(read(volume.path(), path), None, "{path}");
        }
    }

    #[test]
    fn a_token_is_asked_for_anew_when_most_of_its_time_is_over() {
        let token = |claims: &str| format!("head.{}.signature", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let at = |seconds: i64| Some(Timestamp::from_second(seconds).unwrap());
        assert_eq!(due(&token(r#"{"iat": 1000, "exp": 4600, "sub": "x"}"#)), at(1000 + 2880));
        assert_eq!(due(&token(r#"{"iat": 1000, "exp": 1000000}"#)), at(1000 + 86_400));
        for nonsense in ["", "a.b.c", &token("{}"), "only-one"] {
            assert_eq!(due(nonsense), None, "{nonsense}");
        }
    }
}
