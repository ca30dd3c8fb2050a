//! How long an HTTP/1.1 message is, by its head (RFC 9112 section 6.3). Pure.
//!
//! Two programs that read one head differently can be made to see different messages ("request
//! smuggling"). So there is one reading here, and whatever another server could read otherwise is refused
//! instead of being mended.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};

/// How a request's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadFraming {
    /// Each of them names another end of the message.
    #[error("it has both Content-Length and Transfer-Encoding")]
    Both,
    /// Not a number, or several.
    #[error("its Content-Length is not one number")]
    Length,
    /// Chunked twice, or not at its end.
    #[error("its Transfer-Encoding does not end in one chunked")]
    Coding,
    /// A coding that we do not undo.
    #[error("its Transfer-Encoding has a coding other than chunked")]
    Unknown,
    /// Before HTTP/1.1 it meant nothing.
    #[error("it has a Transfer-Encoding in HTTP/1.0")]
    Old,
    /// Missing, several, or none.
    #[error("it has no Host")]
    NoHost,
    /// Several.
    #[error("it has more than one Host")]
    Hosts,
    /// Not a host.
    #[error("its Host is no host with an optional port")]
    Host,
}

impl BadFraming {
    /// What the client is told.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Unknown => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads the fields of a head one by one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading<'a> {
    length: Option<u64>,
    codings: Codings,
    host: Option<&'a [u8]>,
}

/// What the lines of `Transfer-Encoding` say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Codings {
    #[default]
    None,
    /// Exactly `chunked`.
    Chunked,
    /// Ends in `chunked` and has others before it, or has none of it.
    Unknown,
    /// `chunked` and more behind it.
    Wrong,
}

impl<'a> Reading<'a> {
    /// Takes a field; names in any case.
    pub(crate) fn field(&mut self, name: &str, value: &'a [u8]) -> Result<(), BadFraming> {
        // Three lengths tell the fields that matter from nearly all others.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                let second = self.host.replace(value).is_some();
                return if second { Err(BadFraming::Hosts) } else { Ok(()) };
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                let length = number(value).ok_or(BadFraming::Length)?;
                // Two that are equal may be taken for one (RFC 9110 section 8.6), and need not.
                if self.length.replace(length).is_some() {
                    return Err(BadFraming::Length);
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => self.coding(value),
            _ => {}
        }
        Ok(())
    }

    fn coding(&mut self, value: &[u8]) {
        for coding in value.split(|b| *b == b',') {
            let chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
            self.codings = match (self.codings, chunked) {
                (Codings::None, true) => Codings::Chunked,
                (Codings::None | Codings::Unknown, _) => Codings::Unknown,
                (Codings::Chunked | Codings::Wrong, _) => Codings::Wrong,
            };
        }
    }

    /// The host, once all fields were taken. `named`: the target has an authority, which wins.
    pub(crate) fn host(&self, is_11: bool, named: bool) -> Result<&'a [u8], BadFraming> {
        let Some(host) = self.host else {
            return if is_11 { Err(BadFraming::NoHost) } else { Ok(b"") };
        };
        let valid = |h| std::str::from_utf8(h).is_ok_and(super::target::valid_authority);
        // An empty one is for targets that have no authority (RFC 9110 section 7.2).
        if valid(host) || (host.is_empty() && !named) { Ok(host) } else { Err(BadFraming::Host) }
    }

    /// How a request goes on, once all fields were taken.
    pub(crate) fn request(&self, is_11: bool) -> Result<Framing, BadFraming> {
        match (self.codings, self.length) {
            (Codings::None, None | Some(0)) => Ok(Framing::None),
            (Codings::None, Some(length)) => Ok(Framing::Length(length)),
            (_, Some(_)) => Err(BadFraming::Both),
            _ if !is_11 => Err(BadFraming::Old),
            (Codings::Chunked, None) => Ok(Framing::Chunked),
            (Codings::Unknown, None) => Err(BadFraming::Unknown),
            (Codings::Wrong, None) => Err(BadFraming::Coding),
        }
    }
}

