//! From a question to an answer. Pure.
//!
//! We are the authority for `mesh.`: a name that no service has does not exist (NXDOMAIN), a service
//! without what is asked for has no data, and either is said with an SOA, so that it is kept as briefly as an
//! answer is (RFC 2308). Everything that is not about `mesh.` is somebody else's to answer.

use std::net::{IpAddr, SocketAddr};

use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AnswerBuilder, PushError};
use domain::base::name::ToLabelIter;
use domain::base::{Message, MessageBuilder, Name, ParsedName, Serial, ToName, Ttl};
use domain::rdata::{A, Aaaa, Ns, Soa, Srv};
use hearth_proto::ids::ServiceName;

use super::{Found, Over};

/// How long an answer may be kept. It changes only with this host's configuration or when a service
/// appears; failover never changes it. Short, because a program that cached "no such name" while its
/// service was being set up should not wait for longer than a person would.
const KEEP: Ttl = Ttl::from_secs(5);
/// Largest datagram we say to take: what passes every path unfragmented (DNS flag day 2020).
const UDP_SIZE: u16 = 1232;
/// The zone that is ours.
const ZONE: &str = "mesh";

/// What is done with a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This is the answer; the word is for the counter.
    Reply(Vec<u8>, &'static str),
    /// It is about another zone.
    Forward,
    /// It is no question: no answer, or two servers could answer each other for ever.
    Ignore,
}

/// What a name under `mesh.` is.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// The zone itself.
    Apex,
    /// `<service>`, or `_x._tcp.<service>` and its like.
    Service(ServiceName, Over, bool),
    /// What can be no service's name.
    Nothing,
}

/// Answers `query`. `address` stands for a port that is bound to all addresses.
pub(super) fn answer(
    query: &[u8],
    address: IpAddr,
    find: impl Fn(&ServiceName, Over) -> Found,
) -> Verdict {
    let Ok(message) = Message::from_octets(query) else { return Verdict::Ignore };
    if message.header().qr() {
        return Verdict::Ignore;
    }
    let wrong = |rcode| match short(&message, rcode) {
        Some(reply) => Verdict::Reply(reply, "wrong"),
        None => Verdict::Ignore,
    };
    if message.header().opcode() != Opcode::QUERY {
        return wrong(Rcode::NOTIMP);
    }
    let Ok(question) = message.sole_question() else { return wrong(Rcode::FORMERR) };
    let Some(wanted) = wanted(question.qname()) else { return Verdict::Forward };
    if message.opt().is_some_and(|opt| opt.version() > 0) {
        return unknown_edns(&message).map_or(Verdict::Ignore, |r| Verdict::Reply(r, "wrong"));
    }
    if !matches!(question.qclass(), Class::IN | Class::ANY) {
        return wrong(Rcode::REFUSED);
    }
    let found = match &wanted {
        Wanted::Apex => Found::Nowhere,
        Wanted::Nothing => Found::Unknown,
        Wanted::Service(service, over, _) => find(service, *over),
    };
    let found = match found {
        Found::At(at) if at.ip().is_unspecified() => Found::At(SocketAddr::new(address, at.port())),
        other => other,
    };
    let reply = reply(&message, question.qname(), question.qtype(), &wanted, found);
    reply.map_or(Verdict::Ignore, |(reply, outcome)| Verdict::Reply(reply, outcome))
}

/// What is said when a question cannot be forwarded.
pub(super) fn failure(query: &[u8], refused: bool) -> Option<Vec<u8>> {
    let message = Message::from_octets(query).ok()?;
    short(&message, if refused { Rcode::REFUSED } else { Rcode::SERVFAIL })
}

/// `None` for a name outside the zone.
fn wanted(name: &ParsedName<&[u8]>) -> Option<Wanted> {
    let mut labels: Vec<String> = Vec::new();
    for label in name.iter_labels().filter(|label| !label.is_root()) {
        labels.push(String::from_utf8_lossy(label.as_slice()).to_ascii_lowercase());
    }
    if labels.pop()? != ZONE {
        return None;
    }
    let Some(service) = labels.pop() else { return Some(Wanted::Apex) };
    let Ok(service) = ServiceName::parse(&service) else { return Some(Wanted::Nothing) };
    // RFC 2782 writes `_service._proto` before the name; the first word may be anything here.
    let over = match labels.last().map(String::as_str) {
        None => Over::Either,
        Some("_tcp") => Over::Tcp,
        Some("_udp") => Over::Udp,
        Some(_) => return Some(Wanted::Nothing),
    };
    match labels.as_slice() {
        [] => Some(Wanted::Service(service, over, true)),
        [_] => Some(Wanted::Service(service, over, false)),
        [first, _] if first.starts_with('_') => Some(Wanted::Service(service, over, false)),
        _ => Some(Wanted::Nothing),
    }
}

