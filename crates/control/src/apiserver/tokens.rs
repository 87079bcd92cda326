//! Tokens of ServiceAccounts: given out, and looked up when they are shown. One ends with its account, and with the pod or
//! Secret that it is bound to.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::status::Failure;
use objects::validation::Cause;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::access::{SERVICE_ACCOUNT, groups, groups_of_account};
use super::{Answer, ApiServer, Asked, Caller, Place, answer, objects_in};
use crate::tokens::{Bound, Claims, ISSUER, Reference};

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";

const USUAL_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 1 << 32;
/// How long a token holds that is bound to what is being deleted, as in Kubernetes.
const OUTLIVES: SignedDuration = SignedDuration::from_secs(60);

impl ApiServer {
    /// POST to a ServiceAccount's `token`.
    pub(super) fn give_token(&self, place: &Place, asked: &Asked) -> Answer {
        let mut request = objects_in::parse(asked)?.value;
        TokenRequest::deserialize(&request)
            .map_err(|error| Failure::bad_request(format!("no TokenRequest: {error}")))?;
        let account = self.find(place)?.value.clone();
        let spec = request["spec"].clone();
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(USUAL_SECONDS);
        let audiences: Vec<String> = match spec["audiences"].as_array() {
            Some(all) if !all.is_empty() => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(_) | None => vec![ISSUER.to_owned()],
        };
        let causes = faults(seconds, &spec["boundObjectRef"]);
        if !causes.is_empty() {
            return Err(Failure::invalid(GROUP, KIND, place.name(), causes));
        }
        let mut bound = Bound {
            namespace: place.namespace().to_owned(),
            serviceaccount: reference(&account),
            pod: None,
            secret: None,
        };
        self.bind_token(place, &spec["boundObjectRef"], &mut bound)?;
        let now = Timestamp::now();
        let ends = now + SignedDuration::from_secs(seconds);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: format!("{SERVICE_ACCOUNT}{}:{}", place.namespace(), place.name()),
            aud: audiences.clone(),
            exp: ends.as_second(),
            iat: now.as_second(),
            nbf: now.as_second(),
            jti: Uuid::new_v4().to_string(),
            bound,
        };
        let token = self.tokens.sign(&claims).map_err(Failure::internal)?;
        (request["kind"], request["apiVersion"]) = (json!(KIND), json!(format!("{GROUP}/v1")));
        request["metadata"] =
            json!({"name": place.name(), "namespace": place.namespace(), "creationTimestamp": Time(now)});
        (request["spec"]["audiences"], request["spec"]["expirationSeconds"]) = (json!(audiences), json!(seconds));
        if !spec["boundObjectRef"].is_object() {
            request["spec"]["boundObjectRef"] = Value::Null;
        }
        request["status"] = json!({"token": token, "expirationTimestamp": Time(ends)});
        Ok(answer::json(StatusCode::CREATED, &request, &[]))
    }

    /// Adds what the token is to end with.
    fn bind_token(&self, place: &Place, wanted: &Value, bound: &mut Bound) -> Result<(), Failure> {
        let (resource, name) = match (wanted["kind"].as_str(), wanted["name"].as_str()) {
            (Some("Pod"), Some(name)) => ("pods", name),
            (Some("Secret"), Some(name)) => ("secrets", name),
            _ => return Ok(()),
        };
        let found = self.store.get(resource, place.namespace(), name);
        let found = found.ok_or_else(|| Failure::not_found("", resource, name))?;
        let it = reference(&found.value);
        if wanted["uid"].as_str().is_some_and(|uid| !uid.is_empty() && uid != it.uid) {
            let why = "the UID in the bound object reference is another than that of the object of this name";
            return Err(Failure::conflict("", "serviceaccounts", place.name(), why));
        }
        if resource == "secrets" {
            bound.secret = Some(it);
            return Ok(());
        }
        let runs_under = found.value["spec"]["serviceAccountName"].as_str().unwrap_or_default();
        if runs_under != place.name() {
            let why = format!("cannot bind a token of {} to pod {name}, which runs under {runs_under}", place.name());
            return Err(Failure::bad_request(why));
        }
        bound.pod = Some(it);
        Ok(())
    }

    /// Who shows a token to this API; None if it is not ours, or over.
    pub(crate) fn caller_of(&self, token: &str) -> Option<Caller> {
        self.holder(&self.tokens.read(token, &[ISSUER])?)
    }

    fn holder(&self, claims: &Claims) -> Option<Caller> {
        let Bound { namespace, serviceaccount, pod, secret } = &claims.bound;
        let is_there = |resource: &str, it: &Reference| {
            let found = self.store.get(resource, namespace, &it.name);
            found.is_some_and(|found| reference(&found.value) == *it && !is_long_gone(&found.value))
        };
        let all_there = is_there("serviceaccounts", serviceaccount)
            && pod.as_ref().is_none_or(|pod| is_there("pods", pod))
            && secret.as_ref().is_none_or(|secret| is_there("secrets", secret));
        let user = format!("{SERVICE_ACCOUNT}{namespace}:{}", serviceaccount.name);
        (all_there && claims.sub == user).then(|| Caller::Known { user, groups: groups_of_account(namespace) })
    }

    /// Whose a token is that somebody else was shown.
    pub(super) fn token_review(&self, spec: &Value) -> Value {
        let token = spec["token"].as_str().unwrap_or_default();
        let audiences: Vec<&str> =
            spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let audiences = if audiences.is_empty() { vec![ISSUER] } else { audiences };
        let known = self.tokens.read(token, &audiences).and_then(|claims| Some((self.holder(&claims)?, claims)));
        let Some((caller, claims)) = known else {
            return json!({"user": {}, "error": "the token is not of this cluster, or over"});
        };
        let shared: Vec<&String> =
            claims.aud.iter().filter(|audience| audiences.contains(&audience.as_str())).collect();
        let user =
            json!({"username": caller.user(), "uid": claims.bound.serviceaccount.uid, "groups": groups(&caller)});
        json!({"authenticated": true, "user": user, "audiences": shared})
    }
}

fn faults(seconds: i64, bound: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut invalid = |field: &str, message: String| {
        causes.push(Cause { reason: "FieldValueInvalid", field: format!("spec.{field}"), message });
    };
    if seconds < LEAST_SECONDS {
        let message = format!("Invalid value: {seconds}: may not specify a duration less than 10 minutes");
        invalid("expirationSeconds", message);
    } else if seconds > MOST_SECONDS {
        let message = format!("Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds");
        invalid("expirationSeconds", message);
    }
    let kind = (bound["apiVersion"].as_str().unwrap_or("v1"), bound["kind"].as_str());
    if bound.is_object() && !matches!(kind, ("v1", Some("Pod" | "Secret"))) {
        invalid("boundObjectRef", "cannot bind to it: a token is bound to a Pod or a Secret".to_owned());
    } else if bound.is_object() && bound["name"].as_str().is_none_or(str::is_empty) {
        invalid("boundObjectRef.name", "name what the token is bound to".to_owned());
    }
    causes
}

/// What waits for its finalizers may wait for ever.
fn is_long_gone(object: &Value) -> bool {
    let ends = object["metadata"]["deletionTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    ends.is_some_and(|ends| Timestamp::now() > ends + OUTLIVES)
}

fn reference(object: &Value) -> Reference {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Reference { name: text("name"), uid: text("uid") }
}
