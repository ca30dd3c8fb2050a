//! The whole file, each mistake's text as people will read it, the environment, and reloads.

use super::*;

mod finding;

const WHOLE: &str = r#"
name = "web-1"
zone = "a"
state_dir = "/var/lib/hearth"
log = "info,hearth_agent::link=debug"

[mesh]
listen = "0.0.0.0:7940"
advertise = "10.77.0.11:7940"
seeds = ["10.77.0.12:7940", "ledger-0.ledger.svc:7940", "[2001:db8::1]:7940"]

[join]
control = "10.77.0.2:7945"
token_file = "/etc/hearth/token"

[admin]
socket = "/run/hearth/agent.sock"
http = "127.0.0.1:7941"

[outbound]
http = "127.0.0.1:7942"

[[upstream]]
service = "ledger"
listen = "127.0.0.1:8001"

[[endpoint]]
service = "ledger"
address = "127.0.0.1:9000"
role = "warm"
priority = 3
protocol = "http"
pid_file = "/run/ledger.pid"
[endpoint.check]
kind = "http"
path = "/healthz"
interval = "250ms"
timeout = "100ms"
fall = 3
rise = 2
[endpoint.activate]
kind = "exec"
command = ["/usr/local/bin/warm-up", "ledger"]
deadline = "30s"
[endpoint.deactivate]
kind = "http"
url = "http://127.0.0.1:9000/deactivate"

[[endpoint]]
service = "ledger"
address = "127.0.0.1:9001"

[telemetry]
otlp = "http://10.77.0.3:4317"
"#;

const SMALL: &str = "name = \"web-1\"\n[mesh]\nlisten = \"10.77.0.11:7940\"\n";

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::parse("agent.toml", text, [])
}

fn read_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let pairs = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::parse("agent.toml", text, pairs)
}

fn mistake(text: &str) -> String {
    read(text).expect_err("it was taken").to_string()
}

#[test]
fn every_key_of_the_file_becomes_a_value() {
    let c = read(WHOLE).unwrap();
    assert_eq!(c.name.as_str(), "web-1");
    assert_eq!(c.mesh.advertise.to_string(), "10.77.0.11:7940");
    let seeds: Vec<_> = c.mesh.seeds.iter().map(ToString::to_string).collect();
    assert_eq!(seeds, ["10.77.0.12:7940", "ledger-0.ledger.svc:7940", "[2001:db8::1]:7940"]);
    assert_eq!(c.join.as_ref().unwrap().token, Some(Token::File("/etc/hearth/token".into())));
    assert_eq!(c.upstreams.len(), 1);
    assert_eq!(c.otlp.as_deref(), Some("http://10.77.0.3:4317"));
    let [warm, hot] = c.endpoints.as_slice() else { panic!("{:?}", c.endpoints) };
    assert_eq!((warm.role, warm.instance), (Role::Warm { priority: 3 }, 0));
    assert_eq!(warm.check.kind, CheckKind::Http { path: "/healthz".into() });
    assert_eq!(
        (warm.pid_file.as_deref(), &hot.pid_file),
        (Some(Path::new("/run/ledger.pid")), &None)
    );
    assert_eq!((warm.check.fall, warm.check.rise), (3, 2));
    assert_eq!(warm.check.interval, Duration::from_millis(250));
    let activate = warm.activate.as_ref().unwrap();
    assert_eq!(
        activate.action,
        Action::Exec(vec!["/usr/local/bin/warm-up".into(), "ledger".into()])
    );
    assert_eq!(activate.deadline, Duration::from_secs(30));
    let deactivate = warm.deactivate.as_ref().unwrap();
    assert_eq!(deactivate.deadline, Duration::from_secs(10));
    assert!(matches!(&deactivate.action, Action::Http(url) if url.path() == "/deactivate"));
    assert_eq!((hot.role, hot.instance), (Role::Hot, 1));
    assert_eq!(hot.check, Check::default());
}

