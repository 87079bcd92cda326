//! A query in, an answer out, as DNS writes them. Pure.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::names::{Known, Names, start_of_authority};

/// Seconds an answer may be kept. Short: a headless Service's pods come and go.
pub(super) const TIME_TO_LIVE: u32 = 5;
/// What fits into one packet on every path.
const LONGEST_DATAGRAM: u16 = 1232;
/// Names that are followed from one to the next; Services may stand for each other in a circle.
const MOST_ALIASES: usize = 8;

/// What to do about a query.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Answer(Vec<u8>),
    /// It is about a name that others know.
    AskOthers(Box<Question>),
    /// It is no query.
    Ignore,
}

/// How the query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    let [question] = request.queries.as_slice() else { return refusal(&request, ResponseCode::FormErr, via) };
    if request.metadata.op_code != OpCode::Query || question.query_class != DNSClass::IN {
        return refusal(&request, ResponseCode::NotImp, via);
    }
    let mut message = response(&request, ResponseCode::NoError);
    message.metadata.authoritative = true;
    let mut name = question.name.clone();
    loop {
        match find(names, &name, question.query_type) {
            Found::Records(records) => {
                let turn = usize::from(request.metadata.id) % records.len();
                let turned = records[turn..].iter().chain(&records[..turn]);
                message.add_answers(turned.map(|data| record(&name, (*data).clone())));
                message.add_additionals(records.iter().flat_map(|data| addresses_of_target(names, data)));
                return written(message, &request, via);
            }
            Found::Alias(_) if message.answers.len() == MOST_ALIASES => {
                return refusal(&request, ResponseCode::ServFail, via);
            }
            Found::Alias(target) => {
                message.add_answer(record(&name, RData::CNAME(CNAME(target.clone()))));
                name = target.clone();
            }
            Found::Nothing { code, zone } => {
                message.metadata.response_code = code;
                message.add_authorities(start_of_authority(&zone).map(|soa| record(&zone, soa)));
                return written(message, &request, via);
            }
            Found::NotOurs if message.answers.is_empty() => {
                return Reply::AskOthers(Box::new(Question { bytes: query.to_vec(), request, aliases: None, via }));
            }
            Found::NotOurs => {
                return following(message, request, &name, via);
            }
        }
    }
}

/// A question that others are asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    bytes: Vec<u8>,
    request: Message,
    /// The answer as far as it is known here, when it is about the last of these aliases' target.
    aliases: Option<Message>,
    via: Via,
}

impl Question {
    /// The query to send.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn via(&self) -> Via {
        self.via
    }

    /// What the client is answered, from what the others did.
    pub(super) fn answered(self, theirs: Option<Vec<u8>>) -> Reply {
        let failure = refusal(&self.request, ResponseCode::ServFail, self.via);
        let Some(theirs) = theirs else { return failure };
        let Some(mut message) = self.aliases else { return Reply::Answer(theirs) };
        let Ok(theirs) = Message::from_vec(&theirs) else { return failure };
        message.metadata.response_code = theirs.metadata.response_code;
        message.metadata.truncation = theirs.metadata.truncation;
        message.add_answers(theirs.answers);
        message.add_authorities(theirs.authorities);
        written(message, &self.request, self.via)
    }
}

/// The question that is left when a name of ours stands for one that others know.
fn following(message: Message, request: Message, target: &Name, via: Via) -> Reply {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.metadata.checking_disabled = request.metadata.checking_disabled;
    query.add_queries(request.queries.iter().map(|asked| Query::query(target.clone(), asked.query_type)));
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(request.max_payload().min(LONGEST_DATAGRAM));
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        query.set_edns(edns);
    }
    match query.to_vec() {
        Ok(bytes) => Reply::AskOthers(Box::new(Question { bytes, request, aliases: Some(message), via })),
        Err(_) => refusal(&request, ResponseCode::ServFail, via),
    }
}

enum Found<'a> {
    /// At least one.
    Records(Vec<&'a RData>),
    Alias(&'a Name),
    Nothing {
        code: ResponseCode,
        zone: Name,
    },
    NotOurs,
}

fn find<'a>(names: &'a Names, name: &Name, asked: RecordType) -> Found<'a> {
    let (records, code) = match names.find(name) {
        Known::Records(records) => (records, ResponseCode::NoError),
        Known::Empty => (&[][..], ResponseCode::NoError),
        Known::NoSuchName => (&[][..], ResponseCode::NXDomain),
    };
    let is_asked_for = |data: &&RData| asked == RecordType::ANY || data.record_type() == asked;
    let of_type: Vec<_> = records.iter().filter(is_asked_for).collect();
    if !of_type.is_empty() {
        return Found::Records(of_type);
    }
    if let [RData::CNAME(alias)] = records {
        return Found::Alias(&alias.0);
    }
    match names.zone_of(name) {
        Some(zone) => Found::Nothing { code, zone },
        None => Found::NotOurs,
    }
}

/// What a client would ask for next.
fn addresses_of_target(names: &Names, data: &RData) -> Vec<Record> {
    let RData::SRV(service) = data else { return Vec::new() };
    let Known::Records(records) = names.find(&service.target) else { return Vec::new() };
    let addresses = records.iter().filter(|data| data.ip_addr().is_some());
    addresses.map(|data| record(&service.target, data.clone())).collect()
}

fn response(request: &Message, code: ResponseCode) -> Message {
    let mut message = Message::query();
    message.metadata = Metadata::response_from_request(&request.metadata);
    message.metadata.response_code = code;
    message.metadata.recursion_available = true;
    message.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LONGEST_DATAGRAM);
        message.set_edns(edns);
    }
    message
}

fn refusal(request: &Message, code: ResponseCode, via: Via) -> Reply {
    written(response(request, code), request, via)
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TIME_TO_LIVE, data)
}

/// What does not fit into a datagram is left out: first what nobody asked for, then everything.
fn written(mut message: Message, request: &Message, via: Via) -> Reply {
    let longest = match via {
        Via::Datagram => request.max_payload().min(LONGEST_DATAGRAM),
        Via::Stream => u16::MAX,
    };
    let fits = |bytes: &Vec<u8>| bytes.len() <= longest.into();
    let Ok(whole) = message.to_vec() else { return Reply::Ignore };
    if fits(&whole) {
        return Reply::Answer(whole);
    }
    message.additionals.clear();
    match message.to_vec() {
        Ok(bytes) if fits(&bytes) => Reply::Answer(bytes),
        Ok(_) | Err(_) => message.truncate().to_vec().map_or(Reply::Ignore, Reply::Answer),
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
