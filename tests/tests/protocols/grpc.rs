//! gRPC through a pair: the official library on both sides, a Rust client, and the wire itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hearth_tests::cases::Cases;
use hearth_tests::lab::wait::wait_for;
use hearth_tests::loopback::{Place, free_ports};
use hearth_tests::pair::{Offer, Pair, Plan};
use hearth_tests::python;
use serde_json::Value;

use super::raw_h2::{Answer, Scripted, connect, grpc, grpc_of, run};
use super::tonic_client;

const SOON: Duration = Duration::from_secs(20);
/// The service of every pair here. Its own limit of a request is short: a client's deadline counts.
const POLICY: &str = "[services.echo]\ntimeout = \"2s\"\n";
const MODULES: [&str; 2] = ["grpc", "grpc_health"];

fn full() -> bool {
    std::env::var_os("HEARTH_FULL").is_some()
}

/// The Python application, once it listens; or why there is none.
fn application(place: &Place) -> Result<SocketAddr, String> {
    let [address] = free_ports();
    let program = python::script("grpc_app", &MODULES, &[&address.to_string()])?;
    let process = place.start(program).unwrap();
    wait_for("the gRPC application to listen", SOON, || match process.stdout() {
        out if out.contains("listening") => Ok(()),
        _ => Err(process.stderr()),
    })
    .unwrap();
    Ok(address)
}

fn pair_of(place: Place, app: SocketAddr) -> Pair {
    let offers = vec![Offer::new("echo", "grpc", app)];
    let plan = Plan { offers, policy: POLICY.to_owned(), caller: String::new() };
    Pair::start(place, &plan).unwrap_or_else(|e| panic!("no pair that carries gRPC: {e}"))
}

#[test]
fn grpc_passes_unchanged_for_the_official_library_and_for_a_rust_client() {
    let place = Place::new("grpc").unwrap();
    let app = match application(&place) {
        Ok(app) => app,
        Err(reason) => return println!("NOT RUN: gRPC by its official library: {reason}"),
    };
    let pair = pair_of(place, app);
    let mut cases = Cases::new("grpc");
    let mesh = format!("mesh={}", pair.entry("echo"));
    let idle = if full() { "idle=60" } else { "idle=5" };
    let args = [mesh.as_str(), &format!("app={app}"), idle];
    let client = python::script("grpc_client", &MODULES, &args).unwrap();
    let done = pair.place.run(client, Duration::from_secs(400)).unwrap();
    cases.absorb("python", &done.stdout, &done.stderr);
    tonic_client::check(&mut cases, pair.entry("echo"), app);
    cases.finish();
}

/// Not a test of the mesh: what fails through a pair must hold where nothing is in between.
#[test]
#[ignore = "a control: run it when the rules themselves are in doubt"]
fn the_rules_of_grpc_hold_without_a_mesh() {
    let place = Place::new("grpc-control").unwrap();
    let app = application(&place).unwrap();
    let mut cases = Cases::new("grpc without a mesh");
    let args = [format!("mesh={app}"), format!("app={app}")];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let client = python::script("grpc_client", &MODULES, &args).unwrap();
    let done = place.run(client, Duration::from_secs(400)).unwrap();
    cases.absorb("python", &done.stdout, &done.stderr);
    tonic_client::check(&mut cases, app, app);
    cases.finish();
}

/// One call of the Python client that is under way: its end is told when it comes.
struct UnderWay(std::sync::Arc<hearth_tests::lab::Process>);

impl UnderWay {
    fn start(pair: &Pair, method: &str, sign: &str) -> Self {
        let mesh = format!("mesh={}", pair.entry("echo"));
        let args = [mesh.as_str(), &format!("one={method}"), "deadline=60"];
        let client = python::script("grpc_client", &MODULES, &args).unwrap();
        let process = pair.place.start(client).unwrap();
        wait_for("the call to be on its way", SOON, || match process.stdout() {
            out if out.lines().any(|line| line == sign) => Ok(()),
            out => Err(format!("{out}{}", process.stderr())),
        })
        .unwrap();
        Self(process)
    }

