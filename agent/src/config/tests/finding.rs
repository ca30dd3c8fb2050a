//! What services speak and how programs find them: every key, each mistake's text, environment, reload.

use super::{mistake, read, read_with};
use crate::config::*;

const WHOLE: &str = r#"
name = "web-1"
[mesh]
listen = "10.77.0.11:7940"

[outbound]
socks5 = "127.0.0.1:1080"

[dns]
listen = "127.0.0.1:7943"
address = "10.77.0.11"
upstream = ["10.77.0.53", "[2001:db8::53]:5353"]

[[upstream]]
service = "ledger"
listen = "127.0.0.1:8001"

[[upstream]]
service = "beats"
listen = "127.0.0.1:8001"
protocol = "udp"
idle = "5s"

[[ingress]]
listen = "0.0.0.0:443"
trust = ["10.0.0.0/8", "2001:db8::1"]
tls = { certificate = "/etc/hearth/shop.pem", key = "/etc/hearth/shop.key" }
[[ingress.route]]
hosts = ["Shop.example.com", "*.shop.example.com"]
path = "/api"
service = "ledger"
[[ingress.route]]
hosts = ["*"]
service = "web"

[[endpoint]]
service = "beats"
address = "127.0.0.1:9100"
protocol = "udp"

[[endpoint]]
service = "ledger"
address = "127.0.0.1:9001"
http = "2"

[[endpoint]]
service = "rpc"
address = "unix:/run/rpc.sock"
protocol = "grpc"
[endpoint.check]
kind = "grpc"

[[endpoint]]
service = "tape"
address = "unix:/run/tape.sock"
protocol = "tcp"
"#;

const BASE: &str = "name = \"web-1\"\n[mesh]\nlisten = \"10.0.0.1:7940\"\n";

fn with(more: &str) -> String {
    mistake(&format!("{BASE}{more}"))
}

fn endpoint(more: &str) -> String {
    with(&format!("[[endpoint]]\nservice = \"ledger\"\naddress = \"127.0.0.1:9000\"\n{more}"))
}

#[test]
fn an_endpoint_says_what_it_speaks_and_where() {
    let c = read(WHOLE).unwrap();
    let [beats, ledger, rpc, tape] = c.endpoints.as_slice() else { panic!("{:?}", c.endpoints) };
    assert_eq!((beats.protocol, &beats.check.kind), (Protocol::Udp, &CheckKind::Udp));
    assert_eq!((ledger.protocol, ledger.http), (Protocol::Http, HttpVersion::Two));
    assert_eq!((rpc.protocol, rpc.http), (Protocol::Grpc, HttpVersion::Two));
    assert_eq!(rpc.address, AppAddress::Socket("/run/rpc.sock".into()));
    assert_eq!(rpc.check.kind, CheckKind::Grpc);
    assert_eq!((tape.protocol, &tape.check.kind), (Protocol::Tcp, &CheckKind::Tcp));
    assert_eq!(tape.address.to_string(), "unix:/run/tape.sock");
}

#[test]
fn ports_names_and_proxies_are_opened_only_where_they_are_asked_for() {
    let c = read(BASE).unwrap();
    assert_eq!((c.socks, c.dns, c.ingresses), (None, None, Vec::new()));
    let c = read(WHOLE).unwrap();
    assert_eq!(c.socks.unwrap().to_string(), "127.0.0.1:1080");
    let dns = c.dns.as_ref().unwrap();
    assert_eq!((dns.listen.port(), dns.address.to_string().as_str()), (7943, "10.77.0.11"));
    let resolvers = ["10.77.0.53:53".parse().unwrap(), "[2001:db8::53]:5353".parse().unwrap()];
    assert_eq!(dns.resolvers, Resolvers::These(resolvers.to_vec()));
    let [plain, datagrams] = c.upstreams.as_slice() else { panic!("{:?}", c.upstreams) };
    assert_eq!(plain.transport, Transport::Tcp);
    let idle = Duration::from_secs(5);
    assert_eq!(datagrams.transport, Transport::Udp { idle }, "one number, a port of either kind");
    let small = read(&format!("{BASE}[dns]\nlisten = \"127.0.0.1:7943\"\n")).unwrap().dns.unwrap();
    assert_eq!(
        (small.address.to_string(), small.resolvers),
        ("127.0.0.1".into(), Resolvers::System)
    );
}

