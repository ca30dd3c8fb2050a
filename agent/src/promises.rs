//! Promises of leases on their way to the disk, where they are before anything that rests on them is said.
//!
//! One task, which writes the newest and skips what it supersedes. A disk that does not take them keeps this node
//! from voting, not from anything else, and is tried again. Aborting the task does the same.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::exclusive::Book;
use hearth_proto::ids::ServiceName;
use tokio::sync::watch;

use crate::disk::StateDir;

/// Promises by service, with the number the core gave them.
pub type Promises = (u64, Vec<(ServiceName, Book)>);

/// After a failure to write it is tried again so much later.
const SAVE_AGAIN: Duration = Duration::from_millis(500);

/// Writes what comes, and tells `saved` the number of what is durably on disk, until it returns `false`.
pub async fn keep<F: Future<Output = bool>>(
    state: Arc<StateDir>,
    mut promises: watch::Receiver<Option<Promises>>,
    saved: impl Fn(u64) -> F,
) {
    while promises.changed().await.is_ok() {
        loop {
            let newest = promises.borrow_and_update().clone();
            let Some((serial, books)) = newest else { break };
            let state = state.clone();
            let written = tokio::task::spawn_blocking(move || state.save_promises(&books));
            let failed = match written.await {
                Ok(Ok(())) if saved(serial).await => break,
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::error!(
                error = failed,
                "promise of a lease not saved; this node does not vote"
            );
            tokio::time::sleep(SAVE_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hearth_proto::exclusive::{Electorate, Timing};
    use hearth_proto::ids::NodeName;
    use tokio::sync::mpsc;

    use super::*;
    use crate::disk::tests::{Scratch, open};

    fn books(number: u64) -> Vec<(ServiceName, Book)> {
        let owners = ["a", "b", "c"].map(|name| NodeName::parse(name).unwrap());
        let electorate = Electorate::new(number, owners, []);
        let book = Book::fresh(&electorate, &Timing::of(Duration::from_secs(5)));
        vec![(ServiceName::parse("ledger").unwrap(), book)]
    }

    /// The task over a state directory; what it tells.
    fn keeping(
        state: &Arc<StateDir>,
    ) -> (watch::Sender<Option<Promises>>, mpsc::UnboundedReceiver<u64>) {
        let (promises, seen) = watch::channel(None);
        let (told, tells) = mpsc::unbounded_channel();
        tokio::spawn(keep(state.clone(), seen, move |serial| {
            let told = told.send(serial);
            async move { told.is_ok() }
        }));
        (promises, tells)
    }

    #[tokio::test]
    async fn a_promise_is_on_disk_when_the_core_is_told() {
        let scratch = Scratch::new();
        let state = Arc::new(open(&scratch));
        assert_eq!(state.load_promises(), []);
        let (promises, mut tells) = keeping(&state);
        for serial in 1..4 {
            promises.send_replace(Some((serial, books(serial))));
            assert_eq!(tells.recv().await, Some(serial));
            assert_eq!(state.load_promises(), books(serial));
        }
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_is_told_of_to_nobody_and_the_newest_is_written_when_it_does()
    {
        let scratch = Scratch::new();
        let state = Arc::new(open(&scratch));
        let in_the_way = state.path().join("promises.bin");
        fs::create_dir_all(in_the_way.join("full")).unwrap();
        let (promises, mut tells) = keeping(&state);
        promises.send_replace(Some((1, books(1))));
        let early = tokio::time::timeout(Duration::from_millis(200), tells.recv()).await;
        assert!(early.is_err(), "told of {early:?}");
        promises.send_replace(Some((2, books(2))));
        fs::remove_dir_all(&in_the_way).unwrap();
        assert_eq!(tells.recv().await, Some(2));
        assert_eq!(state.load_promises(), books(2));
    }

    #[test]
    fn damaged_promises_count_as_none() {
        let scratch = Scratch::new();
        let state = open(&scratch);
        state.save_promises(&books(1)).unwrap();
        let file = state.path().join("promises.bin");
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(state.load_promises(), []);
    }
}
