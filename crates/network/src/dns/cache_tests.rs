use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, CNAME, NS, SOA as Soa};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;

const RESOLVER: [SocketAddr; 1] = [SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 53)];

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(id: u16, text: &str) -> Message {
    let mut message = Message::query();
    message.metadata.id = id;
    message.add_query(Query::query(name(text), RecordType::A));
    message
}

fn key(message: &Message) -> Option<Key> {
    Key::of(&RESOLVER, &message.to_vec().unwrap(), Via::Datagram)
}

fn address(ttl: u32) -> Record {
    Record::from_rdata(name("example.com."), ttl, RData::A(A::new(192, 0, 2, 1)))
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let soa = Soa::new(name("ns.com."), name("admin.com."), 1, 7200, 1800, 86_400, minimum);
    Record::from_rdata(name("com."), ttl, RData::SOA(soa))
}

fn response(code: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Message {
    let mut message = query(7, "example.com.").into_response();
    message.metadata.response_code = code;
    message.add_answers(answers);
    message.add_authorities(authorities);
    message.set_edns(Edns::new());
    message
}

#[test]
fn an_answer_is_kept_for_as_long_as_it_says_within_bounds() {
    let alias = || Record::from_rdata(name("example.com."), 50, RData::CNAME(CNAME(name("example.org."))));
    let referral = Record::from_rdata(name("com."), 300, RData::NS(NS(name("ns.com."))));
    let mut cut_off = response(ResponseCode::NoError, vec![address(300)], Vec::new());
    cut_off.metadata.truncation = true;
    let (found, missing) = (ResponseCode::NoError, ResponseCode::NXDomain);
    for (what, message, seconds) in [
        ("smallest TTL", response(found, vec![address(300), address(60)], Vec::new()), Some(60)),
        ("of every section", response(found, vec![address(300)], vec![soa(20, 1)]), Some(20)),
        ("an hour at most", response(found, vec![address(86_400)], Vec::new()), Some(3600)),
        ("not to be kept", response(found, vec![address(0)], Vec::new()), None),
        ("no such name", response(missing, Vec::new(), vec![soa(300, 9)]), Some(9)),
        ("no such name, SOA's TTL", response(missing, Vec::new(), vec![soa(8, 900)]), Some(8)),
        ("no such record", response(found, Vec::new(), vec![soa(300, 10)]), Some(10)),
        ("half a minute at most", response(missing, Vec::new(), vec![soa(3600, 3600)]), Some(30)),
        ("alias of what is missing", response(missing, vec![alias()], vec![soa(300, 300)]), Some(30)),
        ("no such name, nobody says for how long", response(missing, Vec::new(), Vec::new()), None),
        ("alias only", response(found, vec![alias()], Vec::new()), None),
        ("referral", response(found, Vec::new(), vec![referral]), None),
        ("failure", response(ResponseCode::ServFail, Vec::new(), vec![soa(300, 300)]), None),
        ("refused", response(ResponseCode::Refused, vec![address(300)], Vec::new()), None),
        ("cut off", cut_off, None),
        ("failure that EDNS tells of", response(ResponseCode::BADVERS, vec![address(300)], Vec::new()), None),
    ] {
        let bytes = message.to_vec().unwrap();
        let lifetime = lifetime(&bytes, &Layout::of(&bytes).unwrap());
        assert_eq!(lifetime, seconds.map(Duration::from_secs), "{what}");
    }
}

#[test]
fn queries_are_one_when_only_number_and_case_differ() {
    let first = key(&query(1, "example.com.")).unwrap();
    assert_eq!(key(&query(2, "EXAMPLE.com.")), Some(first.clone()));
    let mut with_edns = query(1, "example.com.");
    with_edns.set_edns(Edns::new());
    let mut secure = with_edns.clone();
    secure.edns.as_mut().unwrap().set_dnssec_ok(true);
    let mut unchecked = query(1, "example.com.");
    unchecked.metadata.checking_disabled = true;
    // Their numbers differ as the cases of a letter do: 0x41 and 0x61.
    let of_types = [RecordType::HTTPS, RecordType::from(97)].map(|kind| {
        let mut message = query(1, "example.com.");
        message.queries[0].query_type = kind;
        message
    });
    let others = [query(1, "example.org."), with_edns, secure, unchecked].into_iter().chain(of_types);
    let keys: Vec<_> = std::iter::once(first.clone()).chain(others.map(|message| key(&message).unwrap())).collect();
    let different: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(different.len(), keys.len());
    let bytes = query(1, "example.com.").to_vec().unwrap();
    assert_ne!(Key::of(&RESOLVER, &bytes, Via::Stream), Some(first.clone()), "a datagram's answer may be cut off");
    assert_ne!(Key::of(&[], &bytes, Via::Datagram), Some(first), "other resolvers may say something else");
}

#[test]
fn a_query_with_options_is_its_clients_own() {
    let mut with_cookie = query(1, "example.com.");
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
    with_cookie.set_edns(edns);
    assert_eq!(key(&with_cookie), None);
}

#[test]
fn ttls_count_down_until_the_answer_is_forgotten() {
    let mut cache = Cache::default();
    let (key, start) = (key(&query(1, "example.com.")).unwrap(), Instant::now());
    let answer = response(ResponseCode::NoError, vec![address(300), address(60)], Vec::new());
    cache.keep(key.clone(), &answer.to_vec().unwrap(), start);
    let after = |seconds: u64| {
        let found = cache.find(&key, start + Duration::from_secs(seconds))?;
        let message = Message::from_vec(&found).unwrap();
        assert_eq!(message.edns, answer.edns, "EDNS has flags where others have a TTL");
        Some(message.answers.iter().map(|record| record.ttl).collect::<Vec<_>>())
    };
    assert_eq!(after(0), Some(vec![300, 60]));
    assert_eq!(after(59), Some(vec![241, 1]));
    assert_eq!(after(60), None);
}

#[test]
fn what_would_be_forgotten_first_makes_room() {
    let mut cache = Cache::default();
    let start = Instant::now();
    let number = |index: usize| key(&query(1, &format!("n{index}.example.com."))).unwrap();
    let keep = |cache: &mut Cache, index: usize, ttl: u32, now: Instant| {
        let answer = response(ResponseCode::NoError, vec![address(ttl)], Vec::new());
        cache.keep(number(index), &answer.to_vec().unwrap(), now);
    };
    keep(&mut cache, 0, 10, start);
    (1..MOST_KEPT).for_each(|index| keep(&mut cache, index, 100, start));
    keep(&mut cache, MOST_KEPT, 100, start);
    let is_kept = |cache: &Cache, index: usize| cache.find(&number(index), start).is_some();
    assert!(!is_kept(&cache, 0) && is_kept(&cache, 1) && is_kept(&cache, MOST_KEPT));
    assert_eq!(cache.kept.len(), MOST_KEPT);
    keep(&mut cache, MOST_KEPT + 1, 100, start + Duration::from_secs(200));
    assert_eq!(cache.kept.len(), 1, "what is out of date goes first");

    let large = (0..200).map(|_| address(300)).collect();
    cache.keep(number(7), &response(ResponseCode::NoError, large, Vec::new()).to_vec().unwrap(), start);
    assert!(!is_kept(&cache, 7), "what is large is not kept");
}