#[test]
fn an_ingress_has_a_port_trusted_networks_and_routes() {
    let c = read(WHOLE).unwrap();
    let [ingress] = c.ingresses.as_slice() else { panic!("{:?}", c.ingresses) };
    assert_eq!(ingress.listen.to_string(), "0.0.0.0:443");
    assert_eq!(ingress.tls.as_ref().unwrap().key, Path::new("/etc/hearth/shop.key"));
    assert!(ingress.trust[0].contains("10.9.9.9".parse().unwrap()));
    let words = |r: &IngressRoute| {
        let hosts: Vec<_> = r.hosts.iter().map(ToString::to_string).collect();
        format!("{} {} {}", hosts.join(","), r.path, r.service)
    };
    let routes: Vec<_> = ingress.routes.iter().map(words).collect();
    assert_eq!(routes, ["shop.example.com,*.shop.example.com /api ledger", "* / web"]);
}

#[test]
fn a_wrong_endpoint_says_what_where_and_what_to_do() {
    for (found, expected) in [
        (
            endpoint("protocol = \"grcp\"\n"),
            "agent.toml:7:12: protocol is \"grcp\"; it must be \"http\" or \"grpc\" or \"tcp\" or \
             \"udp\"\n  hint: did you mean \"grpc\"?",
        ),
        (
            endpoint("http = \"h2\"\n"),
            "agent.toml:7:8: http is \"h2\"; it must be \"1.1\" or \"2\"\n  hint: did you mean \"2\"?",
        ),
        (
            endpoint("protocol = \"grpc\"\nhttp = 1.1\n"),
            "agent.toml:8:8: grpc is always HTTP/2\n  hint: delete it, or write protocol = \"http\"",
        ),
        (
            endpoint("protocol = \"tcp\"\nhttp = 2\n"),
            "agent.toml:8:8: http is a version of HTTP, and this endpoint speaks none\n  hint: delete \
             it, or write protocol = \"http\"",
        ),
        (
            endpoint("protocol = \"udp\"\n[endpoint.check]\nkind = \"tcp\"\n"),
            "agent.toml:9:8: a udp endpoint cannot be checked so\n  hint: delete it; a udp endpoint is \
             out when its port is closed",
        ),
        (
            with("[[endpoint]]\nservice = \"ledger\"\naddress = \"unix:app.sock\"\n"),
            "agent.toml:6:11: \"app.sock\" is not an absolute path\n  hint: for example \
             \"unix:/run/app.sock\"",
        ),
        (
            with("[[endpoint]]\nservice = \"beats\"\naddress = \"unix:/a\"\nprotocol = \"udp\"\n"),
            "agent.toml:6:11: a udp endpoint has a port, not a socket\n  hint: write address = \
             \"127.0.0.1:PORT\"",
        ),
    ] {
        assert_eq!(found, expected);
    }
    let long = format!("/{}", "a".repeat(107));
    let told = with(&format!("[[endpoint]]\nservice = \"x\"\naddress = \"unix:{long}\"\n"));
    assert!(told.contains("has more than 107 bytes"), "{told}");
}

