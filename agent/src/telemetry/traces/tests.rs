use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hearth_proto::time::Wall;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use super::*;

/// A collector that keeps what it is sent. Its first answers may be given.
#[derive(Clone)]
struct Collector {
    kept: Arc<watch::Sender<Vec<ExportTraceServiceRequest>>>,
    answers: Arc<Mutex<Vec<Code>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let next = self.answers.lock().unwrap().pop();
        match next {
            Some(code) => Err(Status::new(code, "told to")),
            None => {
                self.kept.send_modify(|kept| kept.push(request.into_inner()));
                Ok(Response::new(ExportTraceServiceResponse::default()))
            }
        }
    }
}

impl Collector {
    fn new(mut answers: Vec<Code>) -> Self {
        answers.reverse();
        Self { kept: Arc::new(watch::Sender::default()), answers: Arc::new(Mutex::new(answers)) }
    }

    fn serve(&self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener));
        tokio::spawn(server);
    }

    async fn wait_for(&self, spans: usize) {
        let mut kept = self.kept.subscribe();
        let enough = kept.wait_for(|kept| count(kept) >= spans);
        let enough = tokio::time::timeout(Duration::from_secs(20), enough).await.map(drop);
        assert!(enough.is_ok(), "{} of {spans} spans came", count(&self.kept.borrow()));
    }
}

fn count(kept: &[ExportTraceServiceRequest]) -> usize {
    let scopes = kept.iter().flat_map(|r| &r.resource_spans).flat_map(|r| &r.scope_spans);
    scopes.map(|s| s.spans.len()).sum()
}

/// A port that is ours and refuses connections until it listens.
fn closed_port() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn start(answers: Vec<Code>) -> (Collector, SpanSink, Labelled) {
    let collector = Collector::new(answers);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    collector.serve(listener);
    let (sink, dropped) = sink(address);
    (collector, sink, dropped)
}

fn sink(address: SocketAddr) -> (SpanSink, Labelled) {
    let (node, dropped) = (NodeName::parse("web-1").unwrap(), Labelled::default());
    let sink = SpanSink::to(&format!("http://{address}"), &node, &dropped).unwrap();
    (sink, dropped)
}

fn dropped(family: &Labelled) -> u64 {
    family.get_or_create(&[("queue", "spans")]).get()
}

const TRACE: u128 = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10;
const LIMIT: Duration = Duration::from_secs(10);

fn span(span_id: u64) -> Span {
    Span {
        trace_id: TRACE,
        span_id,
        parent: Some(0xf1),
        name: "detect",
        start: Wall(1_700_000_000_000_001),
        end: Wall(1_700_000_000_012_345),
        attributes: vec![("hearth.service", "ledger".into()), ("hearth.reason", "silent".into())],
        events: vec![(Wall(1_700_000_000_000_777), "suspect".into(), "link silent".into())],
        error: None,
    }
}

