//! UDP through a pair: each client's datagrams are a session with one application.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use hearth_tests::cases::Cases;
use hearth_tests::lab::wait::wait_for;
use hearth_tests::pair::Offer;

use super::finding::start;

const SOON: Duration = Duration::from_secs(20);

/// Answers each datagram with its name, a colon and the datagram; to `more` it says two things.
fn datagrams(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // A check of health sends nothing, and wants nothing.
            if length > 0 {
                let answer = [name.as_bytes(), b":", &buffer[..length]].concat();
                let _ = socket.send_to(&answer, from);
                if &buffer[..length] == b"more" {
                    let _ = socket.send_to(&answer, from);
                }
            }
        }
    });
    address
}

/// Asks by a datagram until an answer comes; datagrams may be lost.
fn ask(socket: &UdpSocket, question: &[u8]) -> Result<(String, Vec<u8>), String> {
    let mut buffer = vec![0; 65_536];
    for _ in 0..10 {
        socket.send(question).map_err(|e| e.to_string())?;
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let colon = buffer[..length].iter().position(|&b| b == b':').ok_or("no name")?;
        let name = String::from_utf8_lossy(&buffer[..colon]).into_owned();
        return Ok((name, buffer[colon + 1..length].to_vec()));
    }
    Err(format!("no answer to ten datagrams of {} bytes", question.len()))
}

fn client(entry: SocketAddr) -> Result<UdpSocket, String> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    socket.connect(entry).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(2))).map_err(|e| e.to_string())?;
    Ok(socket)
}

#[test]
fn udp_clients_have_sessions_that_stay_where_they_are() {
    let offers = vec![Offer::new("grams", "udp", datagrams("one")).and(datagrams("two"))];
    let mut pair = start("udp", offers, String::new(), "UDP");
    let entry = pair.entry("grams");
    let mut cases = Cases::new("udp");
    cases.check("a datagram is answered, whatever its size up to 1,200 bytes", || {
        let socket = client(entry)?;
        for size in [1, 100, 1200] {
            let question = vec![b'x'; size];
            if ask(&socket, &question)?.1 != question {
                return Err(format!("{size} bytes came back changed"));
            }
        }
        Ok(String::new())
    });
    cases.check("large datagrams of 9,000 bytes pass", || {
        let question = vec![b'y'; 9000];
        let (_, answer) = ask(&client(entry)?, &question)?;
        if answer == question { Ok(String::new()) } else { Err(format!("{} bytes", answer.len())) }
    });
    cases.check("one client's datagrams all go to one application", || {
        let socket = client(entry)?;
        let mut by: BTreeMap<String, usize> = BTreeMap::new();
        for n in 0..50 {
            *by.entry(ask(&socket, format!("q{n}").as_bytes())?.0).or_default() += 1;
        }
        if by.len() == 1 { Ok(format!("{by:?}")) } else { Err(format!("{by:?}")) }
    });
    cases.check("many clients are spread over both", || {
        let mut by: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..60 {
            *by.entry(ask(&client(entry)?, b"who")?.0).or_default() += 1;
        }
        if by.len() == 2 { Ok(format!("{by:?}")) } else { Err(format!("{by:?}")) }
    });
    cases.check("an application may say more than it was asked", || {
        let socket = client(entry)?;
        ask(&socket, b"more")?;
        socket.recv(&mut [0; 100]).map(|_| String::new()).map_err(|e| e.to_string())
    });
    cases.check("a session whose owner is lost goes on with another", || {
        let socket = client(entry)?;
        let (first, _) = ask(&socket, b"who")?;
        let owner = usize::from(first == "two");
        pair.owners[owner].kill().map_err(|e| e.to_string())?;
        wait_for("an answer of the other", SOON, || match ask(&socket, b"who")? {
            (name, _) if name != first => Ok(name),
            other => Err(format!("{other:?}")),
        })
        .map_err(|e| e.to_string())
    });
    cases.finish();
}