#[test]
fn what_is_not_written_has_the_documented_default() {
    let c = read(SMALL).unwrap();
    assert_eq!(c.mesh.advertise, c.mesh.listen);
    assert_eq!(c.state_dir, Path::new("/var/lib/hearth"));
    assert_eq!(c.admin.socket, Path::new("/run/hearth/agent.sock"));
    assert_eq!(c.admin.http.unwrap().to_string(), "127.0.0.1:7941");
    assert_eq!(c.outbound.unwrap().to_string(), "127.0.0.1:7942");
    assert_eq!((c.log.as_str(), c.join, c.otlp), ("info", None, None));
}

#[test]
fn how_a_warm_endpoint_is_activated_is_configured_with_it() {
    let endpoint = |more: &str| {
        let base = "[[endpoint]]\nservice = \"ledger\"\naddress = \"127.0.0.1:9000\"\n";
        read(&format!("{SMALL}{base}{more}")).map(|c| c.endpoints[0].clone())
    };
    let hook = "[endpoint.activate]\nkind = \"exec\"\ncommand = [\"/bin/up\"]\n";
    let e = endpoint(&format!("role = \"warm\"\n{hook}")).unwrap();
    assert_eq!((e.attempts, e.weight, e.warm_up), (5, 100, None));
    assert_eq!(e.activation_deadline, Duration::from_secs(20), "an attempt, and 10 s");
    let warm = "[endpoint.warm_up]\npath = \"/hot\"\nrequests = 7\n";
    let e = endpoint(&format!(
        "role = \"warm\"\nweight = 250\nactivation_deadline = \"1m\"\n{hook}attempts = 2\n{warm}"
    ))
    .unwrap();
    assert_eq!((e.attempts, e.weight, e.activation_deadline.as_secs()), (2, 250, 60));
    assert_eq!(e.warm_up, Some(WarmUp { path: "/hot".into(), requests: 7 }));
    for (bad, expected) in [
        (warm.to_owned(), "[endpoint.warm_up] is for warm endpoints, this one is hot"),
        (format!("role = \"warm\"\nprotocol = \"tcp\"\n{warm}"), "is for endpoints that speak http"),
        ("role = \"warm\"\n[endpoint.warm_up]\n".into(), "lacks the key `path`"),
        ("weight = 0\n".into(), "from 1 to 5000"),
        (
            "role = \"warm\"\n[endpoint.deactivate]\nkind = \"exec\"\ncommand = [\"x\"]\nattempts = 2\n"
                .into(),
            "attempts is a key of [endpoint.activate]",
        ),
    ] {
        let told = endpoint(&bad).expect_err(&bad).to_string();
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn mistakes_say_what_where_and_what_to_do() {
    let base = "name = \"web-1\"\n[mesh]\nlisten = \"10.0.0.1:7940\"\n";
    let with = |more: &str| mistake(&format!("{base}{more}"));
    let endpoint = |more: &str| {
        with(&format!("[[endpoint]]\nservice = \"ledger\"\naddress = \"127.0.0.1:9000\"\n{more}"))
    };
    for (found, expected) in [
        (
            with("lisen = 1\n"),
            "agent.toml:4:1: unknown field `lisen`, expected one of `listen`, `advertise`, `seeds`, \
             `lane`, `sensing`, `relay`\n  \
             hint: did you mean `listen`?",
        ),
        (
            endpoint("[endpoint.check]\ninterval = \"1\"\n"),
            "agent.toml:8:12: \"1\" has no unit; write for example \"1s\" or \"1ms\" (units: us, ms, s, \
             m, h, d)",
        ),
        (
            endpoint("[endpoint.check]\ninterval = 5\n"),
            "agent.toml:8:12: \"5\" has no unit; write for example \"5s\" or \"5ms\" (units: us, ms, s, \
             m, h, d)",
        ),
        (
            endpoint("[endpoint.check]\ntimeout = \"0s\"\n"),
            "agent.toml:8:11: 0s is out of bounds; allowed is 10ms to 1h",
        ),
        (
            endpoint("role = \"worm\"\n"),
            "agent.toml:7:8: role is \"worm\"; it must be \"hot\" or \"warm\"\n  hint: did you mean \
             \"warm\"?",
        ),
        (
            endpoint("priority = 1\n"),
            "agent.toml:7:12: priority is for warm endpoints, this one is hot\n  hint: write role = \
             \"warm\", or delete it; a hot endpoint always serves",
        ),
        (
            endpoint("[endpoint.activate]\nkind = \"exec\"\ncommand = [\"true\"]\n"),
            "agent.toml:7:1: [endpoint.activate] is for warm endpoints, this one is hot\n  hint: write \
             role = \"warm\", or delete it; a hot endpoint always serves",
        ),
        (
            endpoint("role = \"warm\"\n[endpoint.activate]\nkind = \"http\"\n"),
            "agent.toml:8:1: [endpoint.activate] lacks the key `url`\n  hint: write url = \
             \"http://127.0.0.1:PORT/PATH\"; it is sent a POST",
        ),
        (
            endpoint(
                "role = \"warm\"\n[endpoint.activate]\nkind = \"exec\"\nurl = \"http://a/\"\n",
            ),
            "agent.toml:8:1: [endpoint.activate] lacks the key `command`\n  hint: write command = \
             [\"/path/to/program\", \"argument\"]; no shell is used\nagent.toml:10:7: url is of no use \
             to a hook of kind \"exec\"",
        ),
        (
            endpoint("[[endpoint]]\nservice = \"ledger\"\naddress = \"127.0.0.1:9000\"\n"),
            "agent.toml:7:1: ledger at 127.0.0.1:9000 is an endpoint already (line 4)\n  hint: delete \
             one of the two, or correct its address",
        ),
        (
            with("[[endpoint]]\nservice = \"ledger\"\naddress = \"localhost:9000\"\n"),
            "agent.toml:6:11: \"localhost:9000\" is not an address (IP:port)\n  hint: names are not \
             looked up here; write the IP address",
        ),
        (
            with("[[endpoint]]\nservice = \"ledger\"\naddress = \"0.0.0.0:9000\"\n"),
            "agent.toml:6:11: 0.0.0.0:9000 cannot be connected to\n  hint: write the address and port \
             others reach it at",
        ),
        (
            with("[[upstream]]\nservice = \"ledger\"\nlisten = \"127.0.0.1:7942\"\n"),
            "agent.toml:6:10: 127.0.0.1:7942 is taken already by outbound.http\n  hint: give it a port \
             of its own",
        ),
        (
            with("[admin]\nhttp = \"0.0.0.0:7940\"\n"),
            "agent.toml:5:8: 0.0.0.0:7940 is taken already by mesh.listen\n  hint: give it a port of \
             its own",
        ),
        (
            with("[join]\ncontrol = \"https://10.0.0.2:7945\"\n"),
            "agent.toml:5:11: \"https://10.0.0.2\" in \"https://10.0.0.2:7945\" is neither a host name \
             nor an address\n  hint: write it without the scheme",
        ),
        (
            with("[join]\ncontrol = \"10.0.0.2:7945\"\ntoken = \"x\"\ntoken_file = \"/t\"\n"),
            "agent.toml:7:14: both token and token_file are given\n  hint: keep the one that is meant \
             and delete the other",
        ),
        (
            with("[join]\ncontrol = \"10.0.0.2:7945\"\ntoken = \"hearth1.abc\"\n"),
            "agent.toml:6:9: the join token is not of the form hearth1.HASH.SECRET; was it copied \
             whole?\n  hint: make a new one on the control host: hearth token create NODE",
        ),
        (
            with("[telemetry]\notlp = \"10.0.0.3:4317\"\n"),
            "agent.toml:5:8: \"10.0.0.3:4317\" is not an http:// URL with a host\n  hint: for example \
             \"http://127.0.0.1:4317\"",
        ),
        (
            mistake("[mesh]\nlisten = \"0.0.0.0:7940\"\n"),
            "agent.toml: the key `name` is missing\n  hint: write name = \"…\", this node's name in the \
             mesh (a DNS label), or set HEARTH_NAME\nagent.toml:2:10: mesh.advertise is missing; \
             mesh.listen is 0.0.0.0:7940, which others cannot dial\n  hint: write advertise = \
             \"IP:7940\" under [mesh], the address other agents dial",
        ),
        (
            mistake("name = \"\"\n[mesh]\nlisten = \"10.0.0.1:7940\"\n"),
            "agent.toml:1:8: a node name may not be empty\n  hint: write one, such as \"web-1\"",
        ),
        (
            mistake("name = \"Web.1\"\n[mesh]\nlisten = \"10.0.0.1:7940\"\n"),
            "agent.toml:1:8: the node name \"Web.1\" has 'W' at position 1; allowed are a-z, 0-9 and, \
             not first or last, '-'\n  hint: for example \"web-1\"",
        ),
        (
            mistake("log = \"inof\"\nname = \"a\"\n[mesh]\nlisten = \"10.0.0.1:7940\"\n"),
            "agent.toml:1:7: \"inof\" is not a log level\n  hint: did you mean \"info\"?",
        ),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_in_its_order() {
    let text = "name = \"A\"\nstate_dir = \"x\"\n[mesh]\nlisten = \"here\"\nseeds = [\"a\"]\n\
                [[endpoint]]\naddress = \"1.2.3.4\"\n[endpoint.check]\nfall = 0\nkind = \"htpp\"\n";
    let told = mistake(text);
    let places: Vec<_> =
        told.lines().filter_map(|l| l.strip_prefix("agent.toml:")?.split(": ").next()).collect();
    assert_eq!(places, ["1:8", "2:13", "4:10", "5:10", "6:1", "7:11", "9:8", "10:8"], "{told}");
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let e = Config::load(Path::new("/nowhere/agent.toml"), []).unwrap_err();
    assert_eq!(
        e.to_string(),
        "cannot read the configuration /nowhere/agent.toml: No such file or directory (os error 2)\n  \
         hint: write it, or name another with --config FILE"
    );
}

#[test]
fn a_node_without_identity_is_told_how_to_get_one() {
    assert_eq!(
        read(SMALL).unwrap().join_required().unwrap_err().to_string(),
        "agent.toml: section [join] is missing, and /var/lib/hearth holds no identity of an earlier \
         join\n  hint: make a token on the control host (hearth token create web-1) and write [join] \
         with control = \"HOST:7945\" and token = \"…\""
    );
}

#[test]
fn the_environment_stands_over_the_file() {
    let c = read_with(
        WHOLE,
        &[
            ("HEARTH_NAME", "web-7"),
            ("HEARTH_MESH_ADVERTISE", "10.0.0.7:7940"),
            ("HEARTH_MESH_SEEDS", "10.0.0.1:7940, 10.0.0.2:7940"),
            ("HEARTH_ADMIN_HTTP", "off"),
            ("HEARTH_ENDPOINT_0_CHECK_PATH", "/up"),
            ("HEARTH_ENDPOINT_2_SERVICE", "books"),
            ("HEARTH_ENDPOINT_2_ADDRESS", "127.0.0.1:9009"),
            ("HEARTH_ENDPOINT_3_ROLE", "warm"),
            ("HEARTH_ENDPOINT_3_SERVICE", "books"),
            ("HEARTH_ENDPOINT_3_ADDRESS", "127.0.0.1:9010"),
            ("HEARTH_ENDPOINT_3_ACTIVATE_KIND", "exec"),
            ("HEARTH_ENDPOINT_3_ACTIVATE_COMMAND", "/bin/warm up"),
            ("HEARTH_UPSTREAM_0_LISTEN", "127.0.0.1:8111"),
            ("HEARTH_SERVICE_HOST", "10.1.1.1"),
            ("HEARTH_TOKEN", "of the command line"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(c.name.as_str(), "web-7");
    assert_eq!(c.mesh.seeds.len(), 2);
    assert_eq!(c.admin.http, None);
    assert_eq!(c.upstreams[0].listen.port(), 8111);
    let services: Vec<_> = c.endpoints.iter().map(|e| e.service.as_str()).collect();
    assert_eq!(services, ["books", "books", "ledger", "ledger"]);
    assert_eq!(
        c.endpoints[1].activate.as_ref().unwrap().action,
        Action::Exec(vec!["/bin/warm".into(), "up".into()])
    );
    assert_eq!(c.endpoints[2].check.kind, CheckKind::Http { path: "/up".into() });
}

#[test]
fn a_token_in_the_environment_replaces_a_token_file_and_is_never_printed() {
    let secret = format!("hearth1.{0}.{0}", "A".repeat(43));
    let c = read_with(WHOLE, &[("HEARTH_JOIN_TOKEN", &secret)]).unwrap();
    assert_eq!(c.join.as_ref().unwrap().token, Some(Token::Text(secret.clone())));
    assert!(!format!("{c:?}").contains(&secret));
    let both = [("HEARTH_JOIN_TOKEN", secret.as_str()), ("HEARTH_JOIN_TOKEN_FILE", "/t")];
    assert!(read_with(WHOLE, &both).unwrap_err().to_string().contains("both token and token_file"));
}

#[test]
fn a_wrong_variable_is_named_and_a_slip_of_the_pen_is_not_ignored() {
    for (variable, value, expected) in [
        (
            "HEARTH_MESH_LISTEN",
            "7940",
            "environment variable HEARTH_MESH_LISTEN: \"7940\" is not an address (IP:port)\n  hint: for \
             example \"127.0.0.1:9000\" or \"[::1]:9000\"",
        ),
        (
            "HEARTH_MESH_LISTNE",
            "x",
            "environment variable HEARTH_MESH_LISTNE: names no key of the configuration\n  hint: did you \
             mean HEARTH_MESH_LISTEN?",
        ),
        (
            "HEARTH_ENDPOINT_0_CHECK_INTERVALL",
            "x",
            "environment variable HEARTH_ENDPOINT_0_CHECK_INTERVALL: names no key of the \
             configuration\n  hint: did you mean HEARTH_ENDPOINT_0_CHECK_INTERVAL?",
        ),
        (
            "HEARTH_ENDPOINT_5_ROLE",
            "warm",
            "environment variable HEARTH_ENDPOINT_5_ROLE: there is no entry 5; there are 2, counted \
             from 0\n  hint: the next one would be 2",
        ),
    ] {
        assert_eq!(read_with(WHOLE, &[(variable, value)]).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_reload_tells_what_changes() {
    let old = read(WHOLE).unwrap();
    assert!(old.diff(&old).unwrap().is_empty());
    let text = WHOLE
        .replace("127.0.0.1:9001", "127.0.0.1:9002")
        .replace("127.0.0.1:8001", "127.0.0.1:8002")
        .replace("link=debug", "link=trace")
        + "[[endpoint]]\nservice = \"books\"\naddress = \"127.0.0.1:9100\"\n";
    let changes = old.diff(&read(&text).unwrap()).unwrap();
    let id = |name: &str, n| (ServiceName::parse(name).unwrap(), n);
    let expected = Changes {
        added: vec![id("books", 0)],
        altered: vec![id("ledger", 1)],
        upstreams: true,
        log: true,
        ..Changes::default()
    };
    assert_eq!(changes, expected);
    let gone = old.diff(&read(SMALL).unwrap());
    assert!(gone.is_err(), "mesh.listen differs");
}

#[test]
fn a_reload_that_needs_a_restart_is_refused_whole() {
    let old = read(WHOLE).unwrap();
    let text = WHOLE.replace("web-1", "web-2").replace("127.0.0.1:7941", "off");
    assert_eq!(
        old.diff(&read(&text).unwrap()).unwrap_err().to_string(),
        "agent.toml: not reloaded, the agent goes on with the configuration it has: name (web-1 to \
         web-2), admin.http (127.0.0.1:7941 to off) cannot change while it runs\n  hint: restart the \
         agent to use the new file, or undo the change"
    );
}

#[test]
fn the_example_that_is_installed_is_a_valid_configuration() {
    let text = include_str!("../../../deploy/agent.example.toml").replace("@NAME@", "web-1");
    let c = read_with(&text, &[("HEARTH_MESH_ADVERTISE", "192.0.2.11:7940")]).unwrap();
    assert_eq!(c.name.as_str(), "web-1");
}

#[test]
fn the_configurations_within_the_kubernetes_manifests_are_valid() {
    let environment = [("HEARTH_NAME", "ledger-0"), ("HEARTH_MESH_ADVERTISE", "10.1.2.3:7940")];
    for manifest in [
        include_str!("../../../deploy/kubernetes/sidecar.yaml"),
        include_str!("../../../deploy/kubernetes/daemonset.yaml"),
    ] {
        let (_, block) = manifest.split_once("agent.toml: |\n").unwrap();
        let lines = block.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
        let text: Vec<_> = lines.map(|line| line.trim_start_matches("    ")).collect();
        read_with(&text.join("\n"), &environment).unwrap();
    }
}