fn text(attributes: &[KeyValue]) -> BTreeMap<&str, &str> {
    let pairs =
        attributes.iter().map(|kv| match kv.value.as_ref().and_then(|v| v.value.as_ref()) {
            Some(Value::StringValue(text)) => (kv.key.as_str(), text.as_str()),
            other => panic!("{}: {other:?} is no text", kv.key),
        });
    pairs.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_span_arrives_exactly_as_the_core_made_it() {
    let (collector, sink, _) = start(Vec::new());
    let root = Span {
        span_id: 0xf1,
        parent: None,
        name: "failover",
        events: Vec::new(),
        error: Some("not stable after 60 s".into()),
        ..span(1)
    };
    sink.send(vec![span(0x0a), root]);
    collector.wait_for(2).await;
    let kept = collector.kept.borrow().clone();
    assert_eq!((kept.len(), kept[0].resource_spans.len()), (1, 1), "one batch");
    let of = &kept[0].resource_spans[0];
    let resource = text(&of.resource.as_ref().unwrap().attributes);
    for (key, value) in [
        ("service.name", "hearth-agent"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", "web-1"),
        ("host.name", "web-1"),
    ] {
        assert_eq!(resource.get(key), Some(&value), "{key}");
    }
    assert_eq!(of.scope_spans.len(), 1);
    let [detect, root] = &of.scope_spans[0].spans[..] else { panic!("{of:?}") };
    assert_eq!(detect.trace_id, TRACE.to_be_bytes());
    assert_eq!(detect.span_id, 0x0a_u64.to_be_bytes());
    assert_eq!(detect.parent_span_id, 0xf1_u64.to_be_bytes());
    assert_eq!(detect.name, "detect");
    assert_eq!(detect.start_time_unix_nano, 1_700_000_000_000_001_000);
    assert_eq!(detect.end_time_unix_nano, 1_700_000_000_012_345_000);
    let attributes = BTreeMap::from([("hearth.reason", "silent"), ("hearth.service", "ledger")]);
    assert_eq!(text(&detect.attributes), attributes);
    let [event] = &detect.events[..] else { panic!("{:?}", detect.events) };
    assert_eq!((event.name.as_str(), event.time_unix_nano), ("suspect", 1_700_000_000_000_777_000));
    assert_eq!(text(&event.attributes), BTreeMap::from([(convert::EVENT_DETAIL, "link silent")]));
    assert_eq!(detect.status.as_ref().unwrap().code, StatusCode::Unset as i32);
    assert_eq!((root.trace_id.clone(), root.parent_span_id.len()), (detect.trace_id.clone(), 0));
    let status = root.status.as_ref().unwrap();
    assert_eq!(status.code, StatusCode::Error as i32);
    assert_eq!(status.message, "not stable after 60 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_wait_for_a_collector_that_is_away_and_come_once() {
    let (socket, address) = closed_port();
    let (sink, family) = sink(address);
    sink.send((1..=3).map(span).collect());
    assert!(!sink.flush(Duration::from_millis(10)).await, "nobody listens");
    assert_eq!(dropped(&family), 3, "past its deadline a flush drops");
    sink.send((4..=6).map(span).collect());
    let flush = sink.flush(LIMIT);
    let collector = Collector::new(vec![Code::Unavailable, Code::ResourceExhausted]);
    let comes_back = async {
        socket.listen(16).unwrap();
        collector.serve(socket.into());
    };
    let (flushed, ()) = tokio::join!(flush, comes_back);
    assert!(flushed);
    assert_eq!((count(&collector.kept.borrow()), dropped(&family)), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_flush_an_export_is_tried_again_by_itself() {
    let (collector, sink, family) = start(vec![Code::Unavailable]);
    sink.send(vec![span(1)]);
    collector.wait_for(1).await;
    assert_eq!((count(&collector.kept.borrow()), dropped(&family)), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_collector_refuses_for_good_is_dropped_and_the_next_goes_through() {
    let (collector, sink, family) = start(vec![Code::InvalidArgument]);
    sink.send(vec![span(1), span(2)]);
    assert!(!sink.flush(LIMIT).await);
    assert_eq!(dropped(&family), 2);
    sink.send(vec![span(3)]);
    assert!(sink.flush(LIMIT).await);
    assert_eq!((count(&collector.kept.borrow()), dropped(&family)), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_exports_all_in_batches_and_a_full_queue_drops_and_counts() {
    let (socket, address) = closed_port();
    let (sink, family) = sink(address);
    // The task takes one batch out of the queue at most, while the collector is away.
    let sent = QUEUE + 2 * export::BATCH;
    let began = Instant::now();
    sink.send((1..=sent as u64).map(span).collect());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let lost = dropped(&family) as usize;
    assert!((export::BATCH..=2 * export::BATCH).contains(&lost), "{lost} dropped");
    let collector = Collector::new(Vec::new());
    socket.listen(16).unwrap();
    collector.serve(socket.into());
    assert!(sink.flush(LIMIT).await);
    let kept = collector.kept.borrow().clone();
    assert_eq!(count(&kept), sent - lost);
    assert!(kept.iter().all(|r| count(std::slice::from_ref(r)) <= export::BATCH));
    assert_eq!(dropped(&family) as usize, lost);
}

#[tokio::test]
async fn a_sink_that_is_off_takes_everything_and_says_that_nothing_is_left() {
    let sink = SpanSink::off();
    sink.send(vec![span(1)]);
    assert!(sink.flush(Duration::ZERO).await);
}

#[tokio::test]
async fn an_address_that_is_none_switches_traces_off_and_the_agent_lives() {
    let (node, dropped) = (NodeName::parse("web-1").unwrap(), Labelled::default());
    let sink = SpanSink::start(&node, Some("http://[bad"), &dropped);
    assert!(sink.0.is_none());
}

#[test]
fn the_configuration_comes_before_the_environment_and_traces_before_all_signals() {
    let with = |set: &'static [(&str, &str)]| {
        move |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    };
    const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", " http://all:4317 ");
    const TRACES: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317");
    assert_eq!(endpoint(None, with(&[])), None);
    assert_eq!(endpoint(None, with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")])), None);
    assert_eq!(endpoint(None, with(&[ALL])).as_deref(), Some("http://all:4317"));
    assert_eq!(endpoint(None, with(&[ALL, TRACES])).as_deref(), Some("http://traces:4317"));
    assert_eq!(endpoint(Some("http://c:4317"), with(&[ALL])).as_deref(), Some("http://c:4317"));
    let off = with(&[ALL, ("OTEL_SDK_DISABLED", "true")]);
    assert_eq!(endpoint(Some("http://c:4317"), off), None);
}
