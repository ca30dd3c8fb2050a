//! Reading what people write (TOML) with errors that name the place and the fix.
//!
//! Pure: text in, value or error out. The agent's config and the control plane's policy share it, so
//! that both speak of mistakes alike.

use std::fmt;

use serde::de::DeserializeOwned;

/// A mistake in a settings text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The file, as the user named it.
    pub file: String,
    /// Line and column, from 1; absent where the text as a whole is at fault.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub what: String,
    /// What to do, where it can be guessed.
    pub hint: Option<String>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

/// Reads `text`, which stands in `file`.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, SettingsError> {
    toml::from_str(text).map_err(|e| {
        let message = e.message().trim().to_owned();
        SettingsError {
            file: file.to_owned(),
            place: e.span().map(|s| position(text, s.start)),
            hint: hint(&message),
            what: message,
        }
    })
}

/// Line and column, both from 1, of a byte offset.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    (line, column)
}

/// For ``unknown field `x`, expected one of `a`, `b` `` (serde's wording): the nearest of the allowed.
fn hint(message: &str) -> Option<String> {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let (found, allowed) = quoted.split_first()?;
    if !unknown {
        return None;
    }
    match nearest(found, allowed.iter().copied()) {
        Some(best) => Some(format!("did you mean `{best}`?")),
        None => Some(format!("allowed here: {}", allowed.join(", "))),
    }
}

/// The word most like `found`, if any is near enough to be what was meant.
pub fn nearest<'a>(found: &str, allowed: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    allowed
        .map(|word| (strsim::damerau_levenshtein(found, word), word))
        .min()
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn an_unknown_key_is_placed_and_the_nearest_one_is_offered() {
        let e = parse::<Policy>("p.toml", "[services.ledger]\nmin_hto = 2\n").unwrap_err();
        assert_eq!(e.place, Some((2, 1)));
        assert_eq!(e.hint.as_deref(), Some("did you mean `min_hot`?"));
    }

    #[test]
    fn a_duration_without_a_unit_says_which_units_there_are() {
        let e = parse::<Policy>("p.toml", "[services.ledger]\ntimeout = \"5\"\n").unwrap_err();
        assert!(e.to_string().starts_with("p.toml:2:"), "{e}");
        assert!(e.what.contains("units: us, ms, s, m, h, d"), "{e}");
    }

    #[test]
    fn every_policy_key_and_value_survives_toml() {
        let text = "[services.ledger]\nmode = \"hot-hot\"\nmin_hot = \"67%\"\nfailback = \"3s\"\n\
                    timeout = \"2s\"\nhedge = \"off\"\nretries = 1\npanic = \"0%\"\nallow = [\"web-1\"]\n";
        let policy: Policy = parse("p.toml", text).unwrap();
        let again: Policy = parse("p.toml", &toml::to_string(&policy).unwrap()).unwrap();
        assert_eq!(policy, again);
    }
}
