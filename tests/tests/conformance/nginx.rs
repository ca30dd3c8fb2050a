//! nginx behind the pair: files, ranges, compression, uploads by DAV, and a way on to the source.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use hearth_tests::conformance::noise::Noise;
use hearth_tests::lab::binaries::tool;
use hearth_tests::lab::process::Program;
use hearth_tests::loopback::free_ports;

use crate::world::scratch;

/// A file of some noise.
pub(crate) const LARGE: usize = 8 << 20;
/// Its seed.
pub(crate) const SEED: u64 = 11;
/// A small file.
pub(crate) const SMALL: &str = "a small file\n";

/// How it is run.
pub(crate) struct Nginx {
    pub(crate) dir: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) program: Program,
}

impl Nginx {
    /// Writes files and configuration; `None` where it is not installed.
    pub(crate) fn prepare(source: SocketAddr) -> Result<Option<Self>, String> {
        let Ok(path) = tool("nginx") else { return Ok(None) };
        let dir = scratch("nginx");
        let said = |e: std::io::Error| format!("{}: {e}", dir.display());
        fs::create_dir_all(dir.join("html/up")).map_err(said)?;
        let mut large = vec![0; LARGE];
        Noise::new(SEED).fill(&mut large);
        fs::write(dir.join("html/large.bin"), large).map_err(said)?;
        fs::write(dir.join("html/small.txt"), SMALL).map_err(said)?;
        fs::write(dir.join("html/long.txt"), "all work and no play\n".repeat(10_000))
            .map_err(said)?;
        let [address] = free_ports();
        let config = config(address, source, &dir.join("html").display().to_string());
        let file = dir.join("nginx.conf");
        fs::write(&file, config).map_err(said)?;
        let program = Program::new("nginx", path).args([
            "-p",
            &dir.display().to_string(),
            "-c",
            &file.display().to_string(),
            "-e",
            "stderr",
        ]);
        Ok(Some(Self { dir, address, program }))
    }
}

fn config(address: SocketAddr, source: SocketAddr, root: &str) -> String {
    format!(
        "user root root;
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  default_type text/plain;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_max_body_size 0;
  large_client_header_buffers 8 64k;
  gzip on;
  gzip_proxied any;
  gzip_types text/plain;
  server {{
    listen {address};
    root {root};
    location /up/ {{ dav_methods PUT DELETE; create_full_put_path on; }}
    location /long-field {{ return 200 \"$http_x_long\"; }}
    location /moved {{ return 301 /small.txt; }}
    location /source/ {{ proxy_pass http://{source}/; proxy_http_version 1.1; }}
  }}
}}
"
    )
}
