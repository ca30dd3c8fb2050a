//! The peers' profiles: what is set beyond the pairs of `bench::peers`, and why a profile has it.
//!
//! Every profile knows hot from warm (Envoy by priority, `HAProxy` by `backup`). Profiles that send a
//! request again do so for GETs; for POSTs only where nothing was sent, as whoever tunes them would:
//! otherwise they would execute twice what must be executed once.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::field::HEALTH;
use super::subject::Subject;
use crate::bench::BenchError;
use crate::bench::authority::Authority;
use crate::bench::peers::{
    Value, envoy_codec, envoy_config, envoy_endpoint, envoy_program, haproxy_config,
    haproxy_program, open_files,
};
use crate::lab::mesh::UPSTREAM;
use crate::lab::web::PORT;
use crate::lab::{Host, Process};

/// Where the applications' sidecars are called by the caller's.
const INBOUND: u16 = 8443;
/// Envoy's threads, as in the bench of speed.
const ENVOY_THREADS: usize = 2;

/// Starts the sidecar of an application on its host.
///
/// # Errors
/// [`BenchError`] when the program is not installed or cannot be started.
pub(super) fn inbound(
    subject: Subject,
    host: &Arc<Host>,
    authority: &Authority,
) -> Result<Arc<Process>, BenchError> {
    let mut values = shared(subject, authority);
    values.extend([
        ("B_HOST", host.ip().to_string()),
        ("B_PORT", INBOUND.to_string()),
        ("APP_PORT", PORT.to_string()),
        ("APPLICATION_OPTIONS", envoy_codec(false).1.to_owned()),
        ("APPLICATION", application(subject).to_owned()),
    ]);
    start(subject, host, "in", &values)
}

/// Starts the caller's sidecar.
///
/// # Errors
/// As [`inbound`].
pub(super) fn outbound(
    subject: Subject,
    host: &Arc<Host>,
    authority: &Authority,
    hot: &[Arc<Host>],
    warm: &[Arc<Host>],
) -> Result<Arc<Process>, BenchError> {
    let mut values = shared(subject, authority);
    values.extend([
        ("A_PORT", UPSTREAM.to_string()),
        ("EDGE_CODEC", envoy_codec(false).0.to_owned()),
        ("ROUTES", routes(subject)),
        ("CONNECT", if is_tuned(subject) { "0.25s" } else { "5s" }.to_owned()),
        ("CLUSTER", cluster(subject)),
        ("ENDPOINTS", envoy_endpoints(hot, warm)),
        ("BACKEND", backend(subject)),
        ("SERVERS", haproxy_servers(subject, hot, warm)),
    ]);
    start(subject, host, "out", &values)
}

fn start(
    subject: Subject,
    host: &Host,
    way: &str,
    values: &[Value],
) -> Result<Arc<Process>, BenchError> {
    let program = if is_envoy(subject) {
        let (name, text) = envoy_config(way, values)?;
        envoy_program(way, &host.write(&name, &text)?, ENVOY_THREADS)?
    } else {
        let (name, text) = haproxy_config(way, values)?;
        haproxy_program(way, &host.write(&name, &text)?)?
    };
    Ok(host.spawn(&program)?)
}

fn is_envoy(subject: Subject) -> bool {
    matches!(subject, Subject::EnvoyTuned | Subject::EnvoyBest | Subject::EnvoyDefault)
}

fn is_tuned(subject: Subject) -> bool {
    matches!(subject, Subject::EnvoyTuned | Subject::EnvoyBest)
}

/// What both sides are told.
fn shared(subject: Subject, authority: &Authority) -> Vec<Value> {
    let file = |path: &Path| path.display().to_string();
    let (client, server) = (&authority.client, &authority.server);
    let (codec, options) = envoy_codec(is_tuned(subject));
    let files = open_files();
    vec![
        ("CA", file(&authority.root_file)),
        ("A_CERT", file(&client.certificate_file)),
        ("A_KEY", file(&client.key_file)),
        ("A_PEM", file(&client.both_file)),
        ("B_CERT", file(&server.certificate_file)),
        ("B_KEY", file(&server.key_file)),
        ("B_PEM", file(&server.both_file)),
        ("ALPN", if is_tuned(subject) { "h2" } else { "http/1.1" }.to_owned()),
        ("CODEC", codec.to_owned()),
        ("UPSTREAM_OPTIONS", options.to_owned()),
        ("PROTO", String::new()),
        ("THREADS", "1".to_owned()),
        ("FILES", files.to_string()),
        ("CONNECTIONS", files.saturating_sub(1000).max(100).to_string()),
    ]
}

