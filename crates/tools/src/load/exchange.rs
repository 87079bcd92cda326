//! One request, and whether an answer is the answer to it. No connection is touched here.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;

use super::{Failure, Methods, Way};
use crate::grpc;

/// POST bodies go up to eight of these, so that some need more than one packet.
const FILLER: &str =
    "The quick brown fox jumps over the lazy dog, and nothing that it passes on the way is ever lost. ";

/// So many of them are 190 KiB.
const UPLOADED: usize = 2000;

/// Characters of an answer that a report shows; the proxy's longest sentence fits.
const EXCERPT: usize = 300;

/// What one request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The greeting, which repeats the nonce and names its version.
    Get { nonce: String },
    /// The body, given back unchanged.
    Post { body: Bytes },
    /// The message, given back unchanged.
    Call { message: Bytes },
}

/// An answer as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: HeaderMap,
}

/// Who gave a right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) version: String,
    pub(super) pod: String,
}

impl Question {
    /// Request `number` of `worker`: no two are the same.
    pub(super) fn numbered(worker: u16, number: u64, way: Way, methods: Methods) -> Question {
        let nonce = format!("{worker}-{number}");
        let is_get = match methods {
            Methods::Get => true,
            Methods::Post | Methods::Upload => false,
            Methods::GetAndPost => number.is_multiple_of(2),
        };
        let repeats = match methods {
            Methods::Upload => UPLOADED,
            Methods::Get | Methods::Post | Methods::GetAndPost => usize::try_from(number % 9).unwrap_or_default() * 10,
        };
        let filled = |nonce: String| Bytes::from(nonce + &FILLER.repeat(repeats));
        match way {
            Way::Grpc => Question::Call { message: filled(nonce) },
            Way::KeptAlive | Way::NewConnection | Way::Http2 if is_get => Question::Get { nonce },
            Way::KeptAlive | Way::NewConnection | Way::Http2 => Question::Post { body: filled(nonce) },
        }
    }

    /// The request to `host`, for an answer that comes after `delay`.
    pub(super) fn request(&self, way: Way, host: &HeaderValue, delay: Duration) -> Request<Full<Bytes>> {
        let millis = delay.as_millis();
        let (method, path, body) = match self {
            Question::Get { nonce } if millis == 0 => (Method::GET, format!("/?nonce={nonce}"), Bytes::new()),
            Question::Get { nonce } => (Method::GET, format!("/slow?ms={millis}&nonce={nonce}"), Bytes::new()),
            Question::Post { body } => (Method::POST, format!("/echo?ms={millis}"), body.clone()),
            Question::Call { message } => (Method::POST, grpc::ECHO.to_owned(), grpc::framed(message)),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        match way {
            Way::KeptAlive => to_http1(&mut request, &path, host, "keep-alive"),
            Way::NewConnection => to_http1(&mut request, &path, host, "close"),
            Way::Http2 => to_http2(&mut request, &path, host),
            Way::Grpc => {
                to_http2(&mut request, &path, host);
                request.headers_mut().insert(header::CONTENT_TYPE, grpc::CONTENT_TYPE);
                request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
            }
        }
        request
    }

    /// Enough of it to find it in a log.
    pub(super) fn name(&self) -> String {
        match self {
            Question::Get { nonce } => format!("GET {nonce}"),
            Question::Post { body } => format!("POST {:.12}, {} bytes", excerpt(body), body.len()),
            Question::Call { message } => format!("call {:.12}, {} bytes", excerpt(message), message.len()),
        }
    }

    /// Whether this is a whole and right answer to this question.
    pub(super) fn check(&self, answer: &Answer) -> Result<Served, (Failure, String)> {
        let Answer { status, headers, body, .. } = answer;
        if *status != StatusCode::OK {
            return Err((Failure::Status, format!("{status}: {}", excerpt(body))));
        }
        if let Question::Call { .. } = self {
            answer.check_grpc_status()?;
        }
        let wrong = |what: &str| Err((Failure::WrongBody, format!("{what}: {}", excerpt(body))));
        let named = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let Some(version) = named("x-app-version") else {
            return wrong("no x-app-version");
        };
        let Some(pod) = named("x-app-pod") else {
            return wrong("no x-app-pod");
        };
        match self {
            Question::Get { nonce } if !has_line(body, "nonce", nonce) => wrong("not the nonce that was sent"),
            Question::Get { .. } if !has_line(body, "version", &version) => wrong("not the version of its header"),
            Question::Post { body: sent } if sent != body => wrong("not the body that was sent"),
            Question::Call { message } if grpc::message(body) != Some(message) => {
                wrong("not the message that was sent")
            }
            Question::Get { .. } | Question::Post { .. } | Question::Call { .. } => Ok(Served { version, pod }),
        }
    }
}

impl Answer {
    /// It stands in the trailers, or in the head of an answer that has nothing else.
    fn check_grpc_status(&self) -> Result<(), (Failure, String)> {
        let found = |name| self.trailers.get(name).or_else(|| self.headers.get(name)).map(HeaderValue::as_bytes);
        match found(&grpc::STATUS) {
            Some(b"0") => Ok(()),
            Some(status) => {
                let message = excerpt(found(&grpc::MESSAGE).unwrap_or_default());
                Err((Failure::Status, format!("grpc-status {}: {message}", excerpt(status))))
            }
            None => Err((Failure::Short, "no grpc-status".to_owned())),
        }
    }
}

fn to_http1(request: &mut Request<Full<Bytes>>, path: &str, host: &HeaderValue, connection: &'static str) {
    *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
    request.headers_mut().insert(header::HOST, host.clone());
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static(connection));
}

