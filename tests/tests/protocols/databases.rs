//! PostgreSQL and Redis over opaque TCP, with their own clients and load generators.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_tests::cases::Cases;
use hearth_tests::lab::binaries::tool;
use hearth_tests::lab::wait::wait_for;
use hearth_tests::lab::{Process, Program};
use hearth_tests::loopback::{Place, free_ports};
use hearth_tests::pair::Offer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use super::tcp::{LONG, SOON, said, shell, start};

#[test]
fn redis_is_carried_for_its_own_clients() {
    let [server, cli, bench] = match ["redis-server", "redis-cli", "redis-benchmark"].map(tool) {
        [Ok(server), Ok(cli), Ok(bench)] => [server, cli, bench],
        _ => return println!("NOT RUN: Redis: redis-server is not installed; run tests/setup"),
    };
    let place = Place::new("redis").unwrap();
    let [app] = free_ports();
    let (port, dir) = (app.port().to_string(), place.dir().display().to_string());
    let program = Program::new("redis", server).args([
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--dir",
        &dir,
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    let process = place.start(program).unwrap();
    wait_for("Redis to accept", SOON, || match process.stdout() {
        out if out.contains("Ready to accept") => Ok(()),
        out => Err(out),
    })
    .unwrap();
    let pair = start(place, vec![Offer::new("cache", "tcp", app)], &["cache"]);
    let entry = pair.entry("cache");
    let (cli, bench) = (cli.display().to_string(), bench.display().to_string());
    let cli = format!("{cli} -h 127.0.0.1 -p {}", entry.port());
    let mut cases = Cases::new("redis");
    let ask = |words: &str| shell(&pair.place, &format!("{cli} {words}"));
    cases.check("set and get", || {
        let got = ask("set colour blue")? + &ask("get colour")?;
        if got == "OK\nblue\n" { Ok(String::new()) } else { Err(got) }
    });
    cases.check("a value of 8 MiB of noise comes back bit by bit", || {
        let file = pair.place.path("noise");
        let noise: Vec<u8> =
            (0..8_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(&file, &noise).map_err(|e| e.to_string())?;
        let path = file.display();
        ask(&format!("-x set noise < {path}"))?;
        ask(&format!("--raw get noise > {path}.back"))?;
        let back = std::fs::read(format!("{path}.back")).map_err(|e| e.to_string())?;
        // redis-cli ends a raw answer with a line feed of its own.
        if back.strip_suffix(b"\n") == Some(&noise[..]) {
            Ok(String::new())
        } else {
            Err("changed".into())
        }
    });
    cases.check("publish reaches a subscriber that has been silent", || {
        let listener = Program::new("subscriber", "/bin/sh")
            .args(["-c", &format!("exec {cli} subscribe news")]);
        let listener = pair.place.start(listener).map_err(|e| e.to_string())?;
        wait_for("a subscriber", SOON, || match ask("publish news hello")?.trim() {
            "1" => Ok(()),
            n => Err(format!("{n} subscribers")),
        })
        .map_err(|e| e.to_string())?;
        wait_for("the news", SOON, || match listener.stdout() {
            out if out.contains("hello") => Ok(String::new()),
            out => Err(out),
        })
        .map_err(|e| e.to_string())
    });
    cases.check("a blocking pop outlives the limit of finding somebody", || {
        let popper =
            Program::new("popper", "/bin/sh").args(["-c", &format!("exec {cli} blpop queue 60")]);
        let popper = pair.place.start(popper).map_err(|e| e.to_string())?;
        std::thread::sleep(Duration::from_secs(3)); // Longer than the policy's 2 s.
        ask("rpush queue work")?;
        popper.wait(SOON).map_err(|e| e.to_string())?;
        let out = popper.stdout();
        if out.contains("work") { Ok(String::new()) } else { Err(out) }
    });
    cases.check("redis-benchmark with 30 connections and pipelines", || {
        let n = if std::env::var_os("HEARTH_FULL").is_some() { 200_000 } else { 10_000 };
        let line = format!(
            "{bench} -h 127.0.0.1 -p {} -q -n {n} -c 30 -P 8 -t set,get,lpush 2>&1",
            entry.port()
        );
        let out = shell(&pair.place, &line)?;
        let rates: Vec<&str> =
            out.split(['\r', '\n']).filter(|l| l.contains("requests per second")).collect();
        if rates.len() == 3 { Ok(rates.join("; ")) } else { Err(out) }
    });
    cases.finish();
}

/// A PostgreSQL of our own, as an unprivileged user where we are root: it refuses to run as root.
struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    process: Arc<Process>,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.process.kill();
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// The newest PostgreSQL's directory of programs, where Debian keeps it.
fn postgres_bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let bins = versions.map(|entry| entry.path().join("bin"));
    bins.filter(|bin| bin.join("initdb").is_file() && bin.join("pgbench").is_file()).max()
}

impl Postgres {
    fn start(place: &Place, at: SocketAddr) -> Result<Self, String> {
        let bin = postgres_bin().ok_or("PostgreSQL is not installed; run tests/setup")?;
        let user = User::from_name("postgres").ok().flatten();
        let root = nix::unistd::geteuid().is_root();
        let user = match (root, user) {
            (false, _) => None,
            (true, Some(user)) => Some(user),
            (true, None) => return Err("there is no user `postgres` to run it as".to_owned()),
        };
        // Not in the place: that is for its owner only.
        let dir = std::env::temp_dir().join(format!("hearth-postgres-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        if let Some(user) = &user {
            std::os::unix::fs::chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .map_err(|e| e.to_string())?;
        }
        let run = |name: &str, args: &[&str]| {
            let path = bin.join(name).display().to_string();
            let Some(user) = &user else {
                return Program::new(name, path).args(args.iter().copied());
            };
            // A change of user ends the wish to die with the parent, so it is made again.
            let (uid, gid) = (format!("--reuid={}", user.uid), format!("--regid={}", user.gid));
            let become_ = [&uid, &gid, "--clear-groups", "--pdeathsig", "KILL", "--", &path];
            Program::new(name, "setpriv").args(become_).args(args.iter().copied())
        };
        let data = dir.join("data").display().to_string();
        let init = run("initdb", &["-D", &data, "-U", "hearth", "-A", "trust", "--no-sync"]);
        said(place.run(init, LONG).map_err(|e| e.to_string())?)?;
        certificate(place, &dir.join("data"), user.as_ref())?;
        let (port, sockets) = (at.port().to_string(), dir.display().to_string());
        let server = run(
            "postgres",
            &[
                "-D",
                &data,
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-k",
                &sockets,
                "-c",
                "fsync=off",
                "-c",
                "ssl=on",
            ],
        );
        let process = place.start(server).map_err(|e| e.to_string())?;
        wait_for("PostgreSQL to accept", LONG, || match process.stderr() {
            log if log.contains("ready to accept connections") => Ok(()),
            log => Err(log),
        })
        .map_err(|e| e.to_string())?;
        Ok(Self { bin, dir, process })
    }
}

fn certificate(place: &Place, data: &Path, user: Option<&User>) -> Result<(), String> {
    let (key, cert) = (data.join("server.key"), data.join("server.crt"));
    shell(
        place,
        &format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN=db.example -keyout {0} -out {1} && chmod 600 {0}",
            key.display(),
            cert.display()
        ),
    )?;
    for file in [key, cert] {
        if let Some(user) = user {
            std::os::unix::fs::chown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

#[test]
fn postgresql_is_carried_for_its_own_clients() {
    let place = Place::new("postgres").unwrap();
    let [app] = free_ports();
    let server = match Postgres::start(&place, app) {
        Ok(server) => server,
        Err(reason) if reason.contains("run tests/setup") => {
            return println!("NOT RUN: PostgreSQL: {reason}");
        }
        Err(reason) => panic!("{reason}"),
    };
    let pair = start(place, vec![Offer::new("db", "tcp", app)], &["db"]);
    let entry = pair.entry("db");
    let program = |name: &str| server.bin.join(name).display().to_string();
    let mut cases = Cases::new("postgresql");
    let uri = |at: SocketAddr, more: &str| format!("postgresql://hearth@{at}/postgres?{more}");
    let psql = |more: &str, sql: &str| {
        let client = Program::new("psql", program("psql"));
        let args = [&uri(entry, more), "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql];
        said(pair.place.run(client.args(args), LONG).map_err(|e| e.to_string())?)
    };
    cases.check("psql asks and is answered", || {
        let got = psql("sslmode=disable", "select 6 * 7")?;
        if got == "42\n" { Ok(String::new()) } else { Err(got) }
    });
    cases.check("TLS is agreed upon with the server itself", || {
        let got = psql(
            "sslmode=require",
            "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()",
        )?;
        if got.starts_with("t|TLSv1.3") { Ok(got.trim().to_owned()) } else { Err(got) }
    });
    cases.check("200,000 rows go in by COPY and come out by COPY", || {
        let rows: String = (0..200_000).map(|n| format!("{n}\trow number {n}\n")).collect();
        let file = pair.place.path("rows");
        std::fs::write(&file, &rows).map_err(|e| e.to_string())?;
        let (client, uri, path) = (program("psql"), uri(entry, "sslmode=disable"), file.display());
        shell(&pair.place, &format!(
            "{client} '{uri}' -X -v ON_ERROR_STOP=1 -c 'create table rows (n int, t text)' -c '\\copy rows from {path}' \
             -c '\\copy (select * from rows order by n) to {path}.back'"
        ))?;
        let back = std::fs::read_to_string(format!("{path}.back")).map_err(|e| e.to_string())?;
        if back == rows { Ok(String::new()) } else { Err(format!("{} bytes of {}", back.len(), rows.len())) }
    });
    cases.check("a notification arrives", || {
        let client = program("psql");
        let line = format!(
            "{client} '{}' -X -c 'listen news' -c \"notify news, 'hello'\"",
            uri(entry, "")
        );
        let out = shell(&pair.place, &line)?;
        if out.contains("\"hello\"") { Ok(String::new()) } else { Err(out) }
    });
    cases.check("a cancel request on a connection of its own ends the query", || {
        let args = [&uri(entry, ""), "-X", "-c", "select pg_sleep(60)"];
        let client = pair.place.start(Program::new("sleeper", program("psql")).args(args));
        let client = client.map_err(|e| e.to_string())?;
        wait_for("the query to run", SOON, || {
            let running = psql(
                "",
                "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)'",
            )?;
            if running == "1\n" { Ok(()) } else { Err(running) }
        })
        .map_err(|e| e.to_string())?;
        kill(Pid::from_raw(client.pid()), Signal::SIGINT).map_err(|e| e.to_string())?;
        client.wait(SOON).map_err(|e| e.to_string())?;
        let log = client.stderr();
        if log.contains("canceling statement due to user request") {
            Ok(String::new())
        } else {
            Err(log)
        }
    });
    cases.check("pgbench: eight clients' transactions, none fails", || {
        let (client, uri) = (program("pgbench"), uri(entry, "sslmode=disable"));
        let seconds = if std::env::var_os("HEARTH_FULL").is_some() { 30 } else { 3 };
        shell(&pair.place, &format!("{client} -i -q '{uri}' 2>&1"))?;
        let out =
            shell(&pair.place, &format!("{client} -c 8 -j 2 -T {seconds} -P 5 '{uri}' 2>&1"))?;
        let line = |what: &str| out.lines().find(|line| line.contains(what)).unwrap_or_default();
        let failed = line("number of failed transactions");
        let held = failed.contains(" 0 (0.000%)") && !line("tps = ").is_empty();
        if held { Ok(format!("{failed}; {}", line("tps = "))) } else { Err(out.clone()) }
    });
    drop(pair);
    drop(server);
    cases.finish();
}