/// Envoy's routes. Default: a second try where nothing was sent. Tuned: another host after 250 ms.
fn routes(subject: Subject) -> String {
    let another = "num_retries: 2, host_selection_retry_max_attempts: 5, retry_host_predicate: \
                   [{ name: envoy.retry_host_predicates.previous_hosts, typed_config: { \"@type\": \
                   type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate \
                   } }]";
    let priorities = "retry_priority: { name: envoy.retry_priorities.previous_priorities, \
                      typed_config: { \"@type\": \
                      type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, \
                      update_frequency: 1 } }";
    let route = |matching: &str, on: &str, more: &str| {
        format!(
            "{{ match: {{ prefix: \"/\"{matching} }}, route: {{ cluster: peer, timeout: 0s, \
             retry_policy: {{ retry_on: \"{on}\", {another}{more} }} }} }}"
        )
    };
    if !is_tuned(subject) {
        return format!("[{}]", route("", "connect-failure,refused-stream,unavailable", ""));
    }
    let per_try = if subject == Subject::EnvoyBest {
        format!(", per_try_timeout: 0.25s, {priorities}")
    } else {
        ", per_try_timeout: 0.25s".to_owned()
    };
    let post = ", headers: [{ name: \":method\", string_match: { exact: POST } }]";
    let unsent = "connect-failure,refused-stream,reset-before-request";
    format!(
        "[{}, {}]",
        route(post, unsent, &per_try),
        route("", "5xx,reset,connect-failure", &per_try)
    )
}

/// What Envoy's cluster does about hosts that fail.
fn cluster(subject: Subject) -> String {
    // Meshes' default; Envoy's own, round robin, sends more into a host that does not answer.
    let balance = "lb_policy: LEAST_REQUEST";
    if !is_tuned(subject) {
        return balance.to_owned();
    }
    let merge = match subject {
        Subject::EnvoyBest => "common_lb_config: { update_merge_window: 0s }",
        _ => "common_lb_config: {}",
    };
    format!(
        "health_checks: [{{ interval: 1s, no_traffic_interval: 1s, timeout: 0.5s, \
         unhealthy_threshold: 2, healthy_threshold: 1, http_health_check: {{ path: {HEALTH}, \
         codec_client_type: HTTP2 }} }}]\n    \
         outlier_detection: {{ consecutive_5xx: 3, consecutive_gateway_failure: 3, \
         enforcing_consecutive_gateway_failure: 100, interval: 1s, max_ejection_percent: 100 }}\n    \
         {balance}\n    {merge}"
    )
}

fn envoy_endpoints(hot: &[Arc<Host>], warm: &[Arc<Host>]) -> String {
    let level = |priority: u8, hosts: &[Arc<Host>]| {
        let all: Vec<String> = hosts.iter().map(|host| envoy_endpoint(at(host))).collect();
        format!("{{ priority: {priority}, lb_endpoints: [{}] }}", all.join(", "))
    };
    format!("[{}, {}]", level(0, hot), level(1, warm))
}

/// What `HAProxy` does about servers that fail, at the caller.
fn backend(subject: Subject) -> String {
    let (balance, server) = match subject {
        Subject::HaproxyTight => ("leastconn", "250ms"),
        _ => ("roundrobin", "1s"),
    };
    format!(
        "    balance {balance}\n    timeout connect 250ms\n    timeout server {server}\n    \
         retries 3\n    option redispatch 1\n    retry-on all-retryable-errors\n    \
         http-request disable-l7-retry if METH_POST\n    option allbackups\n    \
         option httpchk GET {HEALTH}\n    timeout check 500ms"
    )
}

/// The same at the application. Tight: a refused connection is told at once, not tried again.
fn application(subject: Subject) -> &'static str {
    match subject {
        Subject::HaproxyTight => "    timeout connect 250ms\n    timeout server 1s\n    retries 0",
        _ => "    timeout connect 250ms\n    timeout server 1s\n    retries 3",
    }
}

fn haproxy_servers(subject: Subject, hot: &[Arc<Host>], warm: &[Arc<Host>]) -> String {
    let passive = match subject {
        Subject::HaproxyTight => " fastinter 200ms observe layer7 error-limit 3 on-error mark-down",
        _ => "",
    };
    let mut text = String::new();
    for (hosts, backup) in [(hot, ""), (warm, " backup")] {
        for host in hosts {
            let (name, at) = (host.name(), at(host));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "    server {name} {at} check inter 1s fall 2 rise 1{passive}{backup}"
            );
        }
    }
    text
}

fn at(host: &Host) -> SocketAddr {
    host.at(INBOUND)
}
