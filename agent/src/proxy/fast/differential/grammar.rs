//! Messages made from the grammar of HTTP/1.1: plain ones as clients and applications send them, and odd
//! ones of parts that have been read in two ways somewhere.

use super::dice::Dice;
use super::mutation::mutate;

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
const ODD_METHODS: &[&str] = &[
    "CONNECT",
    "TRACE",
    "get",
    "PRI",
    "M-SEARCH",
    "G\u{e9}T",
    "",
    "GE T",
    "X",
    "!#$%&'*+-.^_`|~",
    "GET\t",
    "POST:",
    "A\0B",
    "PURGE",
    "\"GET\"",
];
const TARGETS: &[&str] = &[
    "/",
    "/a",
    "/a/b.c-d_e~f",
    "/index.html?x=1&y=2",
    "/a?",
    "/a?b=%2e%2f",
    "/v1/items/17;v=2",
    "/a/",
    "/x@y:z,(1)*'!$+=",
    "/q?a=/../b",
    "/long/long/long/long/path/of/many/segments",
];
const ODD_TARGETS: &[&str] = &[
    "*",
    "",
    "a",
    "//",
    "//a",
    "/a//b",
    "/./a",
    "/a/..",
    "/%2e/",
    "/a%00",
    "/a#b",
    "/a?b#c",
    "/a\\b",
    "/a?b\\c",
    "http://x/a",
    "http://x:1/",
    "x:80",
    "/\u{e9}",
    "/a b",
    "/a\tb",
    "/a?b c",
    "?a",
    "/a?b\"c",
    "/a?<b>",
    "/a?`b`",
    "/a?{b}",
    "/a?b|c",
    "/a?b^c",
    "/a?[b]",
    "/{a}",
    "/a|b",
    "/\"a\"",
    "/<a>",
    "/a^b",
    "/a\0",
    "/a\x7f",
    "/a?\x7f",
    "/a?\u{e9}",
    "/a?b?c",
    "/a?'b'",
    "/[a]",
];
const HOSTS: &[&str] =
    &["x", "ledger.mesh", "ledger.mesh:8080", "127.0.0.1", "[::1]:80", "a_b-c.d", "LEDGER.mesh"];
