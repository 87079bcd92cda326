//! A query in, an answer out, as DNS writes them. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, Query, ResponseCode};
use hickory_proto::rr::rdata::{PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::names::{Known, Names};

/// Seconds an answer may be kept. Short: a headless Service's pods come and go.
const TIME_TO_LIVE: u32 = 5;
/// What fits into one packet on every path.
const LONGEST_DATAGRAM: u16 = 1232;

/// What to do about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Answer(Vec<u8>),
    /// It is about a name that others know.
    AskOthers,
    /// It is no query.
    Ignore,
}

/// How the query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Datagram,
    Stream,
}

/// Answers from what is known here.
pub(super) fn answer(names: &Names, query: &[u8], via: Via) -> Reply {
    let Ok(request) = Message::from_vec(query) else { return Reply::Ignore };
    if request.metadata.message_type != MessageType::Query {
        return Reply::Ignore;
    }
    let [question] = request.queries.as_slice() else {
        return written(&response(&request, ResponseCode::FormErr), &request, via);
    };
    match find(names, question) {
        Found::Records(records) => {
            let mut message = response(&request, ResponseCode::NoError);
            message.add_answers(records.into_iter().map(|data| record(question.name.clone(), data)));
            written(&message, &request, via)
        }
        Found::Nothing(code) => {
            let mut message = response(&request, code);
            message.add_authorities(start_of_authority(names));
            written(&message, &request, via)
        }
        Found::NotOurs => Reply::AskOthers,
    }
}

/// The answer when nobody could be asked.
pub(super) fn failure(query: &[u8], via: Via) -> Reply {
    match Message::from_vec(query) {
        Ok(request) => written(&response(&request, ResponseCode::ServFail), &request, via),
        Err(_) => Reply::Ignore,
    }
}

enum Found {
    Records(Vec<RData>),
    Nothing(ResponseCode),
    NotOurs,
}

fn find(names: &Names, question: &Query) -> Found {
    if question.query_class != DNSClass::IN {
        return Found::Nothing(ResponseCode::NotImp);
    }
    let back = question.name.parse_arpa_name().ok().map(|range| range.addr());
    if let Some(name) = back.and_then(|ip| names.find_reverse(ip)).filter(|_| question.query_type == RecordType::PTR) {
        return Name::from_ascii(name)
            .map_or(Found::Nothing(ResponseCode::ServFail), |name| Found::Records(vec![RData::PTR(PTR(name))]));
    }
    match names.find(&question.name.to_lowercase().to_ascii()) {
        Known::Addresses(addresses) => {
            let of_type = addresses.iter().filter(|ip| has_type(**ip, question.query_type));
            match of_type.map(|ip| RData::from(*ip)).collect::<Vec<_>>() {
                none if none.is_empty() => Found::Nothing(ResponseCode::NoError),
                records => Found::Records(records),
            }
        }
        Known::Empty => Found::Nothing(ResponseCode::NoError),
        Known::NoSuchName => Found::Nothing(ResponseCode::NXDomain),
        Known::NotOurs => Found::NotOurs,
    }
}

fn has_type(ip: IpAddr, asked: RecordType) -> bool {
    match ip {
        IpAddr::V4(_) => asked == RecordType::A || asked == RecordType::ANY,
        IpAddr::V6(_) => asked == RecordType::AAAA || asked == RecordType::ANY,
    }
}

fn response(request: &Message, code: ResponseCode) -> Message {
    let mut message = Message::query();
    message.metadata = Metadata::response_from_request(&request.metadata);
    message.metadata.response_code = code;
    message.metadata.authoritative = true;
    message.metadata.recursion_available = true;
    message.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LONGEST_DATAGRAM);
        message.set_edns(edns);
    }
    message
}

fn record(name: Name, data: RData) -> Record {
    Record::from_rdata(name, TIME_TO_LIVE, data)
}

