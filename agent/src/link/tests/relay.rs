//! A path between two agents: datagrams that can be cut off in either direction without anyone being told, and
//! connections that can be cut with both ends being told, as a kernel tells of a process that is gone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::AbortHandle;

use super::{free_port, loopback};

/// Forwards datagrams to a target and the answers back.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    /// Towards the target.
    pub(crate) forth: Arc<AtomicBool>,
    /// Back from it.
    pub(crate) back: Arc<AtomicBool>,
}

impl Relay {
    pub(crate) async fn start(target: impl Fn() -> SocketAddr + Send + 'static) -> Self {
        // Free for TCP too, which some let through.
        let front = Arc::new(UdpSocket::bind(loopback(free_port())).await.unwrap());
        let address = front.local_addr().unwrap();
        let (forth, back) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        tokio::spawn(run(front, target, forth.clone(), back.clone()));
        Self { address, forth, back }
    }

    pub(crate) fn cut(&self) {
        self.forth.store(false, Ordering::SeqCst);
        self.back.store(false, Ordering::SeqCst);
    }

    pub(crate) fn heal(&self) {
        self.forth.store(true, Ordering::SeqCst);
        self.back.store(true, Ordering::SeqCst);
    }
}

async fn run(
    front: Arc<UdpSocket>,
    target: impl Fn() -> SocketAddr,
    forth: Arc<AtomicBool>,
    back: Arc<AtomicBool>,
) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    while let Ok((n, from)) = front.recv_from(&mut buffer).await {
        if !forth.load(Ordering::SeqCst) {
            continue;
        }
        let rear = match clients.get(&from) {
            Some(rear) => rear.clone(),
            None => {
                let rear = Arc::new(UdpSocket::bind(loopback(0)).await.unwrap());
                clients.insert(from, rear.clone());
                let (answers, front, back) = (rear.clone(), front.clone(), back.clone());
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65_536];
                    while let Ok((n, _)) = answers.recv_from(&mut buffer).await {
                        if back.load(Ordering::SeqCst) {
                            let _ = front.send_to(&buffer[..n], from).await;
                        }
                    }
                });
                rear
            }
        };
        let _ = rear.send_to(&buffer[..n], target()).await;
    }
}

/// Lets TCP through, from one address to another.
pub(crate) struct Tcp(Arc<Mutex<Vec<AbortHandle>>>);

impl Tcp {
    pub(crate) async fn forward(from: SocketAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(from).await.unwrap();
        let open = Arc::new(Mutex::new(Vec::new()));
        let connections = open.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let task = tokio::spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                connections.lock().unwrap().push(task.abort_handle());
            }
        });
        Self(open)
    }

    /// Closes what is open, without a word of either agent.
    pub(crate) fn cut(&self) {
        self.0.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}