const ODD_HOSTS: &[&str] = &[
    "", "a b", "a/b", "a@b", "a,b", "http://a", "a\\b", "\u{e9}", "a\0", "a;b", "[::1", ":",
    "a\tb", "..", "[", "x:999999", "a?b", "a#b", "%61",
];
const NAMES: &[&str] = &[
    "Accept",
    "accept-encoding",
    "User-Agent",
    "X-A",
    "x-b",
    "Cookie",
    "Cookie",
    "ETag",
    "Content-Type",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Request-ID",
    "traceparent",
    "Keep-Alive",
    "Proxy-Connection",
    "Set-Cookie",
    "Authorization",
    "Range",
    "Vary",
    "Server",
    "Date",
    "a",
    "x_y",
    "X.y",
];
const ODD_NAMES: &[&str] = &[
    "",
    " X-A",
    "X-A ",
    "X A",
    "X\tA",
    "X-\u{e9}",
    "X\0A",
    "Host ",
    "host",
    "HOST",
    "Content-Length ",
    "content_length",
    "Content-Length",
    "Transfer-Encoding",
    "transfer-encoding ",
    "Transfer-Encodin",
    "Connection",
    "Expect",
    "Upgrade",
    "TE",
    "Trailer",
    "Via",
    "Forwarded",
    "HTTP2-Settings",
    "(X)",
    "X:",
    "\"X\"",
    "Date",
    "!#$%&'*+-.^_`|~9",
    "\u{b}Transfer-Encoding",
];
const VALUES: &[&str] = &[
    "*/*",
    "1",
    "gzip, deflate, br",
    "Mozilla/5.0 (X11; Linux x86_64)",
    "a=b; c=d",
    "9.9.9.9",
    "https",
    "text/html;q=0.9",
    "",
    "W/\"67ab43\"",
    "bytes=0-99",
    "caf\u{e9}",
    "a\tb",
    "00-a-b-01",
    "timeout=5, max=100",
];
const ODD_VALUES: &[&str] = &[
    "\0",
    "a\0b",
    "a\x07b",
    "\x7f",
    "a\rb",
    "a\nb",
    " lead",
    "trail ",
    "\ttab\t",
    "\u{b}vt",
    "a\r\n fold",
    "a\r\n\tfold",
    "\"unclosed",
    ":",
    "chunked",
    "close",
    "keep-alive",
    "close, keep-alive",
    "upgrade",
    "x-a",
    "close, x-a",
    "\u{ff}",
    "100-continue",
    "trailers",
    "\x1b[0m",
    "Close",
    "KEEP-ALIVE",
    "close ,",
    ", close",
    "X-A, x-b",
    "keep-alive, X-Forwarded-For, etag",
];
const LENGTHS: &[&str] = &[
    "0",
    "1",
    "3",
    "5",
    "00",
    "003",
    "+3",
    "-1",
    "3,3",
    "3, 3",
    "3,4",
    "0x3",
    "3 3",
    "",
    " ",
    "3\t",
    "18446744073709551615",
    "18446744073709551616",
    "999999999999999999",
    "1234567890123456789",
    "3.0",
    "\u{664}",
    "1e1",
    "99999",
    "3;",
    "\"3\"",
];
const CODINGS: &[&str] = &[
    "chunked",
    "Chunked",
    "CHUNKED",
    "identity",
    "gzip, chunked",
    "chunked, gzip",
    "chunked, chunked",
    "chunked;q=1",
    "xchunked",
    "\u{b}chunked",
    "",
    "chunked,",
    ",chunked",
    "chunked ",
    "\"chunked\"",
    "gzip",
    "trailers",
    "chunk",
    "chunked\0",
];
const VERSIONS: &[&str] = &[
    "HTTP/1.0",
    "HTTP/1.0",
    "HTTP/1.2",
    "HTTP/2.0",
    "HTTP/1.",
    "HTTP/1.11",
    "http/1.1",
    "HTTP/0.9",
    "",
    "HTTP/1.1 ",
    "HTTP 1.1",
    "HTTPS/1.1",
    "HTTP/01.1",
];
/// What a body is made of: much of it would be a message by itself.
const BODIES: &[&[u8]] = &[
    b"hello",
    b"0\r\n\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\r\n",
    b"\0\0\0",
    b"a=1&b=2",
    b"5\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"{\"a\":[1,2,3]}",
    b"\xff\xfe",
    b"\n",
];

/// One of `common`, or now and then one of `odd`.
fn either<'a>(dice: &mut Dice, odd_in: usize, common: &[&'a str], odd: &[&'a str]) -> &'a str {
    if odd_in > 0 && dice.one_in(odd_in) { dice.pick(odd) } else { dice.pick(common) }
}

/// Bytes that can be anything.
pub(super) fn body(dice: &mut Dice) -> Vec<u8> {
    let (mut body, most) = (Vec::new(), dice.size());
    while body.len() < most {
        match dice.below(4) {
            0 => body.extend((0..1 + dice.below(40)).map(|_| dice.byte())),
            1 => body.resize(body.len() + dice.below(most + 1), b'x'),
            _ => body.extend_from_slice(dice.pick(BODIES)),
        }
    }
    body
}

/// How odd a message is made: one in so many of its parts. 0: not at all.
type Oddity = usize;

fn line(dice: &mut Dice, out: &mut Vec<u8>, name: &str, value: &str, odd: Oddity) {
    let colon = if odd > 0 && dice.one_in(odd * 3) {
        dice.pick(&[":", ": ", " : ", ":\t", " ", "", "::", ":  \t ", ":\r\n "])
    } else {
        ": "
    };
    let end = if odd > 0 && dice.one_in(odd * 6) {
        dice.pick(&["\n", "\r", "\r\r\n", " \r\n", "\t\r\n", "\r\n\r\n", "\0\r\n", ""])
    } else {
        "\r\n"
    };
    for part in [name, colon, value, end] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// A few fields that frame nothing, and with oddity such that do.
fn fields(dice: &mut Dice, out: &mut Vec<u8>, odd: Oddity) {
    let many = if dice.one_in(200) {
        110
    } else if dice.one_in(40) {
        45
    } else {
        7
    };
    for _ in 0..dice.below(many) {
        let name = either(dice, odd * 3, NAMES, ODD_NAMES);
        let value = either(dice, odd * 3, VALUES, ODD_VALUES);
        line(dice, out, name, value, odd);
    }
    if odd > 0 && dice.one_in(odd * 4) {
        let value = either(dice, 2, LENGTHS, ODD_VALUES);
        line(dice, out, "Content-Length", value, odd);
    }
    if odd > 0 && dice.one_in(odd * 4) {
        let value = either(dice, 4, CODINGS, ODD_VALUES);
        line(dice, out, "Transfer-Encoding", value, odd);
    }
}

/// What frames the body, and the body.
fn framed(dice: &mut Dice, head: &mut Vec<u8>, odd: Oddity, chunks: bool) -> Vec<u8> {
    let body = body(dice);
    if chunks {
        let coding = either(dice, odd * 3, &["chunked", "chunked", "Chunked"], CODINGS);
        line(dice, head, "Transfer-Encoding", coding, odd);
        return chunked(dice, &body, odd);
    }
    let length = body.len().to_string();
    let length = if odd > 0 && dice.one_in(odd * 3) { dice.pick(LENGTHS) } else { &length };
    let name = dice.pick(&["Content-Length", "content-length"]);
    line(dice, head, name, length, odd);
    body
}

/// A body in chunks.
fn chunked(dice: &mut Dice, body: &[u8], odd: Oddity) -> Vec<u8> {
    const EXTENSIONS: &[&str] =
        &["", "", ";a=b", " ; x", "\t", ";\"q\r\n\"", ";\0", " 5", ";", " ", ";a\n", "\r;"];
    let mut out = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(1 + dice.below(rest.len()));
        rest = after;
        let size = piece.len();
        let size = match dice.below(8) {
            0 => format!("{size:X}"),
            1 => format!("0000{size:x}"),
            2 if odd > 0 && dice.one_in(odd) => {
                let wrong =
                    [" ", "-", "+", "0x", "g", "\r\n", "fffffffffffffff", "10000000000000000"];
                format!("{}{size:x}", dice.pick(&wrong))
            }
            _ => format!("{size:x}"),
        };
        out.extend_from_slice(size.as_bytes());
        if dice.one_in(4) {
            let harmless = &EXTENSIONS[..5];
            out.extend_from_slice(either(dice, odd, harmless, EXTENSIONS).as_bytes());
        }
        if dice.one_in(150) {
            out.extend_from_slice(b";long=");
            out.resize(out.len() + dice.below(1100), b'l');
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(if odd > 0 && dice.one_in(odd * 4) { b"00;x\r\n" } else { b"0\r\n" });
    if dice.one_in(4) {
        fields(dice, &mut out, odd);
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// A request by itself.
fn one_request(dice: &mut Dice, odd: Oddity) -> Vec<u8> {
    let method = either(dice, odd * 4, METHODS, ODD_METHODS);
    let target = either(dice, odd * 2, TARGETS, ODD_TARGETS);
    let version = either(dice, odd * 5, &["HTTP/1.1"], VERSIONS);
    let mut head = Vec::new();
    if odd > 0 && dice.one_in(odd * 8) {
        head.extend_from_slice(dice.pick(&[b"\r\n", b"\n\n", b"\r\0", b"  "]));
    }
    let space = if odd > 0 && dice.one_in(odd * 8) { dice.pick(&["  ", "\t", ""]) } else { " " };
    head.extend_from_slice(format!("{method}{space}{target} {version}\r\n").as_bytes());
    let host = either(dice, odd * 4, HOSTS, ODD_HOSTS);
    let first = dice.one_in(2);
    let hosts = if odd > 0 { dice.pick(&[0, 1, 1, 1, 1, 1, 1, 2]) } else { 1 };
    for _ in 0..hosts {
        if first {
            line(dice, &mut head, dice_host(odd), host, odd);
        }
    }
    fields(dice, &mut head, odd);
    if dice.one_in(6) {
        let value = either(dice, odd, &["close", "keep-alive", "Keep-Alive"], ODD_VALUES);
        line(dice, &mut head, "Connection", value, odd);
    }
    let has_body =
        if odd > 0 { dice.one_in(2) } else { matches!(method, "POST" | "PUT" | "PATCH") };
    let in_chunks = odd > 0 && dice.one_in(3);
    let body = if has_body { framed(dice, &mut head, odd, in_chunks) } else { Vec::new() };
    for _ in 0..hosts {
        if !first {
            line(dice, &mut head, dice_host(odd), host, odd);
        }
    }
    head.extend_from_slice(b"\r\n");
    head.extend(body);
    head
}

fn dice_host(odd: Oddity) -> &'static str {
    if odd == 1 { "hOsT" } else { "Host" }
}

/// How odd the next message is.
fn oddity(dice: &mut Dice) -> Oddity {
    dice.pick(&[0, 0, 0, 1, 2, 4, 8, 16])
}

/// What a client may send: one request or several, some of it tampered with.
pub(super) fn requests(dice: &mut Dice) -> Vec<u8> {
    let odd = oddity(dice);
    let mut bytes = one_request(dice, odd);
    while dice.one_in(6) {
        let odd = oddity(dice);
        bytes.extend(one_request(dice, odd));
    }
    if dice.one_in(3) {
        mutate(dice, &mut bytes);
    }
    bytes
}

/// What an application may send to one request.
pub(super) fn answer(dice: &mut Dice) -> Vec<u8> {
    const STATUSES: &[&str] =
        &["200", "200", "200", "201", "204", "304", "404", "500", "503", "206", "302", "599"];
    const ODD_STATUSES: &[&str] = &[
        "100", "103", "101", "199", "600", "999", "099", "000", "20", "2000", "abc", "2 0", "-20",
        "+200",
    ];
    let odd = oddity(dice);
    let mut bytes = Vec::new();
    while dice.one_in(12) {
        let interim = dice.pick(&["100 Continue", "103 Early Hints", "102 Processing"]);
        bytes.extend_from_slice(format!("HTTP/1.1 {interim}\r\n").as_bytes());
        fields(dice, &mut bytes, odd);
        bytes.extend_from_slice(b"\r\n");
    }
    let version =
        either(dice, odd * 4, &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], VERSIONS);
    let status = either(dice, odd * 3, STATUSES, ODD_STATUSES);
    let reasons = [" OK", " ", "", " caf\u{e9}", " a\tb", " \0", "  x", "\t", " a\rb"];
    let reason = if odd > 0 && dice.one_in(odd * 2) { dice.pick(&reasons) } else { " OK" };
    bytes.extend_from_slice(format!("{version} {status}{reason}\r\n").as_bytes());
    fields(dice, &mut bytes, odd);
    if dice.one_in(6) {
        let value = either(dice, odd, &["close", "keep-alive", "X-A, close"], ODD_VALUES);
        line(dice, &mut bytes, "Connection", value, odd);
    }
    let body = match dice.below(5) {
        0 => body(dice),
        1 | 2 => framed(dice, &mut bytes, odd, true),
        _ => framed(dice, &mut bytes, odd, false),
    };
    bytes.extend_from_slice(b"\r\n");
    bytes.extend(body);
    if dice.one_in(8) {
        bytes.extend_from_slice(dice.pick(BODIES));
    }
    if dice.one_in(3) {
        mutate(dice, &mut bytes);
    }
    bytes
}

/// A block of field lines as a peer sends it: sound, odd, or tampered with; now and then nothing at all.
pub(super) fn block(dice: &mut Dice) -> Vec<u8> {
    let mut out = Vec::new();
    if dice.one_in(10) {
        return out;
    }
    let odd = oddity(dice);
    fields(dice, &mut out, odd);
    if dice.one_in(8) {
        let name = dice.pick(ODD_NAMES);
        let value = either(dice, 2, VALUES, ODD_VALUES);
        line(dice, &mut out, name, value, 0);
    }
    out.extend_from_slice(b"\r\n");
    if dice.one_in(8) {
        mutate(dice, &mut out);
    }
    out
}

/// Method, target and authority as a peer sends them.
pub(super) fn asked(dice: &mut Dice) -> [String; 3] {
    let odd = oddity(dice) * 2;
    [
        either(dice, odd, METHODS, ODD_METHODS),
        either(dice, odd, TARGETS, ODD_TARGETS),
        either(dice, odd, HOSTS, ODD_HOSTS),
    ]
    .map(|part| {
        let mut part = part.as_bytes().to_vec();
        if odd > 0 && dice.one_in(8) {
            mutate(dice, &mut part);
        }
        String::from_utf8_lossy(&part).into_owned()
    })
}
