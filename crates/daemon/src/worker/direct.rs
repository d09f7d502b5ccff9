//! `direct` sessions: an AF_ALG operation socket with the key in the kernel, and no process in between.
//!
//! Nobody checks a request on it, and nobody takes it back: so only a key whose holder may do everything
//! that the socket does, for ever, and one grant of it that narrows nothing.

use super::keys::Wrapper;
use super::recipe::{Keyed, options};
use cryptofd_core::engine::Key;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::session::Session;
use cryptofd_core::sys::arena;
use cryptofd_core::table::Kind;
use serde_json::{Map, Value, json};
use std::os::fd::OwnedFd;

/// Makes one for `{key, blob, usage, session}`, a part of a session's recipe.
pub fn run(recipe: &Map<String, Value>, wrapper: &Wrapper) -> Result<(Value, OwnedFd)> {
    let keyed = Keyed::of(recipe)?;
    let (attributes, algorithm) = (&keyed.attributes, keyed.algorithm);
    let refused =
        |why: String| Error::refused(format!("no direct session on {}: {why}", attributes.name()));
    let needs: &[&str] = match algorithm.kind {
        Kind::Cipher => &["encrypt", "decrypt"],
        Kind::Aead => &["encrypt", "decrypt", "caller-iv"],
        Kind::Mac => &["sign", "verify"],
        _ => {
            return Err(refused(format!(
                "the kernel gives no descriptor for {}",
                algorithm.name
            )));
        }
    };
    let holds = |usage: &str| keyed.usage().any(|held| held == usage);
    if let Some(missing) = needs.iter().find(|usage| !holds(usage)) {
        return Err(refused(format!(
            "its holder can {}, and this grant has no usage {missing}",
            needs.join(", ")
        )));
    }
    for limit in ["expires", "uses"] {
        if attributes.number(limit).is_some() {
            return Err(refused(format!(
                "the key has a limit ({limit}), which nobody would enforce"
            )));
        }
    }
    let mut request = options(recipe)?;
    request.algorithm = algorithm.name.into();
    if let Some(other) = request.engine.as_ref().filter(|engine| *engine != "kernel") {
        return Err(refused(format!(
            "it is the engine kernel's, and {other} is to serve"
        )));
    }
    keyed.tags(&mut request)?;
    let tag_size = request.parameters.tag_size;
    arena::bounded(|| {
        request.key = Key::Bytes(keyed.unwrap(wrapper)?);
        let (fd, driver) = Session::give_away(request)?;
        Ok((json!({"driver": driver, "tag_size": tag_size}), fd))
    })
}
