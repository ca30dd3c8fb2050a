//! Real programs and real sockets.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hearth_proto::ids::{NodeName, ServiceName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::disk::tests::Scratch;

fn call() -> HookCall {
    HookCall {
        purpose: Purpose::Activate,
        endpoint: EndpointId {
            service: ServiceName::parse("ledger").unwrap(),
            node: NodeName::parse("web-1").unwrap(),
            instance: 0,
        },
        incident: "ledger-4f1d09ab".into(),
        term: Some(7),
    }
}

fn sh(script: &str, deadline_ms: u64) -> Hook {
    let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Hook { action: Action::Exec(words), deadline: Duration::from_millis(deadline_ms) }
}

/// An application that answers its n-th request with the n-th status, the last one forever.
async fn application(statuses: &'static [u16]) -> (Hook, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/activate?x=1", listener.local_addr().unwrap());
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (log, asked) = (seen.clone(), AtomicUsize::new(0));
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let mut n = 0;
            while !buffer[..n].ends_with(b"}") {
                n += tcp.read(&mut buffer[n..]).await.unwrap();
            }
            log.lock().unwrap().push(String::from_utf8_lossy(&buffer[..n]).into_owned());
            let i = asked.fetch_add(1, Ordering::SeqCst).min(statuses.len() - 1);
            let answer = format!("HTTP/1.1 {} X\r\ncontent-length: 4\r\n\r\nwait", statuses[i]);
            tcp.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let action = Action::Http(url.parse().unwrap());
    (Hook { action, deadline: Duration::from_secs(5) }, seen)
}

