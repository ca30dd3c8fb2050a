//! Our record layer against rustls's own, on the same connection.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::ServerConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::handshake::{Established, HandshakeError, Mark, Way, client, server};
use super::super::listen::extractable;
use super::super::outbox::Outbox;
use super::super::record::{HEAD, Opened, RecordError, Records};
use crate::identity::Expected;
use crate::identity::authority::Authority;
use crate::link::Kind;
use crate::link::lane::frame;
use hearth_proto::wire;

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

const MARK: Mark = Mark { kind: Kind::Data, way: Way::Direct, slot: 3 };

async fn pair() -> (Established, Established) {
    let authority = Authority::new("mesh.example");
    let (a, b) = (authority.node("a"), authority.node("b"));
    let (near, mut far) = sockets().await;
    let dialled =
        client(near, extractable(a.client_config(Expected::AnyNode, wire::ALPN_DATA)), MARK);
    let accepted = async {
        assert_eq!(Mark::read(&mut far).await.unwrap(), MARK);
        server(far, extractable(b.server_config(&[wire::ALPN_DATA]))).await
    };
    let (dialled, accepted) = tokio::join!(dialled, accepted);
    (dialled.unwrap(), accepted.unwrap())
}

/// The plaintexts of the records in `bytes`.
fn open_all(records: &mut Records, mut bytes: &mut [u8]) -> Result<Vec<Vec<u8>>, RecordError> {
    let mut plain = Vec::new();
    while let Some(length) = Records::length(bytes)? {
        let (record, rest) = bytes.split_at_mut(length);
        if let Opened::Application(length) = records.open(record)? {
            plain.push(record[HEAD..HEAD + length].to_vec());
        }
        bytes = rest;
    }
    Ok(plain)
}

fn sealed(records: &mut Records, payload: &[u8]) -> Vec<u8> {
    let (mut outbox, mut out) = (Outbox::default(), Vec::new());
    outbox.frame(1, frame::DATA, payload);
    outbox.take(&mut out);
    records.seal_all(&mut out).unwrap();
    out
}

#[tokio::test]
async fn both_sides_agree_on_who_they_are_and_open_what_the_other_sealed() {
    let (mut a, mut b) = pair().await;
    assert_eq!((a.kind, b.kind), (Some(Kind::Data), Some(Kind::Data)));
    assert_eq!((a.certificates.len(), b.certificates.len()), (1, 1));
    for i in 0..100u8 {
        let mut bytes = sealed(&mut a.records, &[i; 1000]);
        assert_eq!(open_all(&mut b.records, &mut bytes).unwrap()[0][8..], [i; 1000]);
        let mut bytes = sealed(&mut b.records, &[i; 16_000]);
        assert_eq!(open_all(&mut a.records, &mut bytes).unwrap()[0][8..], [i; 16_000]);
    }
}

#[tokio::test]
async fn a_changed_a_repeated_and_a_missing_record_are_found_out() {
    let (mut a, mut b) = pair().await;
    let mut changed = sealed(&mut a.records, b"bytes");
    changed[HEAD + 3] ^= 1;
    assert_eq!(open_all(&mut b.records, &mut changed), Err(RecordError::Forged));
    let (mut a, mut b) = pair().await;
    let first = sealed(&mut a.records, b"bytes");
    open_all(&mut b.records, &mut first.clone()).unwrap();
    assert_eq!(open_all(&mut b.records, &mut first.clone()), Err(RecordError::Forged));
    let (mut a, mut b) = pair().await;
    let _lost = sealed(&mut a.records, b"bytes");
    let mut second = sealed(&mut a.records, b"bytes");
    assert_eq!(open_all(&mut b.records, &mut second), Err(RecordError::Forged));
}

#[tokio::test]
async fn keys_are_replaced_in_the_middle_of_a_connection() {
    let (mut a, mut b) = pair().await;
    for round in 0..5u8 {
        a.records.rekey();
        let mut bytes = sealed(&mut a.records, &[round; 10]);
        assert_eq!(open_all(&mut b.records, &mut bytes).unwrap()[0][8..], [round; 10]);
        b.records.rekey();
        let mut bytes = sealed(&mut b.records, &[round; 10]);
        assert_eq!(open_all(&mut a.records, &mut bytes).unwrap()[0][8..], [round; 10]);
    }
}