    /// How it ended: status, details and seconds.
    fn end(&self) -> Result<(String, String), String> {
        self.0.wait(Duration::from_secs(70)).map_err(|e| e.to_string())?;
        let out = self.0.stdout();
        let last = out.lines().last().unwrap_or_default();
        let told: Value = serde_json::from_str(last).map_err(|e| format!("{e} in {out}"))?;
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("details")))
    }
}

#[test]
fn a_lost_application_or_agent_is_a_status_to_the_grpc_client() {
    let place = Place::new("grpc-loss").unwrap();
    let [address] = free_ports();
    let program = match python::script("grpc_app", &MODULES, &[&address.to_string()]) {
        Ok(program) => program,
        Err(reason) => return println!("NOT RUN: gRPC by its official library: {reason}"),
    };
    let up = |place: &Place| {
        let app = place.start(program.clone()).unwrap();
        wait_for("the gRPC application to listen", SOON, || match app.stdout() {
            out if out.contains("listening") => Ok(()),
            _ => Err(app.stderr()),
        })
        .unwrap();
        app
    };
    let app = up(&place);
    let mut pair = pair_of(place, address);
    let mut cases = Cases::new("grpc loss");
    let told = |call: &UnderWay, lost: Instant| {
        let (status, details) = call.end()?;
        let after = lost.elapsed();
        // In doubt for longer than a client's patience is no answer; 12 s is what a lost host takes.
        if status == "UNAVAILABLE" && after < Duration::from_secs(15) {
            return Ok(format!("told within {after:.1?}: {details}"));
        }
        Err(format!("{status} after {after:.1?}: {details}"))
    };
    cases.check("an application killed while a stream runs is UNAVAILABLE", || {
        let call = UnderWay::start(&pair, "HangStream", "message");
        app.kill().map_err(|e| e.to_string())?;
        told(&call, Instant::now())
    });
    cases.check("a call while the application is down is UNAVAILABLE", || {
        let call = UnderWay::start(&pair, "Unary", "called");
        told(&call, Instant::now())
    });
    let app = up(&pair.place);
    pair.wait_serving("echo", 1).unwrap();
    cases.check("an application killed before it answered is UNAVAILABLE", || {
        let call = UnderWay::start(&pair, "Hang", "called");
        // The call must be there before the application dies: its own word, asked past the mesh.
        wait_for("the application to have the call", SOON, || {
            let seen = run(tonic_client::events(address, ""))?;
            if seen > 0 { Ok(()) } else { Err("none".to_owned()) }
        })
        .map_err(|e| e.to_string())?;
        app.kill().map_err(|e| e.to_string())?;
        told(&call, Instant::now())
    });
    let _app = up(&pair.place);
    pair.wait_serving("echo", 1).unwrap();
    cases.check("an owner's agent killed while a stream runs is UNAVAILABLE", || {
        let call = UnderWay::start(&pair, "HangStream", "message");
        pair.owners[0].kill().map_err(|e| e.to_string())?;
        told(&call, Instant::now())
    });
    cases.check("a call while nobody is there is UNAVAILABLE", || {
        let call = UnderWay::start(&pair, "Unary", "called");
        told(&call, Instant::now())
    });
    cases.finish();
}

fn wanted(held: bool, answer: &Answer) -> Result<String, String> {
    let text = format!(
        "status {}, {}, grpc-status {:?}, content-type {:?}, grpc-message {:?}",
        answer.status,
        if answer.ended_with_head { "trailers-only" } else { "head and more" },
        answer.grpc_status(),
        answer.head.get("content-type"),
        answer.head.get("grpc-message"),
    );
    if held { Ok(text) } else { Err(text) }
}

