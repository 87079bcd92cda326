use std::net::IpAddr;

use hickory_proto::rr::rdata::A;

use super::*;
use crate::config::Service;
use crate::dns::names::tests::config;

/// The Services of `config` and one with 100 pods.
fn names() -> Names {
    let mut config = config();
    config.services.push(std::sync::Arc::new(Service {
        namespace: "production".to_owned(),
        name: "many".to_owned(),
        answers: (1..=100).map(|index| IpAddr::from([10, 44, 2, index])).collect(),
        ..Service::default()
    }));
    Names::new(&config)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4700;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn reply(message: &Message, via: Via) -> Reply {
    answer(&names(), &message.to_vec().unwrap(), via)
}

fn read(reply: Reply) -> Message {
    let Reply::Answer(bytes) = reply else { panic!("no answer: {reply:?}") };
    Message::from_vec(&bytes).unwrap()
}

fn ask(name: &str, kind: RecordType) -> Message {
    read(reply(&query(name, kind), Via::Datagram))
}

fn shown(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| format!("{} {} {}", record.name, record.record_type(), record.data)).collect()
}

#[test]
fn a_service_is_found_in_any_case_and_called_as_the_client_does() {
    let message = ask("Demo-App.production.SVC.cluster.local.", RecordType::A);
    assert_eq!((message.metadata.id, message.metadata.authoritative), (4700, true));
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert_eq!(shown(&message.answers), ["Demo-App.production.SVC.cluster.local. A 10.45.0.7"]);
}