#[tokio::test]
async fn the_end_is_told_from_an_alert_and_a_torn_header_is_waited_for() {
    let (mut a, mut b) = pair().await;
    let mut notify = a.records.close_notify().unwrap();
    assert_eq!(Records::length(&notify[..4]), Ok(None));
    assert_eq!(b.records.open(&mut notify), Ok(Opened::End));
    assert!(Records::length(b"HTTP/1.1 400").is_err());
    assert!(Records::length(&[23, 3, 3, 0xff, 0xff]).is_err());
}

/// rustls's buffered server at the other end.
struct Theirs {
    socket: TcpStream,
    tls: ServerConnection,
}

impl Theirs {
    async fn shake(mut socket: TcpStream, config: Arc<rustls::ServerConfig>) -> Self {
        Mark::read(&mut socket).await.unwrap();
        let mut tls = ServerConnection::new(config).unwrap();
        let mut buffer = vec![0; 4096];
        while tls.is_handshaking() {
            let n = socket.read(&mut buffer).await.unwrap();
            tls.read_tls(&mut &buffer[..n]).unwrap();
            tls.process_new_packets().unwrap();
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out).unwrap();
            }
            socket.write_all(&out).await.unwrap();
        }
        Self { socket, tls }
    }

    /// What it would write now.
    fn output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        out
    }

    /// Takes records and returns their plaintext.
    fn input(&mut self, mut records: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !records.is_empty() {
            self.tls.read_tls(&mut records).unwrap();
            self.tls.process_new_packets().unwrap();
            let mut buffer = [0; 65_536];
            while let Ok(n @ 1..) = self.tls.reader().read(&mut buffer) {
                plain.extend_from_slice(&buffer[..n]);
            }
        }
        plain
    }
}

#[tokio::test]
async fn rustls_opens_what_we_sealed_and_we_open_what_it_sealed_across_changes_of_keys() {
    let authority = Authority::new("mesh.example");
    let (a, b) = (authority.node("a"), authority.node("b"));
    let (near, far) = sockets().await;
    let config = extractable(a.client_config(Expected::AnyNode, wire::ALPN_DATA));
    let (ours, mut theirs) = tokio::join!(
        client(near, config, MARK),
        Theirs::shake(far, b.server_config(&[wire::ALPN_DATA]))
    );
    let mut ours = ours.unwrap().records;
    for round in 0..6u8 {
        if round % 2 == 1 {
            ours.rekey();
            theirs.tls.refresh_traffic_keys().unwrap();
        }
        let plain = theirs.input(&sealed(&mut ours, &[round; 5000]));
        assert_eq!(plain[8..], [round; 5000]);
        theirs.tls.writer().write_all(&[round; 40_000]).unwrap();
        let plain = open_all(&mut ours, &mut theirs.output()).unwrap().concat();
        assert_eq!(plain, [round; 40_000]);
    }
    theirs.tls.send_close_notify();
    assert_eq!(ours.open(&mut theirs.output()), Ok(Opened::End));
    drop(theirs.socket);
}

#[tokio::test]
async fn a_peer_without_our_root_is_refused_by_both() {
    let (ours, foreign) = (Authority::new("mesh.example"), Authority::new("other.example"));
    let (a, b) = (ours.node("a"), foreign.node("b"));
    let (near, mut far) = sockets().await;
    let config = extractable(a.client_config(Expected::AnyNode, wire::ALPN_DATA));
    let accepted = async {
        Mark::read(&mut far).await.unwrap();
        server(far, extractable(b.server_config(&[wire::ALPN_DATA]))).await
    };
    let (dialled, accepted) = tokio::join!(client(near, config, MARK), accepted);
    assert!(matches!(dialled, Err(HandshakeError::Tls(_))));
    assert!(accepted.is_err());
}

#[tokio::test]
async fn what_is_no_lane_is_given_up_before_any_cryptography() {
    let (mut near, mut far) = sockets().await;
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(matches!(Mark::read(&mut far).await, Err(HandshakeError::NotOurs)));
    let authority = Authority::new("mesh.example");
    let (mut near, far) = sockets().await;
    near.write_all(&[0x41; 70_000]).await.unwrap();
    let config = extractable(authority.node("b").server_config(&[wire::ALPN_DATA]));
    assert!(server(far, config).await.is_err());
}