fn is_grpc(answer: &Answer) -> bool {
    let kind = answer.head.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    answer.status == 200 && kind.starts_with("application/grpc")
}

#[test]
fn the_grpc_wire_is_kept_and_own_failures_are_written_in_it() {
    let place = Place::new("grpc-wire").unwrap();
    let app = Scripted::start();
    let [dead] = free_ports();
    let offers =
        vec![Offer::new("echo", "grpc", app.address), Offer::new("closed", "grpc", app.address)];
    let policy = format!("{POLICY}\n[services.closed]\nallow = [\"nobody\"]\n");
    // A service that nobody offers, and a port for it.
    let caller = format!("[[upstream]]\nservice = \"absent\"\nlisten = \"{dead}\"\n");
    let plan = Plan { offers, policy, caller };
    let pair =
        Pair::start(place, &plan).unwrap_or_else(|e| panic!("no pair that carries gRPC: {e}"));
    let wire = Wire { app, pair, absent: dead };
    let mut cases = Cases::new("grpc wire");
    wire.shapes(&mut cases);
    wire.deadlines(&mut cases);
    wire.losses(&mut cases);
    wire.own_failures(&mut cases);
    cases.finish();
}

/// A pair with the scripted application behind it.
struct Wire {
    app: Scripted,
    pair: Pair,
    /// A port for a service that nobody offers.
    absent: SocketAddr,
}

impl Wire {
    fn ask(&self, path: &str, fields: &[(&str, &str)]) -> Result<Answer, String> {
        run(grpc(self.pair.entry("echo"), path, fields))
    }

    fn shapes(&self, cases: &mut Cases) {
        cases.check("an answer of head, message and trailers stays one", || {
            let a = self.ask("/t/Ok", &[])?;
            let held = !a.ended_with_head && a.body == [0; 5] && a.grpc_status() == Some("0");
            wanted(held && is_grpc(&a) && a.trailers.is_some(), &a)
        });
        cases.check("a trailers-only answer stays trailers-only", || {
            let a = self.ask("/t/TrailersOnly", &[])?;
            let message = a.head.get("grpc-message").and_then(|v| v.to_str().ok());
            let held = a.ended_with_head && a.grpc_status() == Some("5");
            wanted(held && message == Some("not%20here"), &a)
        });
        cases.check("the application gets te: trailers and the client's authority", || {
            let seen = self.app.seen("/t/Ok");
            let te = seen.first().and_then(|s| s.head.get("te").cloned());
            if te.as_ref().is_some_and(|v| v == "trailers") {
                Ok(String::new())
            } else {
                Err(format!("{te:?}"))
            }
        });
        cases.check("the shared port finds the service by :authority", || {
            let a = run(grpc_of(self.pair.shared, "echo.mesh", "/shared/Ok", &[]))?;
            wanted(is_grpc(&a) && a.grpc_status() == Some("0"), &a)
        });
    }

    fn deadlines(&self, cases: &mut Cases) {
        cases.check("grpc-timeout is passed on, and shortened", || {
            self.ask("/timed/Ok", &[("grpc-timeout", "7S")])?;
            let seen = self.app.seen("/timed/Ok");
            let field = seen.first().and_then(|s| s.head.get("grpc-timeout").cloned());
            let text = field.as_ref().and_then(|v| v.to_str().ok()).unwrap_or("none");
            let left = timeout_us(text).ok_or(format!("grpc-timeout: {text}"))?;
            if (2_000_000..7_000_000).contains(&left) {
                Ok(text.to_owned())
            } else {
                Err(text.to_owned())
            }
        });
        cases.check(
            "a deadline ends the call at the mesh too, for a client that does not watch it",
            || {
                let start = Instant::now();
                let a = self.ask("/late/Hang", &[("grpc-timeout", "1S")])?;
                let took = start.elapsed();
                if took > Duration::from_secs(5) {
                    return Err(format!("answered after {took:.2?}"));
                }
                wanted(is_grpc(&a) && a.grpc_status() == Some("4"), &a)
            },
        );
        cases.check("the application's call is reset when its deadline passed", || {
            reset(&self.app, "/late/Hang").map(|reason| format!("{reason:?}"))
        });
    }

