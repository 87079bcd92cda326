//! One request, and whether an answer is the answer to it. No connection is touched here.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;

use super::Failure;

/// POST bodies go up to eight of these, so that some need more than one packet.
const FILLER: &str =
    "The quick brown fox jumps over the lazy dog, and nothing that it passes on the way is ever lost. ";

/// What one request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The greeting, which repeats the nonce and names its version.
    Get { nonce: String },
    /// The body, given back unchanged.
    Post { body: Bytes },
}

/// Who gave a right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) version: String,
    pub(super) pod: String,
}

impl Question {
    /// Request `number` of `worker`: no two are the same, and every other is a POST.
    pub(super) fn numbered(worker: u16, number: u64) -> Question {
        let nonce = format!("{worker}-{number}");
        if number.is_multiple_of(2) {
            return Question::Get { nonce };
        }
        let repeats = usize::try_from(number % 9).unwrap_or_default() * 10;
        Question::Post { body: Bytes::from(nonce + &FILLER.repeat(repeats)) }
    }

    pub(super) fn request(&self, host: &HeaderValue, connection: &'static str) -> Request<Full<Bytes>> {
        let (method, target, body) = match self {
            Question::Get { nonce } => (Method::GET, format!("/?nonce={nonce}"), Bytes::new()),
            Question::Post { body } => (Method::POST, "/echo".to_owned(), body.clone()),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = http::Uri::try_from(target).unwrap_or_default();
        request.headers_mut().insert(header::HOST, host.clone());
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static(connection));
        request
    }

    /// Whether this is a whole and right answer to this question.
    pub(super) fn check(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Served, (Failure, String)> {
        if status != StatusCode::OK {
            return Err((Failure::Status, format!("{status}: {}", excerpt(body))));
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
            Question::Get { .. } | Question::Post { .. } => Ok(Served { version, pod }),
        }
    }
}

fn has_line(body: &[u8], name: &str, value: &str) -> bool {
    String::from_utf8_lossy(body).lines().any(|line| line.split_once(' ') == Some((name, value)))
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(120).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-app-version", HeaderValue::from_static("v1"));
        headers.insert("x-app-pod", HeaderValue::from_static("app-1"));
        headers
    }

    fn judge(question: &Question, status: StatusCode, headers: &HeaderMap, body: &str) -> Result<String, Failure> {
        question.check(status, headers, body.as_bytes()).map(|served| served.version).map_err(|(failure, _)| failure)
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
            assert_eq!(judge(question, StatusCode::OK, &headers(), body), expect, "{question:?} {body:?}");
        }
    }

    #[test]
    fn an_answer_must_be_200_and_say_who_gave_it() {
        let post = Question::Post { body: Bytes::from("x") };
        assert_eq!(judge(&post, StatusCode::BAD_GATEWAY, &headers(), "x"), Err(Failure::Status));
        assert_eq!(judge(&post, StatusCode::OK, &HeaderMap::new(), "x"), Err(Failure::WrongBody));
    }

    #[test]
    fn requests_alternate_and_never_repeat() {
        let questions: Vec<_> = (0..20).map(|number| Question::numbered(7, number)).collect();
        let posts = questions.iter().filter(|question| matches!(question, Question::Post { .. })).count();
        assert_eq!(posts, 10);
        for (place, question) in questions.iter().enumerate() {
            assert!(!questions[..place].contains(question), "{question:?} was sent before");
        }
    }
}
