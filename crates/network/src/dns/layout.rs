//! Where the parts of a DNS message are, so that what others say can be passed on as it is, whatever they say. Pure.

use std::ops::Range;

const HEADER: usize = 12;
/// In a question: type and class.
const AFTER_NAME: usize = 4;
/// In a record: type, class, TTL and length of its data.
const BEFORE_DATA: usize = 10;
const OPT: u16 = 41;
const QUESTIONS_AT: usize = 4;

/// The parts of a message that asks one question, or answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Name, type and class.
    pub(super) question: Range<usize>,
    pub(super) records: Vec<RecordAt>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordAt {
    pub(super) section: Section,
    pub(super) kind: u16,
    pub(super) ttl_at: usize,
    pub(super) data: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

impl Layout {
    /// None for what is no such message.
    pub(super) fn of(message: &[u8]) -> Option<Self> {
        if u16_at(message, QUESTIONS_AT)? != 1 {
            return None;
        }
        let question = HEADER..name_end(message, HEADER)? + AFTER_NAME;
        let mut records = Vec::new();
        let mut at = question.end;
        for (count_at, section) in [(6, Section::Answer), (8, Section::Authority), (10, Section::Additional)] {
            for _ in 0..u16_at(message, count_at)? {
                let record = record_at(message, at, section)?;
                at = record.data.end;
                records.push(record);
            }
        }
        message.get(question.clone())?;
        Some(Self { question, records })
    }

    /// The name that is asked for.
    pub(super) fn name(&self) -> Range<usize> {
        self.question.start..self.question.end - AFTER_NAME
    }

    /// EDNS has the upper part.
    pub(super) fn response_code(&self, message: &[u8]) -> u16 {
        let edns = self.records.iter().find(|record| record.is_edns());
        let upper = edns.and_then(|record| message.get(record.ttl_at)).map_or(0, |upper| u16::from(*upper));
        upper << 4 | message.get(3).map_or(0, |lower| u16::from(lower & 0x0f))
    }

    /// What the question is for.
    pub(super) fn asked(&self, message: &[u8]) -> Option<u16> {
        u16_at(message, self.question.end - AFTER_NAME)
    }
}

impl RecordAt {
    /// Whether it is about the message itself: EDNS. What is the TTL of others is flags there.
    pub(super) fn is_edns(&self) -> bool {
        self.kind == OPT
    }
}

/// Whether there is more, for those who ask over a stream.
pub(super) fn is_cut_off(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// Whether it is an answer.
pub(super) fn is_response(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

fn record_at(message: &[u8], at: usize, section: Section) -> Option<RecordAt> {
    let fixed = name_end(message, at)?;
    let start = fixed + BEFORE_DATA;
    let data = start..start + usize::from(u16_at(message, fixed + 8)?);
    message.get(data.clone())?;
    Some(RecordAt { section, kind: u16_at(message, fixed)?, ttl_at: fixed + 4, data })
}

/// Where the name that begins at `at` ends: with an empty label, or with a pointer to the rest of it.
fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..64 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            64..192 => return None,
        }
    }
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(message.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, Query};
    use hickory_proto::rr::rdata::{A, CNAME};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::*;

    fn message() -> Vec<u8> {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let mut message = Message::query();
        message.add_query(Query::query(name("www.example.com."), RecordType::A));
        message.add_answer(Record::from_rdata(
            name("www.example.com."),
            300,
            RData::CNAME(CNAME(name("example.com."))),
        ));
        message.add_answer(Record::from_rdata(name("example.com."), 60, RData::A(A::new(192, 0, 2, 1))));
        message.set_edns(Edns::new());
        message.to_vec().unwrap()
    }

    #[test]
    fn every_record_is_found_also_behind_compressed_names() {
        let message = message();
        let layout = Layout::of(&message).unwrap();
        assert_eq!(layout.question, 12..33);
        assert_eq!(layout.asked(&message), Some(1));
        let ttls: Vec<_> = layout.records.iter().map(|record| u32_at(&message, record.ttl_at)).collect();
        assert_eq!(ttls, [Some(300), Some(60), Some(0)]);
        assert_eq!(message[layout.records[1].data.clone()], [192, 0, 2, 1]);
        assert!(layout.records[2].is_edns());
    }

    #[test]
    fn what_is_cut_off_or_made_up_is_no_message() {
        let message = message();
        for length in 0..message.len() {
            assert_eq!(Layout::of(&message[..length]), None, "{length} bytes");
        }
        assert_eq!(Layout::of(&[0xff; 40]), None);
    }
}