#[tokio::test]
async fn an_http_hook_is_posted_and_tried_again_until_it_succeeds() {
    let (hook, seen) = application(&[503, 500, 204]).await;
    let event = run(&hook, call()).await;
    assert!(event.result.is_ok(), "{event:?}");
    assert_eq!(event.tries, 3);
    let first = seen.lock().unwrap()[0].clone();
    assert!(first.starts_with("POST /activate?x=1 HTTP/1.1\r\n"), "{first}");
    assert!(first.contains(r#""incident":"ledger-4f1d09ab""#), "{first}");
    assert!(first.contains(r#""endpoint":"ledger@web-1""#), "{first}");
}

#[tokio::test]
async fn one_attempt_is_made_once_and_says_whether_another_may_do_better() {
    let (hook, seen) = application(&[503]).await;
    let event = run_once(&hook, call(), Duration::from_secs(5)).await;
    let told = event.result.unwrap_err().told();
    assert_eq!(told, HookFailed::Once("answered 503, saying \"wait\"".into()));
    assert_eq!((event.tries, seen.lock().unwrap().len()), (1, 1));
    let nowhere = Action::Exec(vec!["/nowhere/warm-up".into()]);
    let hook = Hook { action: nowhere, deadline: Duration::from_secs(5) };
    let event = run_once(&hook, call(), Duration::from_secs(5)).await;
    assert!(matches!(event.result.unwrap_err().told(), HookFailed::Hopeless(_)));
}

#[tokio::test]
async fn an_attempt_ends_with_what_is_left_of_the_activation() {
    let event = run_once(&sh("sleep 600", 600_000), call(), Duration::from_millis(50)).await;
    assert_eq!(
        event.result.unwrap_err().told(),
        HookFailed::Once("not done within 50ms (1 try): /bin/sh was still under way".into())
    );
}

#[tokio::test]
async fn a_hook_that_never_succeeds_tells_its_last_failure() {
    let (mut hook, _) = application(&[503]).await;
    hook.deadline = Duration::from_millis(300);
    let event = run(&hook, call()).await;
    let told = event.result.unwrap_err().to_string();
    assert!(told.starts_with("not done within 300ms ("), "{told}");
    assert!(told.ends_with("): answered 503, saying \"wait\""), "{told}");
    assert!(event.took >= Duration::from_millis(100) && event.took < Duration::from_secs(3));
}

#[tokio::test]
async fn a_hook_to_nobody_says_who_refused() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{port}/");
    let action = Action::Http(url.parse().unwrap());
    let hook = Hook { action, deadline: Duration::from_millis(50) };
    let told = run(&hook, call()).await.result.unwrap_err().to_string();
    assert_eq!(
        told,
        format!(
            "not done within 50ms (1 try): POST {url}: cannot connect: Connection refused \
             (os error 111)"
        )
    );
}

#[tokio::test]
async fn a_program_learns_what_it_is_for_from_its_environment() {
    let scratch = Scratch::new();
    let file = scratch.0.join("said");
    let script = format!(
        "echo $HEARTH_SERVICE $HEARTH_INCIDENT $HEARTH_ENDPOINT $HEARTH_TERM > {}",
        file.display()
    );
    let event = run(&sh(&script, 5_000), call()).await;
    assert!(event.result.is_ok(), "{event:?}");
    assert_eq!(fs::read_to_string(file).unwrap(), "ledger ledger-4f1d09ab ledger@web-1 7\n");
}

#[tokio::test]
async fn a_failing_program_is_tried_again_and_its_output_told_within_bounds() {
    let scratch = Scratch::new();
    let file = scratch.0.join("tries");
    let f = file.display();
    let script = format!("echo x >> {f}; [ $(wc -l < {f}) -ge 2 ]");
    let event = run(&sh(&script, 5_000), call()).await;
    assert_eq!((event.result.is_ok(), event.tries), (true, 2));
    assert_eq!(
        failure("echo out; echo no disk >&2; exit 3").await.to_string(),
        "/bin/sh ended with exit status: 3, saying \"out\\nno disk\""
    );
    assert_eq!(failure("kill -9 $$").await.to_string(), "/bin/sh ended with signal: 9 (SIGKILL)");
    let flood = failure("head -c 1000000 /dev/zero | tr '\\0' a; exit 1").await;
    let Failure::Exit { output, .. } = flood else { panic!("{flood}") };
    assert_eq!(output.len(), OUTPUT_KEPT);
}

/// How a single try of a script fails.
async fn failure(script: &str) -> Failure {
    match attempt(&sh(script, 0).action, &call()).await {
        Err(Attempt::Failed(failure)) => failure,
        Err(Attempt::Hopeless(error)) => panic!("{error}"),
        Ok(()) => panic!("it succeeded"),
    }
}

#[tokio::test]
async fn a_program_is_killed_at_its_deadline_with_all_it_started() {
    let scratch = Scratch::new();
    let file = scratch.0.join("pid");
    let script = format!("sleep 600 & echo $! > {}; wait", file.display());
    let event = run(&sh(&script, 500), call()).await;
    assert_eq!(
        event.result.unwrap_err().to_string(),
        "not done within 500ms (1 try): /bin/sh was still under way"
    );
    let pid: i32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_running(pid) {
        assert!(Instant::now() < deadline, "process {pid} survived its hook");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Neither gone nor a zombie nobody has collected yet.
fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_at_once() {
    let action = Action::Exec(vec!["/nowhere/warm-up".into()]);
    let event = run(&Hook { action, deadline: Duration::from_secs(60) }, call()).await;
    assert_eq!(
        event.result.unwrap_err().to_string(),
        "cannot run /nowhere/warm-up: No such file or directory (os error 2)\n  hint: `command` names a \
         program by its path, which must be executable for the user the agent runs as"
    );
    assert_eq!(event.tries, 1);
}

#[tokio::test]
async fn a_started_hook_sends_one_event_and_ends_when_dropped() {
    let (events, mut inbox) = mpsc::channel(1);
    let running = RunningHook::start(sh("exit 0", 5_000), call(), events.clone());
    let event = tokio::time::timeout(Duration::from_secs(10), inbox.recv()).await;
    assert!(event.expect("no event").expect("no event").result.is_ok());
    drop(running);
    let endless = RunningHook::start(sh("sleep 600", 600_000), call(), events);
    drop(endless);
    let end = tokio::time::timeout(Duration::from_secs(10), inbox.recv()).await;
    assert!(end.expect("the hook outlives its owner").is_none());
}
