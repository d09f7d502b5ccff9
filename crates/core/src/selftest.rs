//! Self-tests: an engine serves an algorithm only after it gave the table's known answers on this host.

use crate::engine::{
    Derivation, Direction, Engine, Key, Opened, Padding, Pair, Scheme, Signing, Spec, Work,
};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::buffer::{Input, Output};
use crate::table::Test;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

type Verdicts =
    Mutex<HashMap<(&'static str, String, &'static str), std::result::Result<(), String>>>;

fn verdicts() -> &'static Verdicts {
    static VERDICTS: OnceLock<Verdicts> = OnceLock::new();
    VERDICTS.get_or_init(Default::default)
}

/// Whether (engine, driver, algorithm) has passed; the first time, runs the tests. A failed test is
/// quarantine: the reason stays until the process ends.
pub fn passed(engine: &'static dyn Engine, spec: &Spec, opened: &Opened) -> Result<()> {
    let place = (engine.name(), opened.driver.clone(), spec.algorithm.name);
    let known = verdicts()
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .get(&place)
        .cloned();
    let verdict = match known {
        Some(verdict) => verdict,
        None => {
            let ran = run(engine, spec, opened);
            // Where no test could be run, the next session tries again.
            let untested = ran == Ok(false);
            let verdict = ran.map(drop);
            if !untested {
                verdicts()
                    .lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .insert(place, verdict.clone());
            }
            verdict
        }
    };
    verdict.map_err(|why| Error::not_offered(format!("quarantined: {why}")))
}

/// Takes an engine's driver out of service for one algorithm.
pub fn quarantine(engine: &'static str, driver: &str, algorithm: &'static str, why: &str) {
    verdicts()
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .insert((engine, driver.to_owned(), algorithm), Err(why.to_owned()));
}

/// What is out of service, with the reason: (engine, driver, algorithm, reason).
pub fn quarantined() -> Vec<(&'static str, String, &'static str, String)> {
    let verdicts = verdicts().lock().unwrap_or_else(|e| e.into_inner());
    verdicts
        .iter()
        .filter_map(|((engine, driver, algorithm), verdict)| {
            let why = verdict.as_ref().err()?;
            Some((*engine, driver.clone(), *algorithm, why.clone()))
        })
        .collect()
}

/// Whether there was a test to run, and it passed; what failed.
fn run(
    engine: &'static dyn Engine,
    spec: &Spec,
    opened: &Opened,
) -> std::result::Result<bool, String> {
    let algorithm = spec.algorithm;
    if let Work::Random(random) = &opened.work {
        let (mut one, mut two) = ([0u8; 32], [0u8; 32]);
        return match random.fill(&mut one).and_then(|()| random.fill(&mut two)) {
            Ok(()) if one != two && one != [0; 32] => Ok(true),
            Ok(()) => Err("random bytes repeat".into()),
            Err(error) => Err(error.message().to_owned()),
        };
    }
    let mut ran = false;
    for (number, test) in algorithm.tests.iter().enumerate() {
        let mut probe = Spec {
            key: if algorithm.takes_key() && !(test.key.is_empty() && algorithm.key.min == 0) {
                Key::Bytes(Secret::new(test.key))
            } else {
                Key::None
            },
            ..spec.clone()
        };
        probe.parameters = Default::default();
        probe.parameters.tag_size = (test.tag_size > 0).then_some(test.tag_size);
        probe.parameters.iv = test.iv.to_vec();
        probe.driver = spec.driver.clone();
        let opened = match engine.open(&probe) {
            Ok(opened) => opened,
            // A key size that this engine lacks is no wrong answer.
            Err(error) if error.kind() == crate::error::Kind::NotOffered => continue,
            Err(error) => return Err(format!("self-test {number}: {error}")),
        };
        match answers(&opened.work, test) {
            Ok(true) => ran = true,
            Ok(false) => return Err(format!("self-test {number}: wrong answer")),
            Err(error) => return Err(format!("self-test {number}: {error}")),
        }
    }
    Ok(ran)
}

