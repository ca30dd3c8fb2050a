//! Waiting for a condition with a deadline: the lab's only way to wait.

use std::time::{Duration, Instant};

use super::error::LabError;

/// How often a condition is looked at. Short against every figure that is asserted with it.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until `probe` returns `Ok`, or fails with what it last saw.
///
/// # Errors
/// [`LabError::Deadline`] with the text of the last `Err`.
pub fn wait_for<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> Result<T, LabError> {
    let start = Instant::now();
    loop {
        let seen = match probe() {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        if start.elapsed() >= within {
            return Err(LabError::Deadline {
                what: what.to_owned(),
                waited_ms: start.elapsed().as_millis(),
                seen,
            });
        }
        std::thread::sleep(LOOK);
    }
}
