//! Where a request says it goes: the forms of a request's target (RFC 9112 section 3.2) and the one
//! canonical form of its path. Pure.
//!
//! The canonical form is what is matched, what is forwarded and what is counted, so that two spellings of
//! one resource cannot be treated as two by us and as one by the application:
//!
//! * percent-encodings of unreserved characters are decoded, all others get upper-case digits
//!   (RFC 3986 section 6.2.2); `%2F` and `%5C` stay as they are, for decoding them would make segments;
//! * characters that a URI cannot have are encoded where a browser would encode them, and refused where
//!   they are read differently by different servers (controls, space, backslash, `#`, `%00`, a `%` without
//!   two digits);
//! * dot segments are removed (RFC 3986 section 5.2.4), after decoding, so that `%2e%2e` is one too;
//! * empty segments (`//`) stay. RFC 3986 gives them a meaning, and paths that hold other URLs or object
//!   keys need them; Envoy's `merge_slashes` is off by default for the same reason. Once dot segments are
//!   gone nothing climbs over them.
//!
//! The query is not rewritten: its syntax is the application's.

use std::borrow::Cow;

/// Why a target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTarget {
    /// A character that must not be there.
    #[error("its target has a character that no URL may have ({0:#04x})")]
    Character(u8),
    /// `%` without two hexadecimal digits.
    #[error("its target has a % without two hexadecimal digits")]
    Percent,
    /// A path that does not begin with a slash.
    #[error("its target is neither a path that begins with / nor a URL that begins with http://")]
    Form,
    /// `*` with another method than OPTIONS.
    #[error("its target is *, which is for OPTIONS only")]
    Asterisk,
    /// `http://` without a host, or with a user.
    #[error("its target's authority is no host with an optional port")]
    Authority,
    /// A form that is for CONNECT only, or the other way round.
    #[error("its target must be host:port with CONNECT, and with nothing else")]
    Tunnel,
}

/// A request's target, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// The authority where the target names one; it wins over `Host` (RFC 9112 section 3.2.2).
    pub(crate) authority: Option<&'a str>,
    /// Canonical path and query; `*` of OPTIONS; empty for a tunnel.
    pub(crate) path: Cow<'a, str>,
}

impl<'a> Target<'a> {
    /// Reads the target of a request line.
    pub(crate) fn parse(method: &str, raw: &'a str) -> Result<Self, BadTarget> {
        if method == "CONNECT" {
            let named = valid_authority(raw) && raw.rsplit_once(':').is_some_and(|(_, p)| port(p));
            let tunnel = Self { authority: Some(raw), path: Cow::Borrowed("") };
            return if named { Ok(tunnel) } else { Err(BadTarget::Tunnel) };
        }
        if raw.starts_with('/') {
            return Ok(Self { authority: None, path: canonical(raw)? });
        }
        if raw == "*" {
            let asterisk = Self { authority: None, path: Cow::Borrowed("*") };
            return if method == "OPTIONS" { Ok(asterisk) } else { Err(BadTarget::Asterisk) };
        }
        let rest = after_scheme(raw).ok_or(BadTarget::Form)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() || !valid_authority(authority) {
            return Err(BadTarget::Authority);
        }
        let path = match path.as_bytes().first() {
            // RFC 9112 section 3.2.4: OPTIONS of a whole server.
            None if method == "OPTIONS" => Cow::Borrowed("*"),
            None => Cow::Borrowed("/"),
            Some(b'?') => Cow::Owned(canonical(&format!("/{path}"))?.into_owned()),
            Some(_) => canonical(path)?,
        };
        Ok(Self { authority: Some(authority), path })
    }
}

/// What stands behind `http://` or `https://`, in any case.
fn after_scheme(raw: &str) -> Option<&str> {
    let (scheme, rest) = raw.split_once("://")?;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(rest)
}

/// The canonical form of a path with an optional query.
pub(crate) fn canonical(raw: &str) -> Result<Cow<'_, str>, BadTarget> {
    let (path, query) = match raw.find('?') {
        Some(at) => raw.split_at(at),
        None => (raw, ""),
    };
    let query_is_plain = checked_query(query)?;
    match canonical_path(path)? {
        Cow::Borrowed(_) if query_is_plain => Ok(Cow::Borrowed(raw)),
        path => {
            let mut whole = path.into_owned();
            query.bytes().for_each(|b| put(&mut whole, b, is_query));
            Ok(Cow::Owned(whole))
        }
    }
}

/// Whether a query can stay as it is; `false`: some of its characters have to be encoded.
fn checked_query(query: &str) -> Result<bool, BadTarget> {
    let mut plain = true;
    for byte in query.bytes() {
        match byte {
            0..=b' ' | 0x7f | b'#' => return Err(BadTarget::Character(byte)),
            _ => plain &= is_query(byte),
        }
    }
    Ok(plain)
}

/// The canonical form of a path without a query.
pub(crate) fn canonical_path(path: &str) -> Result<Cow<'_, str>, BadTarget> {
    if !path.starts_with('/') {
        return Err(BadTarget::Form);
    }
    let mut as_is = true;
    let mut before = 0;
    for byte in path.bytes() {
        as_is &= is_path(byte) && !(byte == b'.' && before == b'/');
        before = byte;
    }
    if as_is {
        return Ok(Cow::Borrowed(path));
    }
    let spelt = normal_spelling(path)?;
    Ok(Cow::Owned(if spelt.contains("/.") { without_dots(&spelt) } else { spelt }))
}

/// Every character in its one spelling.
fn normal_spelling(path: &str) -> Result<String, BadTarget> {
    let mut out = String::with_capacity(path.len() + 16);
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(hex).ok_or(BadTarget::Percent);
                let decoded = digit(bytes.next())? << 4 | digit(bytes.next())?;
                match decoded {
                    // Ends the text in programs written in C.
                    0 => return Err(BadTarget::Character(0)),
                    _ if is_unreserved(decoded) => out.push(char::from(decoded)),
                    _ => encode(&mut out, decoded),
                }
            }
            0..=b' ' | 0x7f | b'\\' | b'#' => return Err(BadTarget::Character(byte)),
            _ => put(&mut out, byte, is_path),
        }
    }
    Ok(out)
}

/// RFC 3986 section 5.2.4, for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        // A dot segment at the end leaves its slash.
        if last {
            kept.push("");
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() { "/".into() } else { out }
}

fn put(out: &mut String, byte: u8, allowed: impl Fn(u8) -> bool) {
    if allowed(byte) { out.push(char::from(byte)) } else { encode(out, byte) }
}

fn encode(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` and the slash, without `%`.
fn is_path(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'/' | b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*')
        || matches!(byte, b'+' | b',' | b';' | b'=')
}

/// What servers take in a query as it is: more than RFC 3986 has, for nothing is decided by it.
fn is_query(byte: u8) -> bool {
    matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'~')
}

/// Whether a text is a host with an optional port: a name, an IPv4 address, or an IPv6 one in brackets.
/// No user: nothing but a phisher has a use for it. Empty is no authority.
pub(crate) fn valid_authority(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, behind)) = rest.split_once(']') else { return false };
        let address_ok = address.parse::<std::net::Ipv6Addr>().is_ok();
        return address_ok && (behind.is_empty() || behind.strip_prefix(':').is_some_and(port));
    }
    let (host, number) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
    let host_ok = !host.is_empty()
        && host
            .bytes()
            .all(|b| is_unreserved(b) || matches!(b, b'!' | b'$' | b'&'..=b',' | b'=' | b';'));
    host_ok && number.is_none_or(|p| p.is_empty() || port(p))
}

fn port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests;