/// Lets a resolver keep a negative answer for as long as a positive one.
fn start_of_authority(names: &Names) -> Option<Record> {
    let domain = Name::from_ascii(names.domain()).ok()?;
    let server = Name::from_ascii(format!("ns.dns.{}", names.domain())).ok()?;
    let contact = Name::from_ascii(format!("hostmaster.{}", names.domain())).ok()?;
    let soa = SOA::new(server, contact, 1, 7200, 1800, 86_400, TIME_TO_LIVE);
    Some(record(domain, RData::SOA(soa)))
}

fn written(message: &Message, request: &Message, via: Via) -> Reply {
    let Ok(bytes) = message.to_vec() else { return Reply::Ignore };
    let fits = via == Via::Stream || bytes.len() <= usize::from(request.max_payload().min(LONGEST_DATAGRAM));
    if fits {
        return Reply::Answer(bytes);
    }
    message.truncate().to_vec().map_or(Reply::Ignore, Reply::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Affinity, DataPlaneConfig, Dns, Service};

    fn names(pods: u8) -> Names {
        let pod = |index: u8| IpAddr::from([10, 44, 0, index]);
        let service = |name: &str, addresses: Vec<IpAddr>, answers: Vec<IpAddr>| Service {
            namespace: "production".to_owned(),
            name: name.to_owned(),
            addresses,
            answers,
            affinity: Affinity::None,
            ports: Vec::new(),
        };
        let address = IpAddr::from([10, 45, 0, 7]);
        Names::new(&DataPlaneConfig {
            services: vec![
                service("demo-app", vec![address], vec![address]),
                service("db", Vec::new(), (1..=pods).map(pod).collect()),
            ],
            dns: Dns { domain: "cluster.local".to_owned(), ..Dns::default() },
            ..DataPlaneConfig::default()
        })
    }

    fn ask(name: &str, kind: RecordType, via: Via) -> Message {
        let Reply::Answer(bytes) = answer(&names(100), &query(name, kind), via) else { panic!("{name}: no answer") };
        Message::from_vec(&bytes).unwrap()
    }

    fn query(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 4711;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    #[test]
    fn a_service_is_found_in_any_case() {
        let message = ask("Demo-App.production.SVC.cluster.local.", RecordType::A, Via::Datagram);
        assert_eq!(message.metadata.id, 4711);
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        let data: Vec<_> = message.answers.iter().map(|answer| answer.data.to_string()).collect();
        assert_eq!(data, ["10.45.0.7"]);
    }

    #[test]
    fn a_name_without_such_records_is_empty_and_a_missing_one_is_missing() {
        for (name, kind, code) in [
            ("demo-app.production.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError),
            ("production.svc.cluster.local.", RecordType::A, ResponseCode::NoError),
            ("other.production.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ] {
            let message = ask(name, kind, Via::Datagram);
            assert_eq!((message.metadata.response_code, message.answers.len()), (code, 0), "{name}");
            assert_eq!(message.authorities.len(), 1, "says how long the answer may be kept");
        }
    }

    #[test]
    fn an_address_leads_back_to_its_name() {
        let message = ask("7.0.45.10.in-addr.arpa.", RecordType::PTR, Via::Datagram);
        assert_eq!(message.answers[0].data.to_string(), "demo-app.production.svc.cluster.local.");
    }

    #[test]
    fn an_answer_that_is_too_long_for_a_datagram_is_asked_for_again_over_a_stream() {
        let name = "db.production.svc.cluster.local.";
        let short = ask(name, RecordType::A, Via::Datagram);
        assert!(short.metadata.truncation && short.answers.is_empty());
        assert_eq!(ask(name, RecordType::A, Via::Stream).answers.len(), 100);
    }

    #[test]
    fn others_are_asked_for_other_names() {
        for name in ["example.com.", "1.2.3.4.in-addr.arpa."] {
            assert_eq!(answer(&names(1), &query(name, RecordType::A), Via::Datagram), Reply::AskOthers);
        }
    }

    #[test]
    fn what_is_no_query_is_ignored() {
        for bytes in [&b"hello"[..], &[], &[0xff; 40]] {
            assert_eq!(answer(&names(1), bytes, Via::Datagram), Reply::Ignore);
        }
    }
}
