//! `POST /v1/debug/bundle`: what somebody else needs to understand what this agent did, and no secret.
//!
//! A `.tar.gz` of the flight recordings, incidents and drills, table, routes, policy, metrics, versions, and
//! the configuration with secrets taken out. Private keys, tokens and the identity directory are never read
//! for it; what would hold something that looks like one all the same is left out and named. Addresses and
//! names of nodes and services are in it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use flate2::Compression;
use flate2::write::GzEncoder;
use hearth_proto::document::{Content, Document};
use hearth_proto::node::Node;
use hearth_proto::time::Time;
use serde::Serialize;

use super::{Admin, Answer, problem};
use crate::flight;

/// A file of the bundle.
type Piece = (String, Vec<u8>);

/// What stands for something that was taken out.
const REDACTED: &str = "<redacted>";
/// Keys of the configuration whose values are secrets, or may be.
const SECRETS: [&str; 6] = ["token", "key", "secret", "password", "private", "credential"];
/// What a secret of Hearth's begins with, and what is in every private key's file.
const MARKS: [&str; 3] = ["hearth1.", "hearthop1.", "PRIVATE KEY-----"];

pub(super) async fn bundle(State(admin): State<Arc<Admin>>) -> Answer {
    let mut pieces = admin.handle.read(core).await?;
    let live = admin.handle.read(|node, _| node.incidents_view()).await?;
    pieces.push(json("incidents.json", &admin.incidents.with(live)));
    pieces.push(json("links.json", &admin.links.views()));
    let (core, expires) = (admin.metrics.clone(), admin.credentials.expires());
    admin.handle.read(move |node, now| core.observe_core(node, now)).await?;
    admin.metrics.cert_expiry(expires);
    pieces.push(("metrics.txt".to_owned(), admin.metrics.render().into_bytes()));
    let name = admin.handle.read(|node, _| node.name().to_string()).await?;
    let (state_dir, config) = (admin.state_dir.clone(), admin.config_file.clone());
    // Reading a ring and packing it is no work for the mesh thread.
    let packed = tokio::task::spawn_blocking(move || {
        pieces.push(("agent.redacted.toml".to_owned(), redacted_file(&config)));
        pieces.extend(recordings(&state_dir));
        pack(&format!("hearth-{name}"), pieces)
    });
    Ok(match packed.await {
        Ok(Ok(bytes)) => {
            let content = [(header::CONTENT_TYPE, "application/gzip")];
            (content, bytes).into_response()
        }
        Ok(Err(e)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &format!("not packed: {e}"), ""),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "packing broke off", ""),
    })
}

fn json(name: &str, value: &impl Serialize) -> Piece {
    let text = serde_json::to_vec_pretty(value);
    (name.to_owned(), text.unwrap_or_else(|e| format!("not written: {e}").into_bytes()))
}

/// What the core says of itself. Within a turn of the driver.
fn core(node: &Node, now: Time) -> Vec<Piece> {
    let routes = node.routes_view();
    let explained: Vec<_> =
        routes.iter().filter_map(|r| node.explain_view(&r.service, now)).collect();
    let versions = serde_json::json!({
        "hearth_agent": env!("CARGO_PKG_VERSION"),
        "protocol": hearth_proto::wire::PROTOCOL,
        "generation": node.hello().generation.0,
    });
    let mut pieces = vec![
        json("versions.json", &versions),
        json("status.json", &node.status_view(now)),
        json("members.json", &node.members_view(now)),
        json("routes.json", &routes),
        json("explain.json", &explained),
        json("drills.json", &node.drill_views(now)),
    ];
    for signed in node.document_records() {
        let document: Option<Document> = hearth_proto::wire::decode_body(&signed.body).ok();
        let Some(document) = document else { continue };
        // Root certificates are public, and of no use here.
        if let Content::Policy(policy) = &document.content {
            pieces
                .push((format!("policy-{}.toml", document.version), document.source.into_bytes()));
            pieces.push(json("policy.json", policy));
        }
    }
    pieces
}

fn recordings(state_dir: &Path) -> Vec<Piece> {
    let directory = state_dir.join(flight::DIRECTORY);
    // Without recordings the rest is still of use.
    let files = flight::files(&directory).unwrap_or_default();
    let read = |path: PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some((format!("{}/{name}", flight::DIRECTORY), std::fs::read(&path).ok()?))
    };
    files.into_iter().filter_map(read).collect()
}

