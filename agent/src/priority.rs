//! Which of the agent's threads go ahead of others, and what of it stays in memory.

use thread_priority::unix::{set_thread_priority_and_policy, thread_native_id};
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
};

/// Probes must not be late on a busy host, however busy: the mesh thread is scheduled ahead of everything that
/// has no real-time policy (as corosync and keepalived do it), at the lowest such priority. It works for moments;
/// should it ever not, the kernel leaves the others a twentieth (`sched_rt_runtime_us`). Where it is not allowed
/// (CAP_SYS_NICE), nothing is lost but that margin.
pub(crate) fn raise() {
    const NICE: i32 = -10;
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "mesh thread keeps its ordinary priority");
    }
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    if let Err(error) = schedule(policy) {
        tracing::debug!(?error, "mesh thread keeps its ordinary scheduling policy");
    }
}

/// Takes back what this thread has inherited of the mesh thread's hurry: who writes to a disk is in none.
pub(crate) fn ordinary() {
    // Always allowed: it lowers what there is.
    let _ = rustix::process::setpriority_process(None, 0);
    // It can only be the policy that it has already.
    let _ = schedule(ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other));
}

/// Schedules this thread by a policy, at its lowest priority.
fn schedule(policy: ThreadSchedulePolicy) -> Result<(), thread_priority::Error> {
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy)
}

/// What was in memory once stays there: code that is rarely run and was evicted would be read from a disk
/// when it is needed, and an agent that waits for a disk is silent to everybody else (as keepalived and
/// corosync do it). Costs no memory beyond what was touched. Where the limit (`RLIMIT_MEMLOCK`) does not allow
/// it, nothing is lost but that margin.
pub(crate) fn keep_resident() {
    use rustix::mm::{MlockAllFlags, mlockall};
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT) {
        tracing::debug!(%error, "the agent's code is not kept in memory");
    }
}
