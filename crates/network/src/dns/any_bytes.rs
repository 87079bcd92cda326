//! Whatever bytes come, as queries or as others' answers, DNS neither panics nor says what can't be read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::time::Instant;

use super::answer::{Reply, Via, answer};
use super::cache::{Cache, Key};
use super::layout::Layout;
use super::names::Names;
use crate::config::{Alias, DataPlaneConfig, Dns, Service};

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 45, 0, 7));

/// Clients over UDP take at least this much (RFC 1035, 2.3.4), and what fits on every path where they say so.
const LONGEST_DATAGRAM: usize = 1232;

fn names() -> &'static Names {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(|| {
        let named = |name: &str| ("default".to_owned(), name.to_owned());
        let ((namespace, name), (of, alias)) = (named("web"), named("shop"));
        let web = Service { namespace, name, addresses: vec![IP], answers: vec![IP], ..Service::default() };
        let shop = Alias {
            namespace: of,
            name: alias,
            target: "web.default.svc.cluster.local".to_owned(),
            addresses: Vec::new(),
        };
        let dns = Dns { domain: "cluster.local".to_owned(), ..Dns::default() };
        Names::new(&DataPlaneConfig {
            services: vec![Arc::new(web)],
            aliases: vec![shop],
            dns,
            ..DataPlaneConfig::default()
        })
    })
}

/// A query is answered with what can be read and fits, asked on, or passed over.
pub fn dns_queries(query: &[u8]) {
    for via in [Via::Datagram, Via::Stream] {
        let _ = Key::of(&[], query, via);
        let answered = match answer(names(), query, via) {
            // What others say may be anything too.
            Reply::AskOthers(question) => question.answered(Some(query.to_vec())),
            answered @ (Reply::Answer(_) | Reply::Ignore) => answered,
        };
        if let Reply::Answer(bytes) = answered
            && bytes != query
        {
            assert_eq!(bytes[..2], query[..2], "the query's number");
            assert!(Message::from_vec(&bytes).is_ok(), "{bytes:?} can't be read");
            assert!(via == Via::Stream || bytes.len() <= LONGEST_DATAGRAM, "{} bytes over UDP", bytes.len());
        }
    }
}

/// What is kept of an answer differs from it in TTLs alone.
pub fn dns_answers(answer: &[u8]) {
    const RESOLVER: SocketAddr = SocketAddr::new(IP, 53);
    let query = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x07example\x03com\0", &[0, 1, 0, 1]].concat();
    let (mut cache, now) = (Cache::default(), Instant::now());
    let Some(key) = Key::of(&[RESOLVER], &query, Via::Datagram) else { unreachable!("this is a query") };
    cache.keep(key.clone(), answer, now);
    for age in [Duration::ZERO, Duration::from_secs(1), Duration::from_hours(1)] {
        if let Some(kept) = cache.find(&key, now + age) {
            assert_eq!(kept.len(), answer.len());
            assert_eq!(Layout::of(&kept), Layout::of(answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A head with one question and few records, and anything after it.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let head = (any::<[u8; 4]>(), 0_u8..3, 0_u8..3, 0_u8..2);
        let names = prop_oneof![
            Just(&b"\x03web\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01"[..]),
            Just(&b"\x04shop\x07default\x03svc\x07cluster\x05local\0\0\x1c\0\x01"[..]),
            Just(&b"\x07example\x03com\0\0\x01\0\x01"[..]),
            Just(&b""[..]),
        ];
        (head, names, vec(any::<u8>(), 0..60)).prop_map(|((first, answers, authorities, more), name, rest)| {
            [&first[..], &[0, 1, 0, answers, 0, authorities, 0, more], name, &rest].concat()
        })
    }

    proptest! {
        #[test]
        fn any_message_is_answered_or_passed_over(message in messages()) {
            dns_queries(&message);
            dns_answers(&message);
        }
    }
}
