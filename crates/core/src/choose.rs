//! Choosing an engine: the first that passes constraints, policy and self-test; the reasons against the
//! others are kept.

use crate::engine::{Engine, Hardware, Key, Opened, Spec};
use crate::engines;
use crate::error::{Error, Kind, Result};
use crate::preferences::{self, Preferences};
use crate::selftest;

/// Why an engine does not serve a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The engine.
    pub engine: &'static str,
    /// The sentence.
    pub why: String,
}

/// An engine that serves, and the reasons against those before it.
pub struct Choice {
    /// The engine.
    pub engine: &'static dyn Engine,
    /// What it opened.
    pub opened: Opened,
    /// Why not the others.
    pub reasons: Vec<Reason>,
}

/// The engines in the order of the preferences, and the reasons against those left out.
fn order(
    spec: &Spec,
    engine: Option<&str>,
    preferences: &Preferences,
) -> Result<(Vec<&'static dyn Engine>, Vec<Reason>)> {
    let mut reasons = Vec::new();
    if let Some(name) = engine {
        if !engines::all().iter().any(|e| e.name() == name) {
            let names: Vec<_> = engines::all().iter().map(|e| e.name()).collect();
            return Err(Error::invalid(format!(
                "no engine {name:?}; there are {}",
                names.join(", ")
            )));
        }
    }
    let mut order = Vec::new();
    for candidate in preferences.order(spec.algorithm.name, engines::all()) {
        let name = candidate.name();
        if let Some(why) = engines::left_out(name) {
            reasons.push(Reason {
                engine: name,
                why: why.to_owned(),
            });
        } else if engine.is_some_and(|wanted| wanted != name) {
            reasons.push(Reason {
                engine: name,
                why: format!("engine {} was asked for", engine.unwrap_or_default()),
            });
        } else if let Some(why) = match engine {
            // Who asks for an engine by name overrides a preference, not a policy.
            Some(_) => preferences.forbids(name),
            None => preferences.against(name, spec.algorithm.name),
        } {
            reasons.push(Reason { engine: name, why });
        } else {
            order.push(candidate);
        }
    }
    Ok((order, reasons))
}

/// Why `candidate` was asked before those that the order has before it, if it was.
fn first(
    candidate: &str,
    algorithm: &str,
    engine: Option<&str>,
    preferences: &Preferences,
) -> Option<String> {
    let faster = preferences.faster(algorithm)?;
    (engine.is_none() && faster.engine == candidate).then(|| {
        format!(
            "{} is faster at {algorithm} on a CPU without {}",
            faster.engine, faster.without
        )
    })
}

/// Opens `spec` with the first engine that can; those named in `without` are passed over with their reason.
pub fn open(spec: &Spec, engine: Option<&str>, without: &[Reason]) -> Result<Choice> {
    let preferences = preferences::current()?;
    let spec = &preferences.apply(spec)?;
    let (order, mut reasons) = order(spec, engine, &preferences)?;
    reasons.extend_from_slice(without);
    // With hardware preferred, hardware anywhere comes before software anywhere.
    let passes: &[Hardware] = match spec.hardware {
        Hardware::Prefer => &[Hardware::Require, Hardware::Any],
        Hardware::Any => &[Hardware::Any],
        Hardware::Require => &[Hardware::Require],
        Hardware::Forbid => &[Hardware::Forbid],
    };
    for (number, &hardware) in passes.iter().enumerate() {
        let spec = Spec {
            hardware,
            ..spec.clone()
        };
        let mut against = reasons.clone();
        for candidate in &order {
            let name = candidate.name();
            if without.iter().any(|r| r.engine == name) {
                continue;
            }
            match attempt(*candidate, &spec) {
                Ok(opened) => {
                    if let Some(why) = first(name, spec.algorithm.name, engine, &preferences) {
                        let own = engines::all().iter().take_while(|e| e.name() != name);
                        let passed = own.filter(|e| order.iter().any(|o| o.name() == e.name()));
                        against.extend(passed.map(|e| Reason {
                            engine: e.name(),
                            why: why.clone(),
                        }));
                    }
                    return Ok(Choice {
                        engine: *candidate,
                        opened,
                        reasons: against,
                    });
                }
                Err(error) if error.kind() == Kind::Invalid => return Err(error),
                Err(error) => against.push(Reason {
                    engine: name,
                    why: error.message().to_owned(),
                }),
            }
        }
        if number + 1 == passes.len() {
            reasons = against;
        }
    }
    let why: Vec<String> = reasons
        .iter()
        .map(|r| format!("{}: {}", r.engine, r.why))
        .collect();
    let (kind, errno) = if spec.fips {
        (Kind::Refused, libc::EPERM)
    } else {
        (Kind::NoEngine, libc::ENODEV)
    };
    Err(Error::new(
        kind,
        errno,
        format!(
            "no engine serves {}{} ({})",
            spec.algorithm.name,
            if spec.fips {
                " in a validated module"
            } else {
                ""
            },
            why.join("; ")
        ),
    ))
}

/// What one engine answers, when all are asked.
pub struct Candidate {
    /// The engine.
    pub engine: &'static str,
    /// What it would open, or why it would not.
    pub answer: std::result::Result<Opened, String>,
    /// Why it is asked before its turn, if it is.
    pub first: Option<String>,
}

/// Asks every engine, in the order of the preferences; the first that would serve is the one that `open`
/// takes (with hardware preferred, the first that is hardware).
pub fn explain(spec: &Spec, asked: Option<&str>) -> Result<Vec<Candidate>> {
    let preferences = preferences::current()?;
    let spec = &preferences.apply(spec)?;
    let (order, reasons) = order(spec, asked, &preferences)?;
    let mut candidates: Vec<Candidate> = order
        .into_iter()
        .map(|engine| Candidate {
            engine: engine.name(),
            first: first(engine.name(), spec.algorithm.name, asked, &preferences),
            answer: attempt(engine, spec).map_err(|error| error.message().to_owned()),
        })
        .collect();
    if spec.hardware == Hardware::Prefer {
        candidates.sort_by_key(|c| !c.answer.as_ref().is_ok_and(|o| o.hardware));
    }
    candidates.extend(reasons.into_iter().map(|reason| Candidate {
        engine: reason.engine,
        answer: Err(reason.why),
        first: None,
    }));
    Ok(candidates)
}

/// Opens and tests one engine.
fn attempt(engine: &'static dyn Engine, spec: &Spec) -> Result<Opened> {
    // Who was given a socket need not be able to make one.
    if !matches!(spec.key, Key::Adopted(_)) {
        engine.probe()?;
    }
    let opened = engine.open(spec)?;
    if spec.fips && !opened.fips {
        return Err(Error::not_offered("not a validated module"));
    }
    match spec.hardware {
        Hardware::Require if !opened.hardware => {
            return Err(Error::not_offered(format!("{} is software", opened.driver)));
        }
        Hardware::Forbid if opened.hardware => {
            return Err(Error::not_offered(format!("{} is hardware", opened.driver)));
        }
        _ => {}
    }
    if spec.driver.as_ref().is_some_and(|d| *d != opened.driver) {
        return Err(Error::not_offered(format!(
            "its driver is {}, {} was asked for",
            opened.driver,
            spec.driver.as_deref().unwrap_or_default()
        )));
    }
    selftest::passed(engine, spec, &opened)?;
    Ok(opened)
}