#[test]
fn a_wrong_listener_says_what_where_and_what_to_do() {
    for (found, expected) in [
        (
            with(
                "[[upstream]]\nservice = \"a\"\nlisten = \"127.0.0.1:8001\"\nprotocol = \"tcp\"\n\
                 [[upstream]]\nservice = \"b\"\nlisten = \"127.0.0.1:8002\"\nidle = \"5s\"\n",
            ),
            "agent.toml:7:12: protocol \"tcp\" is not said here\n  hint: delete it: what a service \
             speaks its endpoints say; only \"udp\" needs a port of another kind\nagent.toml:11:8: idle \
             is for udp upstreams\n  hint: write protocol = \"udp\", or delete it",
        ),
        (
            with("[dns]\naddress = \"127.0.0.1\"\n"),
            "agent.toml:5:11: [dns] lacks the key `listen`\n  hint: write listen = \"127.0.0.1:7943\"; \
             without it no name is answered",
        ),
        (
            with(
                "[dns]\nlisten = \"127.0.0.1:53\"\nupstream = [\"127.0.0.1\"]\naddress = \
                 \"0.0.0.0\"\n",
            ),
            "agent.toml:6:13: 127.0.0.1:53 is this very server: questions would go in a circle\n  hint: \
             name a resolver other than this agent\nagent.toml:7:11: \"0.0.0.0\" is not an IP \
             address\n  hint: write the address at which programs reach this agent, without a port",
        ),
        (
            with(
                "[outbound]\nsocks5 = \"127.0.0.1:7941\"\n[dns]\nlisten = \"127.0.0.1:8001\"\n\
                 [[upstream]]\nservice = \"a\"\nlisten = \"0.0.0.0:8001\"\nprotocol = \"udp\"\n",
            ),
            "agent.toml:5:10: 127.0.0.1:7941 is taken already by admin.http\n  hint: give it a port of \
             its own\nagent.toml:10:10: 0.0.0.0:8001 is taken already by dns.listen\n  hint: give it a \
             port of its own",
        ),
        (
            with("[[ingress]]\ntrust = [\"10.0.0.0/33\"]\n"),
            "agent.toml:4:1: this [[ingress]] lacks the key `listen`\n  hint: write listen = \
             \"0.0.0.0:80\", where clients from outside come\nagent.toml:4:1: this [[ingress]] has no \
             route\n  hint: write [[ingress.route]] with hosts = [\"shop.example.com\"] and service = \
             \"shop\"\nagent.toml:5:10: \"10.0.0.0/33\" is not a range of addresses\n  hint: for example \
             \"10.0.0.0/8\" or \"192.0.2.7\"",
        ),
        (
            with(
                "[[ingress]]\nlisten = \"0.0.0.0:80\"\ntls = { key = \"/k\" }\n[[ingress.route]]\n\
                 hosts = [\"shop.example.com:80\"]\nservice = \"shop\"\npath = \"/a/../b\"\n",
            ),
            "agent.toml:6:7: [ingress.tls] lacks the key `certificate`\n  hint: write certificate = \
             \"/path/to/certificate.pem\"\nagent.toml:8:10: \"shop.example.com:80\" is not a host\n  \
             hint: write it without the port\nagent.toml:10:8: \"/a/../b\" is not the beginning of a \
             path\n  hint: it begins with '/', without '.', '..', '//', '%', '?' or '#'",
        ),
        (
            with(
                "[[ingress]]\nlisten = \"0.0.0.0:80\"\n[[ingress.route]]\nhosts = [\"a.b\"]\n\
                 service = \"x\"\n[[ingress.route]]\nhosts = [\"A.b\"]\nservice = \"y\"\n",
            ),
            "agent.toml:9:1: a.b/ has a route already (line 6)\n  hint: delete one, or give it another \
             path",
        ),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn the_environment_reaches_every_one_of_these_keys() {
    let c = read_with(
        WHOLE,
        &[
            ("HEARTH_ENDPOINT_1_HTTP", "1.1"),
            ("HEARTH_OUTBOUND_SOCKS5", "off"),
            ("HEARTH_DNS_LISTEN", "127.0.0.1:7953"),
            ("HEARTH_DNS_ADDRESS", "10.0.0.1"),
            ("HEARTH_DNS_UPSTREAM", "10.0.0.53, 10.0.0.54"),
            ("HEARTH_UPSTREAM_0_PROTOCOL", "udp"),
            ("HEARTH_UPSTREAM_0_LISTEN", "127.0.0.1:8002"),
            ("HEARTH_UPSTREAM_0_IDLE", "1s"),
            ("HEARTH_INGRESS_0_LISTEN", "0.0.0.0:8443"),
            ("HEARTH_INGRESS_0_TRUST", ""),
            ("HEARTH_INGRESS_0_TLS_KEY", "/k"),
            ("HEARTH_INGRESS_0_ROUTE_2_HOSTS", "a.example.com, b.example.com"),
            ("HEARTH_INGRESS_0_ROUTE_2_SERVICE", "books"),
        ],
    )
    .unwrap();
    assert_eq!(c.endpoints[1].http, HttpVersion::One);
    assert_eq!(c.socks, None);
    let dns = c.dns.unwrap();
    assert_eq!((dns.listen.port(), dns.address.to_string()), (7953, "10.0.0.1".to_owned()));
    assert!(matches!(dns.resolvers, Resolvers::These(these) if these.len() == 2));
    assert_eq!(c.upstreams[0].transport, Transport::Udp { idle: Duration::from_secs(1) });
    let ingress = &c.ingresses[0];
    assert_eq!((ingress.listen.port(), ingress.trust.len()), (8443, 0));
    assert_eq!(ingress.tls.as_ref().unwrap().key, Path::new("/k"));
    assert_eq!(ingress.routes[2].hosts.len(), 2);
    let slip = read_with(WHOLE, &[("HEARTH_INGRESS_0_LISTNE", "x")]).unwrap_err().to_string();
    assert!(slip.ends_with("did you mean HEARTH_INGRESS_0_LISTEN?"), "{slip}");
}

#[test]
fn a_reload_may_change_all_of_it() {
    let old = read(WHOLE).unwrap();
    let text = WHOLE
        .replace("socks5 = \"127.0.0.1:1080\"", "")
        .replace("path = \"/api\"", "path = \"/v2\"")
        .replace("10.77.0.53", "10.77.0.54")
        .replace("idle = \"5s\"", "idle = \"6s\"")
        .replace("http = \"2\"", "");
    let expected = Changes {
        altered: vec![(ServiceName::parse("ledger").unwrap(), 0)],
        upstreams: true,
        socks: true,
        ingresses: true,
        dns: true,
        ..Changes::default()
    };
    assert_eq!(old.diff(&read(&text).unwrap()).unwrap(), expected);
}
