//! How many requests from outside are worked on at once: more would only take memory and wait for each other. Whoever is
//! beyond that is told to try again. What goes on by its nature (watches, logs, streams into pods) does not count.

use std::sync::Arc;

use http::Request;
use objects::status::Failure;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::apiserver;

/// The API server's defaults (`--max-requests-inflight`, `--max-mutating-requests-inflight`).
const READS: usize = 400;
const WRITES: usize = 200;

/// Clients try again after so long; the API server's number.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Who is worked on. Clones share the count.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

/// A place, for as long as it is held; none is needed by what does not count.
pub(crate) type Place = Option<OwnedSemaphorePermit>;

impl InFlight {
    pub(crate) fn new() -> Self {
        Self { reads: Arc::new(Semaphore::new(READS)), writes: Arc::new(Semaphore::new(WRITES)) }
    }

    /// A place for the request.
    ///
    /// # Errors
    /// What to answer when there is none.
    pub(crate) fn admit<B>(&self, request: &Request<B>) -> Result<Place, Failure> {
        if apiserver::goes_on(request.method(), request.uri()) {
            return Ok(None);
        }
        let places = if request.method().is_safe() { &self.reads } else { &self.writes };
        let place = Arc::clone(places).try_acquire_owned();
        let refused = |_| Failure::too_many_requests("Too many requests, please try again later.", RETRY_AFTER_SECONDS);
        place.map(Some).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn request(method: Method, path: &str) -> Request<()> {
        Request::builder().method(method).uri(path).body(()).unwrap()
    }

    #[test]
    fn who_is_beyond_the_limit_is_told_to_try_again_and_watches_go_on() {
        let in_flight = InFlight::new();
        let path = "/api/v1/namespaces/shop/configmaps";
        let admit = |method: Method, path: &str| in_flight.admit(&request(method, path));
        let mut held: Vec<Place> = (0..WRITES).map(|_| admit(Method::POST, path).unwrap()).collect();
        let refused = admit(Method::DELETE, path).unwrap_err();
        assert_eq!((refused.code, refused.reason), (429, "TooManyRequests"));
        assert!(admit(Method::GET, path).is_ok(), "reads have places of their own");
        held.pop();
        let one = format!("{path}/one");
        let last = admit(Method::PUT, &one).unwrap();
        assert!(last.is_some() && admit(Method::PUT, path).is_err());

        let reads: Vec<Place> = (0..READS).map(|_| admit(Method::GET, path).unwrap()).collect();
        assert!(admit(Method::GET, path).is_err());
        for (method, goes_on) in [
            (Method::GET, format!("{path}?watch=true")),
            (Method::GET, "/api/v1/namespaces/shop/pods/web/log?follow=true".to_owned()),
            (Method::POST, "/api/v1/namespaces/shop/pods/web/exec?command=sh".to_owned()),
        ] {
            assert!(admit(method, &goes_on).unwrap().is_none(), "{goes_on}");
        }
        for (method, counts) in [
            (Method::POST, format!("{path}?watch=true")),
            (Method::PUT, format!("{path}/log")),
            (Method::GET, "/api/v1/namespaces/shop/pods/web/log".to_owned()),
        ] {
            assert!(admit(method, &counts).is_err(), "{counts}");
        }
        drop(reads);
    }
}
