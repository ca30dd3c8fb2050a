//! The one form of a path that is compared and passed on (RFC 3986 section 6.2.2). Pure.
//!
//! Escapes of characters that need none are undone, the others are written in capitals, dot segments are
//! removed. An escaped slash stays escaped: it is not the same path as one with a slash. Doubled slashes stay:
//! they are empty segments, and to some applications they mean something.

use std::borrow::Cow;

/// `path` in its canonical form; `None` if it leads out of the root, which no client means well.
pub(super) fn canonical(path: &str) -> Option<Cow<'_, str>> {
    // `OPTIONS *` and a tunnel's empty path have no segments.
    if !path.starts_with('/') {
        return Some(Cow::Borrowed(path));
    }
    let unescaped = unescape(path);
    if !unescaped.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Some(unescaped);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = unescaped[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop()?;
                }
                // What a dot segment ends is a directory.
                if is_last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    Some(Cow::Owned(format!("/{}", kept.join("/"))))
}

fn unescape(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let byte = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let Some(byte) = byte else {
            // A lone percent sign means itself.
            out.push('%');
            rest = &rest[at + 1..];
            continue;
        };
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b/", "/a//b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/%61pi/%2e%2e/x", "/x"),
            ("/a%2fb/%c3%bc", "/a%2Fb/%C3%BC"),
            ("/a/%2E./b", "/b"),
            ("/100%/%zz", "/100%/%zz"),
            ("/%", "/%"),
            ("/...", "/..."),
            ("*", "*"),
            ("", ""),
        ] {
            let found = canonical(path).unwrap();
            assert_eq!(found, expected, "{path}");
            assert_eq!(canonical(&found).unwrap(), expected, "{path}: the form is stable");
        }
    }

    #[test]
    fn a_path_out_of_the_root_is_none() {
        for path in ["/..", "/a/../..", "/%2e%2e/etc", "/./../x"] {
            assert_eq!(canonical(path), None, "{path}");
        }
    }
}
