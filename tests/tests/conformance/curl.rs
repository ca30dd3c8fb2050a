//! curl, nghttp and h2load against nginx: what real programs say to each other through the pair.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use hearth_tests::conformance::noise::Noise;
use hearth_tests::lab::binaries::tool;
use libtest_mimic::Trial;

use crate::nginx::{LARGE, Nginx, SEED, SMALL};
use crate::world::{self, scratch};

/// A run of a client.
struct Site<'a> {
    entry: SocketAddr,
    shared: SocketAddr,
    nginx: &'a Nginx,
    /// A directory of the test's own.
    dir: PathBuf,
}

type Told = fn(&Site<'_>) -> Result<(), String>;

/// All of them; ignored, and said so, where a program is not installed.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (program, package, tests) in [
        ("curl", "curl", &CURL[..]),
        ("nghttp", "nghttp2-client", &NGHTTP[..]),
        ("h2load", "nghttp2-client", &H2LOAD[..]),
    ] {
        let lacking = [(program, package), ("nginx", "nginx-light")];
        let lacking = lacking.into_iter().find(|(program, _)| tool(program).is_err());
        if let Some((lacks, package)) = lacking {
            println!(
                "NOT RUN: {program}::*: no {lacks} (Debian: {package}; tests/setup installs it)"
            );
        }
        for (name, test) in tests {
            let trial = Trial::test(format!("{program}::{name}"), move || run(name, *test));
            trials.push(trial.with_ignored_flag(lacking.is_some()));
        }
    }
    trials
}

fn run(name: &str, test: Told) -> Result<(), libtest_mimic::Failed> {
    let _turn = world::lane()?;
    let world = world::world()?;
    let (nginx, entry) = world.nginx.as_ref().ok_or("no nginx")?;
    let dir = scratch(name);
    fs::create_dir_all(&dir)?;
    let done = test(&Site { entry: *entry, shared: world.shared, nginx, dir: dir.clone() });
    let _ = fs::remove_dir_all(&dir);
    done.map_err(Into::into)
}

const CURL: [(&str, Told); 32] = [
    ("get", |s| s.gets(&[], "/small.txt", "200 1.1", SMALL)),
    ("get_http10", |s| s.gets(&["--http1.0"], "/small.txt", "200 1 ", SMALL)),
    ("get_http2", |s| s.gets(&["--http2-prior-knowledge"], "/small.txt", "200 2", SMALL)),
    ("get_offering_an_upgrade_to_h2c", |s| s.gets(&["--http2"], "/small.txt", "200 ", SMALL)),
    ("get_asking_for_a_transfer_coding", |s| {
        s.gets(&["--tr-encoding"], "/small.txt", "200 ", SMALL)
    }),
    ("get_large", |s| s.large(&[])),
    ("get_large_http10", |s| s.large(&["--http1.0"])),
    ("get_large_http2", |s| s.large(&["--http2-prior-knowledge"])),
    ("head", |s| s.head(&[])),
    ("head_http2", |s| s.head(&["--http2-prior-knowledge"])),
    ("not_found", |s| s.status(&[], "/nothing-here", "404")),
    ("redirected", |s| s.gets(&["-L"], "/moved", "200", SMALL)),
    ("range", |s| s.range(&[])),
    ("range_http2", |s| s.range(&["--http2-prior-knowledge"])),
    ("ranges", ranges),
    ("range_beyond_the_end", |s| s.status(&["-r", "99999999-"], "/small.txt", "416")),
    ("resume", |s| s.resume(&[])),
    ("resume_http2", |s| s.resume(&["--http2-prior-knowledge"])),
    ("compressed", |s| s.compressed(&[])),
    ("compressed_http2", |s| s.compressed(&["--http2-prior-knowledge"])),
    ("not_modified", not_modified),
    ("put_with_length_and_expect", |s| s.put(&["-H", "Expect: 100-continue"], 3 << 20)),
    ("put_without_expect", |s| s.put(&["-H", "Expect:"], 3 << 20)),
    ("put_small_with_expect", |s| s.put(&["-H", "Expect: 100-continue"], 1000)),
    ("put_in_chunks", |s| s.put(&["-H", "Transfer-Encoding: chunked"], 3 << 20)),
    ("put_http10", |s| s.put(&["--http1.0"], 3 << 20)),
    ("put_http2", |s| s.put(&["--http2-prior-knowledge"], 3 << 20)),
    ("put_empty", |s| s.put(&[], 0)),
    ("post_a_form_with_a_file", post_a_form_with_a_file),
    ("two_requests_on_one_connection", two_requests_on_one_connection),
    ("a_field_of_30_kib", a_field_of_30_kib),
    ("as_a_proxy_by_absolute_form", as_a_proxy_by_absolute_form),
];