/// Packs the pieces under one directory. What looks like a secret is left out.
fn pack(directory: &str, pieces: Vec<Piece>) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut left_out = String::new();
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, format!("{directory}/{name}"), bytes)
    };
    for (name, bytes) in pieces {
        match mark(&bytes) {
            None => add(&name, &bytes)?,
            Some(mark) => left_out.push_str(&format!("{name}: left out, it holds {mark:?}\n")),
        }
    }
    if !left_out.is_empty() {
        // Named without what would be found again by whoever looks for it.
        add("LEFT-OUT.txt", left_out.replace(['.', '-'], "_").as_bytes())?;
    }
    let mut encoder = archive.into_inner()?;
    encoder.flush()?;
    encoder.finish()
}

fn mark(bytes: &[u8]) -> Option<&'static str> {
    MARKS.into_iter().find(|mark| memchr::memmem::find(bytes, mark.as_bytes()).is_some())
}

fn redacted_file(path: &Path) -> Vec<u8> {
    match std::fs::read_to_string(path) {
        Ok(text) => redacted(&text).into_bytes(),
        Err(e) => format!("# {} cannot be read: {e}\n", path.display()).into_bytes(),
    }
}

/// A configuration without its secrets.
fn redacted(text: &str) -> String {
    match text.parse::<toml::Table>() {
        Ok(mut table) => {
            table.iter_mut().for_each(|(key, value)| redact(key, value));
            toml::to_string(&table).unwrap_or_else(|e| format!("# not written: {e}\n"))
        }
        // Its text might hold anything.
        Err(e) => format!("# not TOML: {}\n", e.message()),
    }
}

fn redact(key: &str, value: &mut toml::Value) {
    match value {
        toml::Value::Table(table) => table.iter_mut().for_each(|(key, value)| redact(key, value)),
        toml::Value::Array(items) if key == "command" => {
            // A program's name is of use; its arguments may be anything.
            items.iter_mut().skip(1).for_each(|item| *item = REDACTED.into());
        }
        toml::Value::Array(items) => items.iter_mut().for_each(|item| redact(key, item)),
        toml::Value::String(text) => {
            let secret = SECRETS.iter().any(|word| key.contains(word)) && !key.ends_with("_file");
            if secret || mark(text.as_bytes()).is_some() {
                *text = REDACTED.to_owned();
            } else if let Some(bare) = without_userinfo(text) {
                *text = bare;
            }
        }
        _ => {}
    }
}

/// A URL without the user and password in it; `None` where there are none.
fn without_userinfo(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let at = rest[..end].rfind('@')?;
    Some(format!("{scheme}://{REDACTED}@{}", &rest[at + 1..]))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const CONFIG: &str = r#"
name = "web-1"
[join]
control = "10.0.0.2:7945"
token = "hearth1.AAAA.BBBB"
[telemetry]
otlp = "http://user:pass@10.0.0.3:4317/x"
[[ingress]]
listen = "0.0.0.0:443"
tls = { certificate = "/etc/shop.pem", key = "/etc/shop.key" }
[[endpoint]]
service = "ledger"
address = "127.0.0.1:9000"
[endpoint.activate]
kind = "exec"
command = ["/usr/bin/warm", "--api-key=hunter2"]
[endpoint.check]
kind = "http"
path = "/x?sig=hearthop1.zzz"
"#;

    #[test]
    fn a_configuration_keeps_what_explains_and_loses_what_opens() {
        let text = redacted(CONFIG);
        for secret in ["AAAA", "BBBB", "user", "pass@", "hunter2", "zzz", "shop.key"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        for kept in ["web-1", "10.0.0.2:7945", "10.0.0.3:4317/x", "/usr/bin/warm", "0.0.0.0:443"] {
            assert!(text.contains(kept), "no {kept} in {text}");
        }
        assert!(!redacted("token = 'hearth1.AAAA.BBBB").contains("AAAA"), "what is not TOML");
    }

    #[test]
    fn what_looks_like_a_secret_is_left_out_of_the_bundle_and_named() {
        let key = format!("-----BEGIN {}-----\nMC4CAQ\n", "PRIVATE KEY");
        let pieces = vec![
            ("status.json".to_owned(), b"{}".to_vec()),
            ("a.txt".to_owned(), key.into_bytes()),
            ("b.txt".to_owned(), b"x hearth1.abc.def".to_vec()),
        ];
        let packed = pack("hearth-web-1", pieces).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(mark(&plain), None);
        let mut archive = tar::Archive::new(&plain[..]);
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["hearth-web-1/status.json", "hearth-web-1/LEFT-OUT.txt"]);
    }
}
