//! One port of one Service, and the choice among its endpoints.

use std::borrow::Cow;
use std::cell::Cell;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use decide::balancing::{EndpointState, pick, pick_for_client};
use decide::network_policy::{Policies, Protocol, Reach};

use super::{InFlight, NoPick, Work};
use crate::config::{Affinity, ProxyProtocol, Speaks};
use crate::proxy::caller::Caller;
use crate::proxy::counts::Series;
use crate::proxy::retry_budget::RetryBudget;
use crate::proxy::upstream::Upstream;

pub(super) struct Port {
    pub(super) speaks: Speaks,
    pub(super) affinity: Affinity,
    pub(super) sticky_cookie: Option<Arc<str>>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) max_request_body: Option<u64>,
    pub(super) service: Arc<str>,
    pub(super) states: Vec<EndpointState>,
    /// Those of other machines come as often as they have pods.
    pub(super) upstreams: Vec<Arc<Upstream>>,
    /// How often each comes.
    pub(super) shares: Vec<u32>,
    /// Counts with each of `upstreams`, and of what concerns none of them.
    pub(super) counts: Vec<Arc<Series>>,
    pub(super) own_counts: Arc<Series>,
    pub(super) retries: Arc<RetryBudget>,
    /// Whether some endpoint is isolated, so that policies are asked whatever the client is.
    pub(super) is_isolated: bool,
}

impl Port {
    pub(super) fn pick(&self, states: &[EndpointState], client: IpAddr) -> Option<usize> {
        match self.affinity {
            Affinity::None => pick(states, &|index| self.outstanding(index), random()),
            Affinity::ClientIp => {
                pick_for_client(states, &|index| weight(client.to_canonical(), self.upstreams[index].address))
            }
        }
    }

    /// Work in flight at one pod, on average.
    fn outstanding(&self, index: usize) -> u32 {
        self.upstreams[index].pod.outstanding() / self.shares[index]
    }

    pub(super) fn count(&self, index: usize, work: Work) -> InFlight {
        InFlight::count(self.upstreams[index].clone(), self.counts[index].clone(), work)
    }

    /// Its endpoints as they are for a caller: what policies forbid it is as good as withdrawn.
    pub(super) fn states_for(&self, caller: Caller, policies: &Policies) -> Result<Cow<'_, [EndpointState]>, NoPick> {
        let all = if caller.is_machine() && self.upstreams.iter().any(|it| it.is_elsewhere()) {
            // What came from one machine goes to no other.
            Cow::Owned(self.states_without(&self.states, Upstream::is_elsewhere))
        } else {
            Cow::Borrowed(&self.states[..])
        };
        let Some(reach) = self.reach(caller, policies) else { return Ok(all) };
        let states = self.states_without(&all, |upstream| !is_within(&reach, upstream));
        let has_any = |states: &[EndpointState]| states.iter().any(|state| *state != EndpointState::Withdrawn);
        if has_any(&all) && !has_any(&states) || self.is_forbidden_here(&reach) {
            return Err(NoPick::Forbidden);
        }
        Ok(Cow::Owned(states))
    }

    /// Whether no pod here may be reached, though there are some: what is forbidden here is not to be had elsewhere.
    fn is_forbidden_here(&self, reach: &Reach<'_>) -> bool {
        let mut here = self.upstreams.iter().filter(|upstream| !upstream.is_elsewhere()).peekable();
        here.peek().is_some() && !here.any(|upstream| is_within(reach, upstream))
    }

    /// Whether policies let the caller reach an endpoint.
    pub(super) fn is_open_to(&self, caller: Caller, policies: &Policies, index: usize) -> bool {
        let upstream = &self.upstreams[index];
        let is_passed_on = caller.is_machine() && upstream.is_elsewhere();
        let is_open = |reach: &Reach<'_>| is_within(reach, upstream) && !self.is_forbidden_here(reach);
        !is_passed_on && self.reach(caller, policies).is_none_or(|reach| is_open(&reach))
    }

    /// None where no policy has a say.
    fn reach<'p>(&self, caller: Caller, policies: &'p Policies) -> Option<Reach<'p>> {
        let (Caller::Elsewhere(client) | Caller::Machine(client)) = caller else { return None };
        (self.is_isolated || policies.isolates_sender(client)).then(|| policies.reach(client))
    }

    pub(super) fn states_without(
        &self,
        states: &[EndpointState],
        is_out: impl Fn(&Upstream) -> bool,
    ) -> Vec<EndpointState> {
        let states = self.upstreams.iter().zip(states);
        states.map(|(upstream, state)| if is_out(upstream) { EndpointState::Withdrawn } else { *state }).collect()
    }
}

fn is_within(reach: &Reach<'_>, upstream: &Upstream) -> bool {
    reach.allows(upstream.address.ip(), Protocol::Tcp, upstream.address.port())
}

/// The weight that an endpoint has for a client: the same in every proxy and after every restart of one.
fn weight(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (client, endpoint).hash(&mut hasher);
    hasher.finish()
}

/// Two random numbers, good enough to spread load.
pub(super) fn random() -> [u32; 2] {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
    }
    STATE.with(|state| {
        let mut bits = state.get();
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        state.set(bits);
        [(bits >> 32) as u32, bits as u32]
    })
}