const NGHTTP: [(&str, Told); 2] = [
    ("gets_a_file", |s| {
        let output = s.run("nghttp", &["-v", &s.url("/small.txt")])?;
        wanted(output.contains(":status: 200") && output.contains(SMALL.trim()), &output)
    }),
    ("gets_with_dependencies_and_weights", |s| {
        let urls = ["/small.txt", "/long.txt", "/large.bin"].map(|path| s.url(path));
        let output = s.run("nghttp", &["-ns", "-w16", "-p9", &urls[0], &urls[1], &urls[2]])?;
        wanted(output.matches(" 200 ").count() == 3, &output)
    }),
];

const H2LOAD: [(&str, Told); 4] = [
    ("many_streams", |s| s.h2load(&["-n2000", "-c4", "-m50"], "/small.txt", 2000)),
    ("many_large_answers", |s| s.h2load(&["-n16", "-c2", "-m4"], "/large.bin", 16)),
    ("many_http1_connections", |s| s.h2load(&["--h1", "-n2000", "-c50"], "/small.txt", 2000)),
    ("many_uploads", |s| {
        let file = s.noise("body", 100_000)?;
        s.h2load(&["-n200", "-c2", "-m10", "-d", &file], "/source/echo", 200)
    }),
];

fn wanted(holds: bool, output: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("printed: {output:.2000}")) }
}

impl Site<'_> {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.entry)
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// A file of noise; its path.
    fn noise(&self, name: &str, length: usize) -> Result<String, String> {
        let mut bytes = vec![0; length];
        Noise::new(SEED).fill(&mut bytes);
        fs::write(self.dir.join(name), bytes).map_err(|e| e.to_string())?;
        Ok(self.path(name))
    }

    /// Runs a program to its end; what it printed on both.
    fn run(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let path = tool(program).map_err(|e| e.to_string())?;
        let done = Command::new(path).args(args).output().map_err(|e| e.to_string())?;
        let text = [done.stdout, done.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
        match done.status.success() {
            true => Ok(text.concat()),
            false => Err(format!("{program} {args:?}: {}: {}", done.status, text.concat())),
        }
    }

    /// curl's answer in `out`; returns status, version, connects, bytes down and up.
    fn curl(&self, args: &[&str], out: &str) -> Result<String, String> {
        const TOLD: &str =
            "%{http_code} %{http_version} %{num_connects} %{size_download} %{size_upload}\n";
        let out = self.path(out);
        let fixed = ["-sS", "--max-time", "60", "--noproxy", "", "-o", &out, "-w", TOLD];
        self.run("curl", &[&fixed[..], args].concat())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        fs::read(self.dir.join(name)).map_err(|e| format!("{name}: {e}"))
    }

    fn gets(&self, args: &[&str], path: &str, told: &str, body: &str) -> Result<(), String> {
        let output = self.curl(&[args, &[&self.url(path)]].concat(), "out")?;
        wanted(output.starts_with(told) && self.read("out")? == body.as_bytes(), &output)
    }

    fn status(&self, args: &[&str], path: &str, status: &str) -> Result<(), String> {
        let output = self.curl(&[args, &[&self.url(path)]].concat(), "out")?;
        wanted(output.starts_with(status), &output)
    }

    fn large(&self, args: &[&str]) -> Result<(), String> {
        let output = self.curl(&[args, &[&self.url("/large.bin")]].concat(), "out")?;
        let body = self.read("out")?;
        Noise::new(SEED).check(&body)?;
        wanted(output.starts_with("200") && body.len() == LARGE, &output)
    }

    fn head(&self, args: &[&str]) -> Result<(), String> {
        let output = self.curl(&[args, &["-I", &self.url("/large.bin")]].concat(), "out")?;
        let head = String::from_utf8_lossy(&self.read("out")?).to_ascii_lowercase();
        let length = format!("content-length: {LARGE}");
        wanted(output.starts_with("200") && head.contains(&length), &(output + &head))
    }

    fn range(&self, args: &[&str]) -> Result<(), String> {
        let more = ["-r", "1000000-1999999", &self.url("/large.bin")];
        let output = self.curl(&[args, &more].concat(), "out")?;
        let mut expected = vec![0; 2_000_000];
        Noise::new(SEED).fill(&mut expected);
        wanted(output.starts_with("206") && self.read("out")? == expected[1_000_000..], &output)
    }

    /// Half of the file is there; the rest is asked for.
    fn resume(&self, args: &[&str]) -> Result<(), String> {
        self.noise("out", LARGE / 2)?;
        let output = self.curl(&[args, &["-C", "-", &self.url("/large.bin")]].concat(), "out")?;
        let body = self.read("out")?;
        Noise::new(SEED).check(&body)?;
        let half = format!(" {} ", LARGE / 2);
        wanted(output.starts_with("206") && body.len() == LARGE && output.contains(&half), &output)
    }

    fn compressed(&self, args: &[&str]) -> Result<(), String> {
        let more = ["--compressed", "-D", &self.path("head"), &self.url("/long.txt")];
        let output = self.curl(&[args, &more].concat(), "out")?;
        let head = String::from_utf8_lossy(&self.read("head")?).to_ascii_lowercase();
        let same = self.read("out")? == "all work and no play\n".repeat(10_000).as_bytes();
        let coded = head.contains("content-encoding: gzip");
        wanted(output.starts_with("200") && same && coded, &(output + &head))
    }

    fn put(&self, args: &[&str], length: usize) -> Result<(), String> {
        let file = self.noise("body", length)?;
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let url = self.url(&format!("/up/{name}"));
        let output = self.curl(&[args, &["-T", &file, &url]].concat(), "out")?;
        let at = self.nginx.dir.join("html/up").join(&name);
        let arrived = fs::read(&at).map_err(|e| format!("{}: {e}; {output}", at.display()))?;
        Noise::new(SEED).check(&arrived)?;
        wanted(output.starts_with("201") && arrived.len() == length, &output)
    }

    fn h2load(&self, args: &[&str], path: &str, count: usize) -> Result<(), String> {
        let output = self.run("h2load", &[args, &[&self.url(path)]].concat())?;
        let all = format!("{count} succeeded, 0 failed, 0 errored, 0 timeout");
        let good = format!("status codes: {count} 2xx");
        wanted(output.contains(&all) && output.contains(&good), &output)
    }
}

