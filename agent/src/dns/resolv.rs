//! Who answers names, by `/etc/resolv.conf` (resolv.conf(5)). Pure.

use std::net::{IpAddr, SocketAddr};

const PORT: u16 = 53;

/// The resolvers that a text names.
pub(super) fn resolvers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        let word = words.next()?;
        // An interface behind a link-local address, which needs its number; nobody forwards there.
        word.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT))
    };
    text.lines().filter_map(address).collect()
}

/// Whether these are only the stub of systemd-resolved, which knows the real ones (and may ask us).
pub(super) fn is_stub(resolvers: &[SocketAddr]) -> bool {
    const STUBS: [[u8; 4]; 2] = [[127, 0, 0, 53], [127, 0, 0, 54]];
    let stub = |at: &SocketAddr| STUBS.iter().any(|ip| at.ip() == IpAddr::from(*ip));
    !resolvers.is_empty() && resolvers.iter().all(stub)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameserver_lines_are_read_and_others_are_not() {
        let text = "# nameserver 9.9.9.9\n; x\ndomain example.com\nnameserver 10.0.0.53\n  nameserver\t\
                    2001:db8::53  # main\nnameserver fe80::1%eth0\nnameserver\nnameservers 1.1.1.1\n\
                    options ndots:2\n";
        let found: Vec<_> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.53:53", "[2001:db8::53]:53"]);
    }

    #[test]
    fn a_stub_is_told_from_a_resolver() {
        assert!(is_stub(&resolvers("nameserver 127.0.0.53\n")));
        assert!(!is_stub(&resolvers("nameserver 127.0.0.1\n")));
        assert!(!is_stub(&resolvers("nameserver 127.0.0.53\nnameserver 10.0.0.53\n")));
        assert!(!is_stub(&[]));
    }
}