    fn losses(&self, cases: &mut Cases) {
        cases.check("a call that the client resets is reset at the application within 1 s", || {
            let left = run(async {
                let mut send = connect(self.pair.entry("echo")).await?;
                let request = http::Request::post("http://echo.mesh/left/HeadThenHang")
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(())
                    .map_err(|e| e.to_string())?;
                let (answer, mut body) =
                    send.send_request(request, false).map_err(|e| e.to_string())?;
                answer.await.map_err(|e| e.to_string())?;
                let left = Instant::now();
                body.send_reset(h2::Reason::CANCEL);
                // The connection must live until the frame is out.
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(left)
            })?;
            let reason = reset(&self.app, "/left/HeadThenHang")?;
            let seen = self.app.seen("/left/HeadThenHang");
            let at = seen[0].reset.map(|(at, _)| at.saturating_duration_since(left));
            match at {
                Some(late) if late < Duration::from_secs(1) => {
                    Ok(format!("{reason:?} after {late:.1?}"))
                }
                late => Err(format!("{reason:?} after {late:?}")),
            }
        });
        for (path, what) in [
            ("/t/Vanish", "an application that closes the connection unanswered"),
            ("/t/Reset", "an application that resets the stream"),
        ] {
            cases.check(&format!("{what} is a trailers-only status, and was asked once"), || {
                let a = self.ask(path, &[])?;
                let status = a.grpc_status().unwrap_or("none").to_owned();
                let times = self.app.seen(path).len();
                if times != 1 {
                    return Err(format!("the application was asked {times} times"));
                }
                let allowed = status == "14" || (path == "/t/Reset" && status == "13");
                wanted(is_grpc(&a) && a.ended_with_head && allowed, &a)
            });
        }
        cases.check(
            "a connection lost after the head ends the stream, with a status or a reset",
            || match self.ask("/t/HeadThenVanish", &[]) {
                Ok(a) => wanted(a.grpc_status() == Some("14"), &a),
                Err(text) if text.contains("broke off") => Ok(text),
                Err(text) => Err(text),
            },
        );
    }

    fn own_failures(&self, cases: &mut Cases) {
        cases.check("a service that nobody offers is trailers-only UNAVAILABLE", || {
            let a = run(grpc(self.absent, "/t/Ok", &[]))?;
            let proxy = a.head.contains_key("proxy-status");
            wanted(is_grpc(&a) && a.ended_with_head && a.grpc_status() == Some("14") && proxy, &a)
        });
        cases.check(
            "a caller that the policy does not admit is trailers-only PERMISSION_DENIED",
            || {
                let a = run(grpc(self.pair.entry("closed"), "/t/Ok", &[]))?;
                wanted(is_grpc(&a) && a.ended_with_head && a.grpc_status() == Some("7"), &a)
            },
        );
    }
}

/// Waits until the application saw its first request for a path reset.
fn reset(app: &Scripted, path: &str) -> Result<h2::Reason, String> {
    let found = wait_for("the application to see a reset", SOON, || {
        let seen = app.seen(path);
        let reset = seen.first().and_then(|s| s.reset);
        reset.map(|(_, reason)| reason).ok_or(format!("{} requests, no reset", seen.len()))
    });
    found.map_err(|e| e.to_string())
}

/// `grpc-timeout` in microseconds.
fn timeout_us(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.len().checked_sub(1)?);
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => n * 3_600_000_000,
        "M" => n * 60_000_000,
        "S" => n * 1_000_000,
        "m" => n * 1_000,
        "u" => n,
        "n" => n / 1_000,
        _ => return None,
    })
}
