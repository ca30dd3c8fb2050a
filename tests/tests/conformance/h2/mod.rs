//! HTTP/2 from clients by prior knowledge (RFC 9113), frame by frame. The application speaks HTTP/1.1.

mod flow;
mod frames;
mod messages;
mod misuse;

use hearth_tests::conformance::case::Lane;
use hearth_tests::conformance::client::End;
use hearth_tests::conformance::h2::{Frame, Session, code, kind};
use libtest_mimic::Trial;

use crate::world::{self, Turn};

/// A test that is a function.
type Told = fn(&Lane) -> Result<(), String>;

/// All of them.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = frames::rows().into_iter().map(Row::trial).collect();
    trials.extend(messages::rows().into_iter().map(Row::trial));
    for (table, told, turn) in [
        ("messages", messages::told(), world::lane as fn() -> _),
        ("flow", flow::told(), world::lane),
        ("misuse", misuse::told(), world::alone),
    ] {
        trials.extend(told.into_iter().map(|(name, test)| trial(table, name, test, turn)));
    }
    trials
}

fn trial(table: &str, name: &str, test: Told, turn: fn() -> Result<Turn, String>) -> Trial {
    Trial::test(format!("h2::{table}::{name}"), move || {
        let turn = turn()?;
        turn.lane().app.load(Vec::new());
        let done = test(turn.lane());
        let faults = turn.lane().app.take().1;
        done?;
        turn.lane().serves()?;
        match faults.is_empty() {
            true => Ok(()),
            false => Err(format!("sent to the application: {faults:?}").into()),
        }
    })
}

/// What must become of a connection, or of its stream 1.
enum Must {
    /// The connection ends, with one of these errors, or the general PROTOCOL_ERROR, if it names one: that it
    /// ends is what keeps others safe, the name is for whoever debugs the client.
    End(&'static [u32]),
    /// The stream is reset with one of these, or the connection ends, or it is refused with 4xx.
    Refuse(&'static [u32]),
    /// It is answered.
    Answer(u16),
}

/// Bytes after the settings were exchanged.
struct Row {
    table: &'static str,
    name: &'static str,
    bytes: Vec<u8>,
    must: Must,
}

impl Row {
    fn trial(self) -> Trial {
        let name = format!("h2::{}::{}", self.table, self.name);
        Trial::test(name, move || self.run(world::lane()?.lane()).map_err(Into::into))
    }

    fn run(&self, lane: &Lane) -> Result<(), String> {
        lane.app.load(Vec::new());
        let mut session = Session::open(lane.entry, &[])?;
        // It may be refused before all is written.
        let _ = session.send(&self.bytes);
        match self.must {
            Must::Answer(status) => match session.answer(1)? {
                (found, _) if found == status => {}
                (found, _) => return Err(format!("{found}, expected {status}")),
            },
            Must::End(codes) => ended(&session, codes)?,
            Must::Refuse(codes) => refused(&session, 1, codes)?,
        }
        if !matches!(self.must, Must::Answer(_)) {
            let whole = lane.app.take().0.into_iter().find(|r| r.whole);
            if let Some(request) = whole {
                return Err(format!("the application got {:?}", request.head));
            }
        }
        lane.serves()
    }
}

/// Waits for the end of the connection.
fn ended(session: &Session, codes: &[u32]) -> Result<(), String> {
    let what = format!("end of the connection with one of the errors {codes:?}");
    session.wait(&what, |frames, end| connection_ended(frames, end, codes))
}

fn connection_ended(frames: &[Frame], end: Option<End>, codes: &[u32]) -> Option<()> {
    let goaway = frames.iter().find(|f| f.kind == kind::GOAWAY && f.number(4) != 0);
    match goaway {
        Some(goaway) => {
            let named = goaway.number(4);
            (named == code::PROTOCOL || codes.contains(&named)).then_some(())
        }
        None => end.map(drop),
    }
}

/// Waits for a stream to be refused.
fn refused(session: &Session, stream: u32, codes: &[u32]) -> Result<(), String> {
    let what = format!("refusal of stream {stream} with one of the errors {codes:?}");
    session.wait(&what, |frames, end| {
        let reset = frames.iter().find(|f| f.kind == kind::RST_STREAM && f.stream == stream);
        let own = frames.iter().filter(|f| f.stream == stream);
        let status = own.filter_map(Frame::status).find(|s| (400..500).contains(s));
        match (reset, status) {
            (_, Some(_)) => Some(()),
            (Some(reset), _) => codes.contains(&reset.number(0)).then_some(()),
            _ => connection_ended(frames, end, codes),
        }
    })
}