/// HTTP/2 has the host in its target.
fn to_http2(request: &mut Request<Full<Bytes>>, path: &str, host: &HeaderValue) {
    let uri = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path).build();
    *request.uri_mut() = uri.unwrap_or_default();
}

fn has_line(body: &[u8], name: &str, value: &str) -> bool {
    String::from_utf8_lossy(body).lines().any(|line| line.split_once(' ') == Some((name, value)))
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(EXCERPT).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert("x-app-version", HeaderValue::from_static("v1"));
        headers.insert("x-app-pod", HeaderValue::from_static("app-1"));
        Answer { headers, body: Bytes::from(body.to_owned()), ..Answer::default() }
    }

    fn called(body: &[u8], status: &'static str) -> Answer {
        let trailers = HeaderMap::from_iter([(grpc::STATUS, HeaderValue::from_static(status))]);
        Answer { body: Bytes::copy_from_slice(body), trailers, ..answer("") }
    }

    fn judge(question: &Question, answer: &Answer) -> Result<String, Failure> {
        question.check(answer).map(|served| served.version).map_err(|(failure, _)| failure)
    }

    #[test]
    fn only_the_answer_to_this_very_question_is_right() {
        let get = Question::Get { nonce: "3-8".to_owned() };
        let post = Question::Post { body: Bytes::from("3-9abc") };
        let cases = [
            (&get, "version v1\nnonce 3-8\n", Ok("v1".to_owned())),
            (&get, "version v1\nnonce 3-88\n", Err(Failure::WrongBody)),
            (&get, "version v2\nnonce 3-8\n", Err(Failure::WrongBody)),
            (&get, "", Err(Failure::WrongBody)),
            (&post, "3-9abc", Ok("v1".to_owned())),
            (&post, "3-9ab", Err(Failure::WrongBody)),
        ];
        for (question, body, expect) in cases {
            assert_eq!(judge(question, &answer(body)), expect, "{question:?} {body:?}");
        }
    }

    #[test]
    fn a_call_is_answered_by_its_message_and_a_status() {
        let call = Question::Call { message: Bytes::from("3-9abc") };
        let right = grpc::framed(b"3-9abc");
        let refused = Answer { headers: called(b"", "14").trailers, ..answer("") };
        let cases = [
            (called(&right, "0"), Ok("v1".to_owned())),
            (called(&grpc::framed(b"3-9ab"), "0"), Err(Failure::WrongBody)),
            (called(&right[1..], "0"), Err(Failure::WrongBody)),
            (called(&right, "14"), Err(Failure::Status)),
            (Answer { trailers: HeaderMap::new(), ..called(&right, "0") }, Err(Failure::Short)),
            (refused, Err(Failure::Status)),
        ];
        for (answer, expect) in cases {
            assert_eq!(judge(&call, &answer), expect, "{answer:?}");
        }
    }

    #[test]
    fn an_answer_must_be_200_and_say_who_gave_it() {
        let post = Question::Post { body: Bytes::from("x") };
        let bad = Answer { status: StatusCode::BAD_GATEWAY, ..answer("x") };
        assert_eq!(judge(&post, &bad), Err(Failure::Status));
        let unsigned = Answer { headers: HeaderMap::new(), ..answer("x") };
        assert_eq!(judge(&post, &unsigned), Err(Failure::WrongBody));
    }

    #[test]
    fn requests_have_the_methods_of_the_plan_and_never_repeat() {
        let cases = [(Methods::Get, 0), (Methods::Post, 20), (Methods::GetAndPost, 10)];
        for (methods, posts) in cases {
            let questions: Vec<_> =
                (0..20).map(|number| Question::numbered(7, number, Way::KeptAlive, methods)).collect();
            let found = questions.iter().filter(|question| matches!(question, Question::Post { .. })).count();
            assert_eq!(found, posts, "{methods:?}");
            for (place, question) in questions.iter().enumerate() {
                assert!(!questions[..place].contains(question), "{question:?} was sent before");
            }
        }
    }
}
