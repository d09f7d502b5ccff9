//! The command line: `--name value`, each at most once, and what follows `--`.

use cryptofd_core::error::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// What was said.
pub struct Arguments {
    named: BTreeMap<String, Vec<OsString>>,
    /// What followed `--`.
    pub rest: Vec<OsString>,
}

impl Arguments {
    /// Reads all of it.
    pub fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Arguments> {
        let mut named: BTreeMap<String, Vec<OsString>> = BTreeMap::new();
        let mut rest = Vec::new();
        while let Some(word) = words.next() {
            let text = word.to_string_lossy().into_owned();
            if text == "--" {
                rest.extend(words.by_ref());
                break;
            }
            let Some(name) = text.strip_prefix("--") else {
                return Err(Error::invalid(format!(
                    "{text:?}: --NAME VALUE was expected"
                )));
            };
            let value = words
                .next()
                .ok_or_else(|| Error::invalid(format!("--{name} needs a value")))?;
            named.entry(name.to_owned()).or_default().push(value);
        }
        Ok(Arguments { named, rest })
    }

    /// Every value of `--name`.
    pub fn all(&mut self, name: &str) -> Vec<OsString> {
        self.named.remove(name).unwrap_or_default()
    }

    /// The value of `--name`, if it was said.
    pub fn one(&mut self, name: &str) -> Result<Option<OsString>> {
        let mut all = self.all(name);
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(Error::invalid(format!("--{name} twice"))),
        }
    }

    /// The same as a number.
    pub fn optional(&mut self, name: &str) -> Result<Option<u64>> {
        let Some(value) = self.one(name)? else {
            return Ok(None);
        };
        let number = value.to_str().and_then(|text| text.parse().ok());
        number
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("--{name} {value:?} is no number")))
    }

    /// The same where it has to be said.
    pub fn number(&mut self, name: &str) -> Result<u64> {
        self.optional(name)?
            .ok_or_else(|| Error::invalid(format!("--{name} is missing")))
    }

    /// Nothing was said that nobody understands.
    pub fn finish(&self) -> Result<()> {
        match self.named.keys().next() {
            Some(name) => Err(Error::invalid(format!("--{name} is not known"))),
            None => Ok(()),
        }
    }
}