#[test]
fn a_name_without_such_records_is_empty_and_a_missing_one_is_missing() {
    let zone = "cluster.local.";
    for (name, kind, code, zone) in [
        ("demo-app.production.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError, zone),
        ("demo-app.production.svc.cluster.local.", RecordType::SRV, ResponseCode::NoError, zone),
        ("_http._tcp.demo-app.production.svc.cluster.local.", RecordType::A, ResponseCode::NoError, zone),
        ("_tcp.demo-app.production.svc.cluster.local.", RecordType::SRV, ResponseCode::NoError, zone),
        ("production.svc.cluster.local.", RecordType::A, ResponseCode::NoError, zone),
        ("cluster.local.", RecordType::A, ResponseCode::NoError, zone),
        ("other.production.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain, zone),
        ("nobody.production.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain, zone),
        ("lost.outside.svc.cluster.local.", RecordType::CAA, ResponseCode::NXDomain, zone),
        ("7.0.45.10.in-addr.arpa.", RecordType::A, ResponseCode::NoError, "0.45.10.in-addr.arpa."),
        ("8.0.45.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain, "0.45.10.in-addr.arpa."),
        ("8.0.44.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain, "44.10.in-addr.arpa."),
        ("0.44.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NoError, "44.10.in-addr.arpa."),
    ] {
        let message = ask(name, kind);
        assert_eq!(message.metadata.response_code, code, "{name} {kind}");
        let [soa] = message.authorities.as_slice() else { panic!("{name} {kind}: {message}") };
        assert_eq!((soa.record_type(), soa.name.to_string().as_str()), (RecordType::SOA, zone), "{name} {kind}");
        assert!(message.answers.iter().all(|record| record.record_type() == RecordType::CNAME), "{name} {kind}");
    }
}

#[test]
fn the_domain_says_what_may_be_kept_of_it() {
    assert_eq!(ask("cluster.local.", RecordType::SOA).answers.len(), 1);
}

#[test]
fn a_port_comes_with_the_addresses_of_its_endpoints() {
    let message = ask("_sql._tcp.db.production.svc.cluster.local.", RecordType::SRV);
    assert_eq!(message.answers.len(), 3);
    let mut addresses = shown(&message.additionals);
    addresses.sort();
    assert_eq!(
        addresses,
        [
            "10-44-0-6.db.production.svc.cluster.local. A 10.44.0.6",
            "10-44-0-7.db.production.svc.cluster.local. A 10.44.0.7",
            "DB-0.db.production.svc.cluster.local. A 10.44.0.5",
        ]
    );
}

#[test]
fn clients_begin_with_different_pods() {
    let first = |id: u16| {
        let mut query = query("db.production.svc.cluster.local.", RecordType::A);
        query.metadata.id = id;
        read(reply(&query, Via::Datagram)).answers[0].data.to_string()
    };
    assert_eq!([first(0), first(1), first(2), first(3)], ["10.44.0.5", "10.44.0.6", "10.44.0.7", "10.44.0.5"]);
}

#[test]
fn an_address_leads_back_to_its_name() {
    let message = ask("7.0.45.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(message.answers[0].data.to_string(), "demo-app.production.svc.cluster.local.");
}

#[test]
fn an_answer_that_is_too_long_for_a_datagram_is_asked_for_again_over_a_stream() {
    let query = query("many.production.svc.cluster.local.", RecordType::A);
    let short = read(reply(&query, Via::Datagram));
    assert!(short.metadata.truncation && short.answers.is_empty());
    assert_eq!(read(reply(&query, Via::Stream)).answers.len(), 100);
}

#[test]
fn an_alias_of_a_name_of_ours_is_followed_here() {
    let message = ask("near.outside.svc.cluster.local.", RecordType::A);
    assert_eq!(
        shown(&message.answers),
        [
            "near.outside.svc.cluster.local. CNAME DEMO-app.production.svc.cluster.local.",
            "DEMO-app.production.svc.cluster.local. A 10.45.0.7",
        ]
    );
    let alone = ask("near.outside.svc.cluster.local.", RecordType::CNAME);
    assert_eq!(alone.answers.len(), 1);
    assert_eq!(ask("circle.outside.svc.cluster.local.", RecordType::A).metadata.response_code, ResponseCode::ServFail);
}

/// What others answer about `shop.example.com`.
fn theirs(code: ResponseCode) -> Message {
    let mut theirs = query("shop.example.com.", RecordType::A).into_response();
    theirs.metadata.response_code = code;
    theirs
}

fn question(name: &str) -> Question {
    let Reply::AskOthers(question) = reply(&query(name, RecordType::A), Via::Datagram) else {
        panic!("{name} is not known here");
    };
    *question
}

#[test]
fn others_are_asked_for_the_target_of_an_alias() {
    for (name, aliases) in [("shop.outside.svc.cluster.local.", 1), ("far.outside.svc.cluster.local.", 2)] {
        let question = question(name);
        let asked = Message::from_vec(question.bytes()).unwrap();
        assert_eq!(asked.queries, query("shop.example.com.", RecordType::A).queries);
        assert!(asked.metadata.recursion_desired);

        let mut found = theirs(ResponseCode::NoError);
        let address = RData::A(A::new(192, 0, 2, 1));
        found.add_answer(Record::from_rdata(asked.queries[0].name.clone(), 77, address));
        let message = read(question.clone().answered(Some(found.to_vec().unwrap())));
        assert_eq!((message.metadata.id, message.metadata.response_code), (4700, ResponseCode::NoError));
        assert_eq!(message.queries[0].name.to_string(), name);
        assert_eq!(message.answers.len(), aliases + 1);
        let last = message.answers.last().unwrap();
        assert_eq!((last.name.to_string().as_str(), last.ttl), ("shop.example.com.", 77));

        let missing = theirs(ResponseCode::NXDomain).to_vec().unwrap();
        let message = read(question.clone().answered(Some(missing)));
        assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::NXDomain, aliases));
        for failed in [None, Some(b"hello".to_vec())] {
            let message = read(question.clone().answered(failed));
            assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::ServFail, 0));
        }
    }
}

#[test]
fn others_are_asked_for_other_names_with_the_clients_own_words() {
    for name in ["Example.com.", "1.2.3.4.in-addr.arpa.", "1.16.45.10.in-addr.arpa."] {
        let question = question(name);
        assert_eq!(question.bytes(), query(name, RecordType::A).to_vec().unwrap());
        assert!(matches!(question.answered(Some(b"anything".to_vec())), Reply::Answer(bytes) if bytes == b"anything"));
    }
}

#[test]
fn what_is_no_query_is_ignored_and_what_is_no_question_refused() {
    for bytes in [&b"hello"[..], &[], &[0xff; 40]] {
        assert!(matches!(answer(&names(), bytes, Via::Datagram), Reply::Ignore));
    }
    let mut update = query("demo-app.production.svc.cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(read(reply(&update, Via::Datagram)).metadata.response_code, ResponseCode::NotImp);
    update.queries.clear();
    assert_eq!(read(reply(&update, Via::Datagram)).metadata.response_code, ResponseCode::FormErr);
}