fn ranges(site: &Site<'_>) -> Result<(), String> {
    let output = site.curl(&["-r", "0-9,100-109", &site.url("/large.bin")], "out")?;
    let body = site.read("out")?;
    let mut expected = [0; 110];
    Noise::new(SEED).fill(&mut expected);
    let has = |part: &[u8]| body.windows(part.len()).any(|w| w == part);
    wanted(output.starts_with("206") && has(&expected[..10]) && has(&expected[100..]), &output)
}

fn not_modified(site: &Site<'_>) -> Result<(), String> {
    let (tag, url) = (site.path("tag"), site.url("/small.txt"));
    let first = site.curl(&["--etag-save", &tag, &url], "out")?;
    let second = site.curl(&["--etag-compare", &tag, &url], "out2")?;
    wanted(first.starts_with("200") && second.starts_with("304"), &(first + &second))
}

fn post_a_form_with_a_file(site: &Site<'_>) -> Result<(), String> {
    let file = site.noise("body", 200_000)?;
    let form = [&format!("file=@{file}"), "name=value"];
    let args = ["-F", form[0], "-F", form[1], &site.url("/source/echo")];
    let output = site.curl(&args, "out")?;
    let (echo, sent) = (site.read("out")?, site.read("body")?);
    let has = echo.windows(sent.len()).any(|w| w == sent);
    wanted(output.starts_with("200") && has, &output)
}

fn two_requests_on_one_connection(site: &Site<'_>) -> Result<(), String> {
    let other = site.path("out2");
    let urls = [site.url("/small.txt"), site.url("/long.txt")];
    let output = site.curl(&["--http1.1", &urls[0], "-o", &other, &urls[1]], "out")?;
    let connects: Vec<&str> = output.lines().filter_map(|l| l.split(' ').nth(2)).collect();
    wanted(connects == ["1", "0"], &output)
}

fn a_field_of_30_kib(site: &Site<'_>) -> Result<(), String> {
    let long = "x".repeat(30_000);
    let field = format!("X-Long: {long}");
    let output = site.curl(&["-H", &field, &site.url("/long-field")], "out")?;
    wanted(output.starts_with("200") && site.read("out")? == long.as_bytes(), &output)
}

fn as_a_proxy_by_absolute_form(site: &Site<'_>) -> Result<(), String> {
    let proxy = format!("http://{}", site.shared);
    let output =
        site.curl(&["--noproxy", "none", "-x", &proxy, "http://nginx.mesh/small.txt"], "out")?;
    wanted(output.starts_with("200") && site.read("out")? == SMALL.as_bytes(), &output)
}
