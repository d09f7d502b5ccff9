//! The format of cryptofd.toml: what one source says.

use super::{Policy, Wishes};
use crate::engine::Hardware;
use crate::engines;
use crate::error::{Error, Result};
use crate::table;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What one source says, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// For every algorithm.
    pub wishes: Wishes,
    /// On hardware or not.
    pub hardware: Option<Hardware>,
    /// For single algorithms.
    pub per_algorithm: Vec<(&'static str, Wishes)>,
    /// What it forbids.
    pub policy: Policy,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    engines: Engines,
    policy: PolicySection,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Engines {
    prefer: Option<Vec<String>>,
    disable: Option<Vec<String>>,
    hardware: Option<String>,
    #[serde(rename = "for")]
    per_algorithm: BTreeMap<String, OneAlgorithm>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct OneAlgorithm {
    prefer: Option<Vec<String>>,
    disable: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PolicySection {
    minimum_strength: Option<u32>,
    forbid: Vec<String>,
    allow: Option<Vec<String>>,
    engines: Option<Vec<String>>,
    hardware: Option<String>,
    fips: bool,
    weak: Option<String>,
}

/// Reads the text of `source`, a file's path for the messages.
pub fn parse(source: &str, text: &str) -> Result<Said> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1)
            .map_or(String::new(), |line| format!(", line {line}"));
        Error::invalid(format!("{source}{line}: {}", error.message()))
    })?;
    let known = |key: &str, list: Option<Vec<String>>| engine_names(source, key, list);
    let per_algorithm = file
        .engines
        .per_algorithm
        .into_iter()
        .map(|(name, one)| {
            let wishes = Wishes {
                prefer: known("engines.for.*.prefer", one.prefer)?,
                disable: known("engines.for.*.disable", one.disable)?,
            };
            Ok((algorithm(source, "engines.for", &name)?, wishes))
        })
        .collect::<Result<_>>()?;
    let policy = file.policy;
    let algorithms = |key: &str, list: Vec<String>| {
        list.iter()
            .map(|name| algorithm(source, key, name))
            .collect::<Result<Vec<_>>>()
    };
    Ok(Said {
        wishes: Wishes {
            prefer: known("engines.prefer", file.engines.prefer)?,
            disable: known("engines.disable", file.engines.disable)?,
        },
        hardware: word(source, "engines.hardware", file.engines.hardware)?,
        per_algorithm,
        policy: Policy {
            source: source.to_owned(),
            minimum_strength: policy.minimum_strength,
            forbid: algorithms("policy.forbid", policy.forbid)?,
            allow: policy
                .allow
                .map(|list| algorithms("policy.allow", list))
                .transpose()?,
            engines: known("policy.engines", policy.engines)?,
            hardware: demand(source, policy.hardware)?,
            fips: policy.fips,
            refuse_weak: match policy.weak.as_deref() {
                None | Some("allow") => false,
                Some("refuse") => true,
                Some(other) => {
                    return Err(Error::invalid(format!(
                        "{source}: policy.weak = {other:?}: \"allow\" or \"refuse\""
                    )));
                }
            },
        },
    })
}

/// Engines by name; a name that no engine has is an error, for a misspelt one would do nothing.
pub fn engine_names(
    source: &str,
    key: &str,
    list: Option<Vec<String>>,
) -> Result<Option<Vec<String>>> {
    let all = engines::all();
    for name in list.iter().flatten() {
        if !all.iter().any(|engine| engine.name() == name) {
            let names: Vec<_> = all.iter().map(|engine| engine.name()).collect();
            return Err(Error::invalid(format!(
                "{source}: {key} names no engine {name:?}; there are {}",
                names.join(", ")
            )));
        }
    }
    Ok(list)
}

fn algorithm(source: &str, key: &str, name: &str) -> Result<&'static str> {
    table::find(name)
        .map(|algorithm| algorithm.name)
        .map_err(|error| Error::invalid(format!("{source}: {key}: {error}")))
}

/// One of hardware's four words.
pub fn word(source: &str, key: &str, word: Option<String>) -> Result<Option<Hardware>> {
    word.map(|word| {
        Hardware::parse(&word).map_err(|error| Error::invalid(format!("{source}: {key}: {error}")))
    })
    .transpose()
}

/// A policy demands or says nothing; to prefer is no policy.
fn demand(source: &str, said: Option<String>) -> Result<Option<Hardware>> {
    match word(source, "policy.hardware", said)? {
        Some(Hardware::Prefer) => Err(Error::invalid(format!(
            "{source}: policy.hardware = \"prefer\": a policy says require, forbid or any; \
             engines.hardware prefers"
        ))),
        Some(Hardware::Any) => Ok(None),
        other => Ok(other),
    }
}
