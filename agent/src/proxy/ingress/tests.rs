//! Routes and belief, without a network.

use super::*;

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

fn gate(routes: &[(&[&str], &str, &str)], trust: &[&str]) -> Gate {
    let routes = routes
        .iter()
        .map(|(hosts, path, to)| IngressRoute {
            hosts: hosts.iter().map(|h| HostPattern::parse(h).unwrap()).collect(),
            path: (*path).to_owned(),
            service: service(to),
        })
        .collect();
    let trust = trust.iter().map(|n| Network::parse(n).unwrap()).collect();
    let listen = "127.0.0.1:80".parse().unwrap();
    Gate::new(&Ingress { listen, tls: None, trust, routes }).unwrap()
}

fn request(uri: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::get(uri);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

#[test]
fn the_most_specific_host_decides_and_then_the_longest_path() {
    let gate = gate(
        &[
            (&["*"], "/", "web"),
            (&["shop.example.com"], "/", "shop"),
            (&["shop.example.com"], "/api/v2/", "new"),
            (&["shop.example.com"], "/api", "api"),
            (&["*.example.com"], "/", "any"),
            (&["*.b.example.com"], "/", "deep"),
        ],
        &[],
    );
    for (host, path, expected) in [
        ("shop.example.com", "/", "shop"),
        ("Shop.Example.COM:8080", "/x", "shop"),
        ("shop.example.com.", "/api", "api"),
        ("shop.example.com", "/api/", "api"),
        ("shop.example.com", "/apix", "shop"),
        ("shop.example.com", "/api/v2", "api"),
        ("shop.example.com", "/api/v2/x", "new"),
        ("other.example.com", "/api", "any"),
        ("a.b.example.com", "/", "deep"),
        ("example.com", "/", "web"),
        ("192.0.2.1", "/", "web"),
        ("", "/", "web"),
    ] {
        let found = gate.route(host, path).map(ServiceName::as_str);
        assert_eq!(found, Some(expected), "{host}{path}");
    }
}

#[test]
fn a_host_that_nobody_has_is_no_route() {
    let gate = gate(&[(&["shop.example.com"], "/api", "shop")], &[]);
    for (host, path) in [("shop.example.com", "/"), ("example.com", "/api"), ("shop", "/api")] {
        let mut request = request(path, &[("host", host)]);
        let told = gate.receive(&mut request, [9, 9, 9, 9].into()).unwrap_err();
        assert_eq!(told, Failure::NoRoute(host.to_owned()));
        assert_eq!(told.respond("edge").status(), 404);
    }
}

#[test]
fn a_path_is_compared_in_its_canonical_form() {
    let gate = gate(&[(&["*"], "/", "web"), (&["*"], "/admin", "admin")], &[]);
    for (path, to) in [
        ("/x/../admin/y?q=/../", "admin"),
        ("/%61dmin", "admin"),
        ("/%2e%2e/admin", "admin"),
        ("/admin/../x", "web"),
        ("/x?/admin", "web"),
        ("*", "web"),
    ] {
        let mut request = request(path, &[("host", "a")]);
        let found = gate.receive(&mut request, [9, 9, 9, 9].into());
        assert_eq!(found, Ok(service(to)), "{path}");
    }
    let mut wrong = request("/%zz", &[("host", "a")]);
    let told = gate.receive(&mut wrong, [9, 9, 9, 9].into());
    assert!(matches!(told, Err(Failure::BadRequest(_))), "{told:?}");
}

#[test]
fn who_a_stranger_says_it_forwards_for_is_not_believed() {
    let gate = gate(&[(&["*"], "/", "web")], &["10.0.0.0/8"]);
    let said = [
        ("host", "shop.example.com"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
        ("x-forwarded-host", "evil.example.com"),
        ("x-request-id", "mine"),
    ];
    let mut stranger = request("/", &said);
    gate.receive(&mut stranger, [9, 9, 9, 9].into()).unwrap();
    let h = stranger.headers();
    for name in ["x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host"] {
        assert!(!h.contains_key(name), "{name}");
    }
    assert_eq!(h["x-forwarded-proto"], "http");
    assert_eq!(h["x-request-id"], "mine");
    let mut trusted = request("/", &said);
    gate.receive(&mut trusted, [10, 1, 1, 1].into()).unwrap();
    let h = trusted.headers();
    assert_eq!(
        (&h["x-forwarded-for"], &h["x-forwarded-proto"]),
        (&"1.2.3.4".parse().unwrap(), &"https".parse().unwrap())
    );
}