type Made = Result<(Vec<u8>, &'static str), PushError>;

fn reply(
    message: &Message<&[u8]>,
    name: &ParsedName<&[u8]>,
    asked: Rtype,
    wanted: &Wanted,
    found: Found,
) -> Option<(Vec<u8>, &'static str)> {
    let rcode = if found == Found::Unknown { Rcode::NXDOMAIN } else { Rcode::NOERROR };
    let mut answer = MessageBuilder::new_vec().start_answer(message, rcode).ok()?;
    answer.header_mut().set_aa(true);
    answer.header_mut().set_ra(true);
    let made: Made = match (wanted, found) {
        (Wanted::Service(service, _, own), Found::At(at)) => {
            service_records(answer, message, name, asked, (service, *own), at)
        }
        (Wanted::Apex, _) if asked == Rtype::SOA => answer
            .push((name, KEEP, soa()))
            .and_then(|()| finish(answer, message, None, "answered")),
        (Wanted::Apex, _) if asked == Rtype::NS => {
            let ns = Ns::new(zone_name());
            answer.push((name, KEEP, ns)).and_then(|()| finish(answer, message, None, "answered"))
        }
        (_, Found::Unknown) => finish(answer, message, None, "no_name"),
        _ => finish(answer, message, None, "no_data"),
    };
    // Answers are far smaller than what any vector holds.
    made.ok()
}

/// The records of a service at a port. Behind `_x._tcp` only the port is asked for.
fn service_records(
    mut answer: AnswerBuilder<Vec<u8>>,
    message: &Message<&[u8]>,
    name: &ParsedName<&[u8]>,
    asked: Rtype,
    (service, own): (&ServiceName, bool),
    at: SocketAddr,
) -> Made {
    let any = asked == Rtype::ANY;
    let mut said = false;
    let mut addressed = None;
    match at.ip() {
        IpAddr::V4(ip) if own && (any || asked == Rtype::A) => {
            answer.push((name, KEEP, A::new(ip)))?;
            said = true;
        }
        IpAddr::V6(ip) if own && (any || asked == Rtype::AAAA) => {
            answer.push((name, KEEP, Aaaa::new(ip)))?;
            said = true;
        }
        _ => {}
    }
    if any || asked == Rtype::SRV {
        let target = service_name(service);
        answer.push((name, KEEP, Srv::new(0, 0, at.port(), target.clone())))?;
        (said, addressed) = (true, Some((target, at.ip())));
    }
    finish(answer, message, addressed, if said { "answered" } else { "no_data" })
}

/// Ends a message: with an SOA where it says no, with what an SRV points to, with EDNS where it was used.
fn finish(
    answer: AnswerBuilder<Vec<u8>>,
    message: &Message<&[u8]>,
    addressed: Option<(Name<Vec<u8>>, IpAddr)>,
    outcome: &'static str,
) -> Made {
    let mut authority = answer.authority();
    if outcome != "answered" {
        authority.push((zone_name(), KEEP, soa()))?;
    }
    let mut additional = authority.additional();
    match addressed {
        Some((target, IpAddr::V4(ip))) => additional.push((target, KEEP, A::new(ip)))?,
        Some((target, IpAddr::V6(ip))) => additional.push((target, KEEP, Aaaa::new(ip)))?,
        None => {}
    }
    if message.opt().is_some() {
        additional.opt(|opt| {
            opt.set_udp_payload_size(UDP_SIZE);
            Ok(())
        })?;
    }
    Ok((additional.finish(), outcome))
}

fn zone_name() -> Name<Vec<u8>> {
    // Proof: a single label of letters is a name.
    ZONE.parse().expect("a name")
}

fn service_name(service: &ServiceName) -> Name<Vec<u8>> {
    // Proof: a service's name is a DNS label of at most 63 bytes.
    format!("{service}.{ZONE}").parse().expect("a name")
}

/// Names of the people in it there are none; the times of a secondary mean nothing, since there are none.
fn soa() -> Soa<Name<Vec<u8>>> {
    Soa::new(zone_name(), zone_name(), Serial(1), KEEP, KEEP, KEEP, KEEP)
}

fn short(message: &Message<&[u8]>, rcode: Rcode) -> Option<Vec<u8>> {
    let answer = MessageBuilder::new_vec().start_answer(message, rcode).ok()?;
    Some(answer.finish())
}

/// RFC 6891 section 6.1.3.
fn unknown_edns(message: &Message<&[u8]>) -> Option<Vec<u8>> {
    let answer = MessageBuilder::new_vec().start_answer(message, Rcode::NOERROR).ok()?;
    let mut additional = answer.additional();
    additional
        .opt(|opt| {
            opt.set_udp_payload_size(UDP_SIZE);
            opt.set_rcode(OptRcode::BADVERS);
            Ok(())
        })
        .ok()?;
    Some(additional.finish())
}

/// Whether `reply` answers `query`: same question, in any case, by its id.
pub(super) fn answers(reply: &[u8], query: &[u8], id: u16) -> bool {
    let (Ok(reply), Ok(query)) = (Message::from_octets(reply), Message::from_octets(query)) else {
        return false;
    };
    if !reply.header().qr() || reply.header().id() != id {
        return false;
    }
    match (reply.first_question(), query.first_question()) {
        (Some(a), Some(b)) => {
            a.qname().name_eq(b.qname()) && a.qtype() == b.qtype() && a.qclass() == b.qclass()
        }
        // An error may come without the question.
        (None, _) => reply.header().rcode() != Rcode::NOERROR,
        (Some(_), None) => false,
    }
}

/// Whether another resolver may know better.
pub(super) fn is_unhelpful(reply: &[u8]) -> bool {
    Message::from_octets(reply)
        .is_ok_and(|m| matches!(m.header().rcode(), Rcode::SERVFAIL | Rcode::REFUSED))
}
