//! Which session a request belongs to, by the policy's `affinity`, and the cookie that makes a session of a
//! client's requests. Pure but for the random name of a new session.
//!
//! What a session's key is it is for everybody: agents do not talk about sessions, nor remember any
//! ([`hearth_proto::balance::session`]). So the cookie must be one that only Hearth sets: one that an application
//! makes is not known when its first request is picked for.

use std::net::IpAddr;

use hearth_proto::balance::session::key;
use hearth_proto::policy::{Affinity, Balance, ServicePolicy};
use http::HeaderValue;

/// The session of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// It belongs to none.
    None,
    /// This one.
    Key(u64),
    /// A new one, of which its client is to be told by this `Set-Cookie`.
    New(u64, HeaderValue),
}

impl Session {
    /// The session of a request of `client` with these header fields.
    pub(crate) fn of<'a>(
        policy: &ServicePolicy,
        client: IpAddr,
        mut fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Self {
        let named = match &policy.affinity {
            Some(Affinity::Header(name)) => {
                fields.find(|(n, _)| n.eq_ignore_ascii_case(name.as_str())).map(|(_, value)| value)
            }
            Some(Affinity::Cookie(name)) => {
                let cookies = fields.filter(|(n, _)| n.eq_ignore_ascii_case("cookie"));
                let mut values = cookies.filter_map(|(_, all)| cookie(all, name.as_str()));
                match values.next() {
                    None => return Self::new(name.as_str(), rand::random()),
                    some => some,
                }
            }
            None => None,
        };
        match named.filter(|value| !value.is_empty()) {
            Some(value) => Self::Key(key(value)),
            None => Self::of_client(policy, client),
        }
    }

    /// The session of a connection that says nothing of itself.
    pub(crate) fn of_client(policy: &ServicePolicy, client: IpAddr) -> Self {
        match (policy.balance, client.to_canonical()) {
            (Balance::RingHash, IpAddr::V4(v4)) => Self::Key(key(&v4.octets())),
            (Balance::RingHash, IpAddr::V6(v6)) => Self::Key(key(&v6.octets())),
            _ => Self::None,
        }
    }

    fn new(name: &str, random: u128) -> Self {
        let value = format!("{random:032x}");
        // Lost with the browser's session, as the application's own would be; no script needs it.
        let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax");
        match HeaderValue::try_from(cookie) {
            Ok(cookie) => Self::New(key(value.as_bytes()), cookie),
            // A name is a token: this cannot be.
            Err(_) => Self::None,
        }
    }

    pub(crate) fn key(&self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Key(key) | Self::New(key, _) => Some(*key),
        }
    }
}

/// The value of a cookie in a field of cookies (RFC 6265 section 5.4), if it has one.
fn cookie<'a>(all: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pairs = all.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    let mut values =
        pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    values.find(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> ServicePolicy {
        serde_json::from_str(text).unwrap()
    }

    fn of(policy: &ServicePolicy, fields: &[(&str, &str)]) -> Session {
        let fields = fields.iter().map(|(n, v)| (*n, v.as_bytes()));
        Session::of(policy, "10.0.0.1".parse().unwrap(), fields)
    }

    #[test]
    fn a_header_names_the_session_in_any_case_of_its_name() {
        let p = policy(r#"{"affinity": {"header": "x-user"}}"#);
        assert_eq!(of(&p, &[("X-User", "ann"), ("x-b", "c")]), Session::Key(key(b"ann")));
        assert_eq!(of(&p, &[("x-user", "")]), Session::None);
        assert_eq!(of(&p, &[]), Session::None);
    }

    #[test]
    fn a_cookie_names_the_session_wherever_it_stands() {
        let p = policy(r#"{"affinity": {"cookie": "sid"}}"#);
        for fields in [
            &[("Cookie", "sid=7")][..],
            &[("cookie", "a=b; sid=7;c=d")],
            &[("cookie", "xsid=1"), ("cookie", "sid2=3; sid=7")],
        ] {
            assert_eq!(of(&p, fields), Session::Key(key(b"7")), "{fields:?}");
        }
    }

    #[test]
    fn a_client_without_the_cookie_is_given_one_that_leads_where_this_request_goes() {
        let p = policy(r#"{"affinity": {"cookie": "sid"}}"#);
        for fields in [&[][..], &[("cookie", "other=1")], &[("cookie", "sid=")]] {
            let Session::New(here, cookie) = of(&p, fields) else { panic!("no cookie") };
            let cookie = cookie.to_str().unwrap();
            let (pair, attributes) = cookie.split_once("; ").unwrap();
            assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
            assert_eq!(of(&p, &[("cookie", pair)]), Session::Key(here));
        }
        assert_ne!(of(&p, &[]), of(&p, &[]), "two clients have one session");
    }

    #[test]
    fn with_ring_hash_whatever_names_no_session_belongs_to_its_client() {
        let ring = policy(r#"{"balance": "ring-hash"}"#);
        let one = Session::Key(key(&[10, 0, 0, 1]));
        assert_eq!(of(&ring, &[]), one);
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(Session::of_client(&ring, mapped), one);
        let both = policy(r#"{"balance": "ring-hash", "affinity": {"header": "x-user"}}"#);
        assert_eq!(of(&both, &[]), one);
        assert_eq!(of(&both, &[("x-user", "ann")]), Session::Key(key(b"ann")));
        assert_eq!(of(&policy("{}"), &[]), Session::None);
    }
}