/// Whether the length of an application's answer is certain. hyper has read it already; what another
/// reader could have read otherwise is not passed on. The error says what is wrong.
pub(crate) fn is_certain(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut reading = Reading::default();
    for coding in headers.get_all(TRANSFER_ENCODING) {
        reading.coding(coding.as_bytes());
    }
    match reading.codings {
        Codings::None => Ok(()),
        _ if headers.contains_key(CONTENT_LENGTH) => {
            Err("with both Content-Length and Transfer-Encoding")
        }
        Codings::Chunked => Ok(()),
        _ => Err("with a Transfer-Encoding other than chunked"),
    }
}

/// Digits and nothing else: no sign, no list, no space within.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> Result<Framing, BadFraming> {
        read_version(true, fields)
    }

    fn read_version(is_11: bool, fields: &[(&str, &str)]) -> Result<Framing, BadFraming> {
        let mut reading = Reading::default();
        for (name, value) in fields {
            reading.field(name, value.as_bytes())?;
        }
        reading.request(is_11)
    }

    #[test]
    fn a_body_has_one_length_or_comes_in_chunks() {
        assert_eq!(read(&[("x", "1")]), Ok(Framing::None));
        assert_eq!(read(&[("Content-Length", "0")]), Ok(Framing::None));
        assert_eq!(read(&[("content-length", "7")]), Ok(Framing::Length(7)));
        assert_eq!(read(&[("Transfer-Encoding", " Chunked ")]), Ok(Framing::Chunked));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let (cl, te) = ("content-length", "transfer-encoding");
        for (fields, why) in [
            (&[(cl, "1"), (te, "chunked")][..], BadFraming::Both),
            (&[(te, "chunked"), (cl, "0")], BadFraming::Both),
            (&[(te, "identity"), (cl, "3")], BadFraming::Both),
            (&[(cl, "1"), (cl, "2")], BadFraming::Length),
            (&[(cl, "1"), (cl, "1")], BadFraming::Length),
            (&[(cl, "1, 1")], BadFraming::Length),
            (&[(cl, "+1")], BadFraming::Length),
            (&[(cl, "-1")], BadFraming::Length),
            (&[(cl, "0x1")], BadFraming::Length),
            (&[(cl, "1 1")], BadFraming::Length),
            (&[(cl, "")], BadFraming::Length),
            (&[(cl, "18446744073709551616")], BadFraming::Length),
            (&[(te, "chunked, chunked")], BadFraming::Coding),
            (&[(te, "chunked"), (te, "chunked")], BadFraming::Coding),
            (&[(te, "chunked, identity")], BadFraming::Coding),
            (&[(te, "gzip, chunked")], BadFraming::Unknown),
            (&[(te, "gzip"), (te, "chunked")], BadFraming::Unknown),
            (&[(te, "xchunked")], BadFraming::Unknown),
            (&[(te, "\u{b}chunked")], BadFraming::Unknown),
            (&[(te, "")], BadFraming::Unknown),
            (&[(te, "chunked;q=1")], BadFraming::Unknown),
        ] {
            assert_eq!(read(fields), Err(why), "{fields:?}");
        }
        assert_eq!(read_version(false, &[(te, "chunked")]), Err(BadFraming::Old));
    }

    #[test]
    fn there_is_one_host_and_it_is_one() {
        let host = |is_11, named, values: &[&'static str]| {
            let mut reading = Reading::default();
            for value in values {
                reading.field("Host", value.as_bytes())?;
            }
            reading.host(is_11, named).map(|h| String::from_utf8_lossy(h).into_owned())
        };
        assert_eq!(host(true, false, &["ledger.mesh:80"]), Ok("ledger.mesh:80".into()));
        assert_eq!(host(true, false, &[""]), Ok(String::new()));
        assert_eq!(host(false, false, &[]), Ok(String::new()));
        assert_eq!(host(true, false, &[]), Err(BadFraming::NoHost));
        assert_eq!(host(true, false, &["a", "a"]), Err(BadFraming::Hosts));
        for bad in ["a b", "a/b", "a@b", "http://a"] {
            assert_eq!(host(true, false, &[bad]), Err(BadFraming::Host), "{bad}");
        }
    }
}
