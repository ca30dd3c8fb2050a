//! Putting a policy into force.

use hearth_proto::api::{PolicyAnswer, PolicyRequest, PolicyVersion};
use hearth_proto::document::Content;
use hearth_proto::policy::Policy;
use hearth_proto::settings::SettingsError;
use hearth_proto::time::Wall;
use tracing::info;

use super::{ApplyError, Plane, lock};
use crate::policy;

impl Plane {
    /// Compares a policy text with what is in force and, unless it is a dry run or changes nothing,
    /// signs it as the next version.
    pub fn apply(
        &self,
        request: &PolicyRequest,
        by: &str,
        now: Wall,
    ) -> Result<PolicyAnswer, ApplyError> {
        let new = policy::compile(&request.file, &request.text)?;
        let _one_at_a_time = lock(&self.changing);
        let present = self.store.policy(None)?;
        let version = present.as_ref().map_or(0, |p| p.version);
        let old = match &present {
            Some(p) => policy::compile("the policy in force", &p.text)?,
            None => Policy::default(),
        };
        if let Some(what) = policy::refusal(&old, &new) {
            let file = request.file.clone();
            return Err(SettingsError { file, place: None, what, hint: None }.into());
        }
        let mut changes = policy::changes(&old, &new);
        let mut warnings = policy::warnings(&new);
        let known = self.store.agents()?.into_iter().map(|agent| agent.node).collect();
        warnings.extend(policy::doubts(&old, &new, &known));
        // After a restore from a backup the mesh holds versions we do not know: a version they do not
        // have must be newer than all of theirs, and even the same text must be said anew.
        let witnessed = self.store.witnessed()?;
        if witnessed > version {
            changes.push(format!(
                "version: agents were seen with version {witnessed}, the newest here is {version}; \
                 this one supersedes both"
            ));
        }
        let next = version.max(witnessed) + 1;
        if changes.is_empty() || request.dry_run {
            let version = if changes.is_empty() { version } else { next };
            return Ok(PolicyAnswer { version, changes, warnings, acknowledged: Vec::new() });
        }
        let document = self.sign(next, now, request.text.clone(), Content::Policy(new))?;
        let entry = PolicyVersion {
            version: next,
            issued: now,
            by: by.to_owned(),
            text: request.text.clone(),
        };
        self.store.put_document(&document, Some(&entry))?;
        self.metrics.policy_version(next);
        info!(audit = true, version = next, by, changes = changes.len(), "policy_applied");
        self.changed.send_modify(|n| *n += 1);
        Ok(PolicyAnswer { version: next, changes, warnings, acknowledged: Vec::new() })
    }
}
