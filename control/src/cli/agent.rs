//! Asking the agent on this host, over its unix socket.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use hyper::body::Bytes;
use tokio::net::UnixStream;

use super::http::{self, Ask, NoAnswer};
use crate::failure::{Exit, Failure};

/// The agent's admin socket.
pub(super) struct Agent {
    socket: PathBuf,
}

impl Agent {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks and gives the body of a success.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Bytes, Failure> {
        let connected = tokio::time::timeout(http::PATIENCE, UnixStream::connect(&self.socket));
        let stream = match connected.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(&self.socket, &error)),
            Err(_) => return Err(silent(&self.socket, &NoAnswer::Timeout)),
        };
        let answer = http::ask(stream, "localhost", None, ask).await;
        answer.map_err(|e| silent(&self.socket, &e))?.success("the agent")
    }
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let path = socket.display();
    let no_socket = |metadata: std::fs::Metadata| !metadata.file_type().is_socket();
    if std::fs::metadata(socket).is_ok_and(no_socket) {
        return Failure::new(
            Exit::Unavailable,
            format!("no agent at {path}: it is no socket"),
            "name the agent's admin socket: --socket PATH or HEARTH_SOCKET",
        );
    }
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Exit::Unavailable,
            format!("no agent at {path}: there is no such socket"),
            "start it (systemctl start hearth-agent), or name its socket: --socket PATH or \
             HEARTH_SOCKET",
        ),
        io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::Unavailable,
            format!("no agent at {path}: nobody listens on the socket"),
            "the agent stopped without removing it: systemctl status hearth-agent; journalctl -u \
             hearth-agent",
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::NoPermission,
            format!("not allowed to open {path}"),
            format!("use sudo, or join the group that ls -l {path} shows"),
        ),
        _ => Failure::new(
            Exit::Unavailable,
            format!("cannot connect to {path}: {error}"),
            "is this the agent's socket?",
        ),
    }
}

fn silent(socket: &Path, error: &NoAnswer) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!("the agent at {} does not answer: {error}", socket.display()),
        "is it stopping or stuck? see journalctl -u hearth-agent",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_not_to_reach_the_agent_says_what_to_do() {
        let told = |kind: io::ErrorKind| {
            unreachable(Path::new("/run/hearth/agent.sock"), &kind.into()).to_string()
        };
        assert_eq!(
            told(io::ErrorKind::NotFound),
            "error: no agent at /run/hearth/agent.sock: there is no such socket\n  hint: start it \
             (systemctl start hearth-agent), or name its socket: --socket PATH or HEARTH_SOCKET"
        );
        assert_eq!(
            told(io::ErrorKind::ConnectionRefused),
            "error: no agent at /run/hearth/agent.sock: nobody listens on the socket\n  hint: the \
             agent stopped without removing it: systemctl status hearth-agent; journalctl -u \
             hearth-agent"
        );
        assert_eq!(
            told(io::ErrorKind::PermissionDenied),
            "error: not allowed to open /run/hearth/agent.sock\n  hint: use sudo, or join the group \
             that ls -l /run/hearth/agent.sock shows"
        );
    }
}
