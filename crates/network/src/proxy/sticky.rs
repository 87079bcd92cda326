//! Clients that come back to the same pod by a cookie. The cookie names a pod without telling anything about it. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use super::headers::Scheme;
use crate::config::PodUid;

/// What stands for one port of one pod: the same in every proxy and after every restart of one.
pub(crate) fn token(pod: &PodUid, address: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&pod.0, address).hash(&mut hasher);
    hasher.finish()
}

/// The token in a client's cookie of this name.
pub(crate) fn asked_for(headers: &HeaderMap, name: &str) -> Option<u64> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(found, _)| *found == name).find_map(|(_, value)| u64::from_str_radix(value, 16).ok())
}

/// The cookie that brings a client back. It lasts as long as the client's session.
pub(crate) fn cookie(name: &str, token: u64, scheme: Scheme) -> Option<HeaderValue> {
    let secure = if scheme == Scheme::Https { "; Secure" } else { "" };
    HeaderValue::from_str(&format!("{name}={token:016x}; Path=/; HttpOnly; SameSite=Lax{secure}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(lines: &[&str]) -> Option<u64> {
        let lines = lines.iter().map(|line| (COOKIE, HeaderValue::from_str(line).unwrap()));
        asked_for(&lines.collect(), "stick")
    }

    #[test]
    fn a_cookie_is_found_among_others_and_a_wrong_one_is_none() {
        assert_eq!(asked(&["a=b; stick=00000000000000ff"]), Some(255));
        assert_eq!(asked(&["a=b", "stick=ff"]), Some(255));
        assert_eq!(asked(&["stick=other; stick=1"]), Some(1));
        for lines in [&["nostick=1"][..], &["stick"], &["stick="], &["stick=g"], &[]] {
            assert_eq!(asked(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn what_is_given_is_found_again() {
        let given = token(&PodUid("u1".to_owned()), ([10, 44, 0, 1], 80).into());
        let cookie = cookie("stick", given, Scheme::Https).unwrap();
        let (pair, attributes) = cookie.to_str().unwrap().split_once(';').unwrap();
        assert_eq!(asked(&[pair]), Some(given));
        assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Lax; Secure");
    }
}