/// Whether `work` gives the known answer, and its inverse gives the input back.
fn answers(work: &Work, test: &Test) -> Result<bool> {
    let mut out = vec![0u8; test.output.len()];
    let mut back = vec![0u8; test.input.len()];
    match work {
        Work::Hashing(hashing) => {
            hashing.once(Input::from(test.input), &mut out)?;
            let mut state = hashing.begin()?;
            let middle = test.input.len() / 2;
            let mut pieces = vec![0u8; test.output.len()];
            state.update(Input::from(&test.input[..middle]))?;
            state.update(Input::from(&test.input[middle..]))?;
            state.finish(&mut pieces)?;
            Ok(out == test.output && pieces == test.output)
        }
        Work::Aead(aead) => {
            let aad = Input::from(test.aad);
            aead.seal(
                test.iv,
                aad,
                Input::from(test.input),
                Output::from(&mut out),
            )?;
            aead.unseal(
                test.iv,
                aad,
                Input::from(test.output),
                Output::from(&mut back),
            )?;
            let mut forged = test.output.to_vec();
            forged[0] ^= 1;
            let mut waste = vec![0u8; test.input.len()];
            let refused = aead
                .unseal(test.iv, aad, Input::from(&forged), Output::from(&mut waste))
                .is_err_and(|e| e.kind() == crate::error::Kind::BadTag);
            Ok(out == test.output && back == test.input && refused)
        }
        Work::Cipher(cipher) => {
            let (forth, again) = (Output::from(&mut out), Output::from(&mut back));
            cipher.once(Direction::Encrypt, test.iv, Input::from(test.input), forth)?;
            cipher.once(Direction::Decrypt, test.iv, Input::from(test.output), again)?;
            Ok(out == test.output && back == test.input)
        }
        Work::Wrap(wrap) => Ok(wrap.wrap(test.input)? == test.output
            && wrap.unwrap(test.output)?.expose() == test.input),
        Work::Kdf(kdf) => {
            let with = Derivation {
                salt: test.salt,
                info: test.info,
                iterations: test.iterations,
                n: test.n,
                r: test.r,
                p: test.p,
            };
            kdf.derive(&with, &mut out)?;
            Ok(out == test.output)
        }
        Work::Pair(pair) => pair_answers(&**pair, test),
        Work::Random(_) => Ok(true),
    }
}

/// A pair's: what is deterministic, and what it made itself.
fn pair_answers(pair: &dyn Pair, test: &Test) -> Result<bool> {
    let scheme = match test.scheme {
        Some("pkcs1") => Scheme::Pkcs1,
        Some("pss") => Scheme::Pss,
        Some("oaep") => Scheme::Oaep,
        _ => Scheme::Own,
    };
    let salt_length = match test.hash {
        Some(hash) => crate::table::find(hash)?.digest,
        None => 0,
    };
    let (signing, padding) = (
        Signing {
            scheme,
            hash: test.hash,
            salt_length,
            prehashed: false,
        },
        Padding {
            scheme,
            hash: test.hash,
            label: &[],
        },
    );
    let input = Input::from(test.input);
    match test.op {
        "sign" | "verify" => {
            let own = pair.sign(&signing, input)?;
            let mut forged = test.output.to_vec();
            if let Some(byte) = forged.last_mut() {
                *byte ^= 1;
            }
            pair.verify(&signing, input, test.output)?;
            pair.verify(&signing, input, &own)?;
            let refused = pair
                .verify(&signing, input, &forged)
                .is_err_and(|e| e.kind() == crate::error::Kind::BadSignature);
            Ok(refused && (test.op == "verify" || own == test.output))
        }
        "decrypt" => {
            let again = pair.encrypt(&padding, test.output)?;
            Ok(pair.decrypt(&padding, test.input)?.expose() == test.output
                && pair.decrypt(&padding, &again)?.expose() == test.output)
        }
        "agree" => Ok(pair.agree(test.input)?.expose() == test.output),
        "decapsulate" => {
            let (ciphertext, secret) = pair.encapsulate()?;
            Ok(pair.decapsulate(test.input)?.expose() == test.output
                && pair.decapsulate(&ciphertext)?.expose() == secret.expose())
        }
        other => Err(Error::invalid(format!("a known answer of {other:?}"))),
    }
}
