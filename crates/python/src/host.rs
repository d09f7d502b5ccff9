//! What there is: algorithms, engines, and who would serve.

use crate::errors::Raise;
use crate::fd::settings;
use cryptofd_core::engine::{Key, Spec, Work};
use cryptofd_core::secret::Secret;
use cryptofd_core::table::{ALGORITHMS, Algorithm, Kind, find};
use cryptofd_core::{Error, choose, engines as house, selftest};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Value, json};

fn algorithm(a: &Algorithm) -> Value {
    let sizes = |s: cryptofd_core::table::Sizes| {
        if s.max == 0 {
            Value::Null
        } else {
            json!({"min": s.min, "max": s.max, "step": s.step})
        }
    };
    json!({
        "name": a.name,
        "kind": a.kind.name(),
        "aliases": a.aliases,
        "key": sizes(a.key),
        "iv": sizes(a.iv),
        "iv_default": a.iv_default,
        "digest_size": a.digest,
        "block_size": a.block,
        "tag_size": a.tag,
        "tag_sizes": a.tag_sizes,
        "strength": a.strength,
        "weak": a.weak,
        "fips": a.fips,
        "one_message": a.one_message(),
        "max_message": if a.max_message == u64::MAX { Value::Null } else { json!(a.max_message) },
        "streaming": if a.kind == Kind::Streaming {
            json!({"segment": a.segment, "derived_key": a.derived_key, "kdf": a.hkdf, "cipher": a.cipher})
        } else {
            Value::Null
        },
        "bits": sizes(a.bits),
        "bits_default": a.bits_default,
        "operations": a.operations,
        "hash": a.default_hash,
        "hashes": a.hashes,
        "strengths": a.strengths,
        "names": {
            "kernel": a.kernel,
            "openssl": a.openssl,
            "hashlib": a.hashlib,
            "pkcs11": a.pkcs11.map(|p| json!({"name": p.name, "id": p.id})),
            "key_type": a.key_type.map(|p| json!({"name": p.name, "id": p.id})),
            "mechanisms": a.mechanisms.iter().map(|p| json!({"name": p.name, "id": p.id})).collect::<Vec<_>>(),
            "cryptodev": a.cryptodev,
            "virtio": a.virtio.map(|v| json!({"service": v.service, "id": v.id})),
        },
    })
}

/// The table, as JSON.
#[pyfunction]
pub fn algorithms() -> String {
    Value::Array(ALGORITHMS.iter().map(algorithm).collect()).to_string()
}

/// The engines of this host, as JSON, in the order of the preferences.
#[pyfunction]
pub fn engines(python: Python<'_>) -> PyResult<String> {
    python
        .detach(|| {
            let preferences = cryptofd_core::preferences::current()?;
            let quarantined = selftest::quarantined();
            let list = preferences
                .order("", house::all())
                .into_iter()
                .map(|engine| {
                    let probe = engine.probe();
                    let out: Vec<Value> = quarantined
                        .iter()
                        .filter(|q| q.0 == engine.name())
                        .map(|q| json!({"driver": q.1, "algorithm": q.2, "why": q.3}))
                        .collect();
                    json!({
                        "name": engine.name(),
                        "available": probe.is_ok(),
                        "enabled": preferences.against(engine.name(), "").is_none(),
                        "about": probe.unwrap_or_else(|error| error.message().to_owned()),
                        "quarantined": out,
                    })
                })
                .collect();
            Ok(Value::Array(list).to_string())
        })
        .map_err(|error| Raise(error).into())
}

/// Who would serve a request, and why not the others, as JSON.
#[pyfunction]
#[pyo3(signature = (algorithm, **options))]
pub fn explain(
    python: Python<'_>,
    algorithm: &str,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<String> {
    let request = settings(algorithm, None, options)?;
    let algorithm = find(algorithm).map_err(Raise)?;
    let mut spec = Spec::new(algorithm, request.key);
    spec.parameters = request.parameters;
    spec.driver = request.driver;
    spec.hardware = request.hardware;
    spec.fips = request.fips;
    if matches!(spec.key, Key::None) && algorithm.takes_key() {
        // Any key will do to ask: the known answers' is at hand.
        let key = algorithm.tests.first().map_or(&[][..], |test| test.key);
        spec.key = Key::Bytes(Secret::new(key));
    }
    if algorithm.kind == Kind::Mac && algorithm.iv.max > 0 && spec.parameters.iv.is_empty() {
        spec.parameters.iv = vec![0; algorithm.iv_default];
    }
    let candidates = python
        .detach(|| choose::explain(&spec, request.engine.as_deref()))
        .map_err(Raise)?;
    let mut taken = false;
    let list = candidates
        .into_iter()
        .map(|candidate| match candidate.answer {
            Ok(opened) => {
                let serves = !std::mem::replace(&mut taken, true);
                json!({
                    "engine": candidate.engine,
                    "offers": true,
                    "serves": serves,
                    "driver": opened.driver,
                    "driver_certain": opened.driver_certain,
                    "hardware": opened.hardware,
                    "fips": opened.fips,
                    "kind": kind(&opened.work),
                    "why": match candidate.first {
                        Some(why) if serves => why,
                        _ if serves => "the first that can".to_owned(),
                        _ => "one before it can".to_owned(),
                    },
                })
            }
            Err(why) => json!({
                "engine": candidate.engine, "offers": false, "serves": false, "why": why,
            }),
        })
        .collect();
    Ok(Value::Array(list).to_string())
}

fn kind(work: &Work) -> &'static str {
    match work {
        Work::Hashing(_) => "hash",
        Work::Aead(_) => "aead",
        Work::Cipher(_) => "cipher",
        Work::Wrap(_) => "wrap",
        Work::Kdf(_) => "kdf",
        Work::Pair(_) => "pair",
        Work::Random(_) => "rng",
    }
}

/// The kernel's drivers, as JSON.
#[pyfunction]
pub fn drivers(python: Python<'_>) -> PyResult<String> {
    let list = python
        .detach(house::kernel::drivers::list)
        .map_err(|errno| Error::system(errno, "the kernel does not list its crypto drivers"))
        .map_err(Raise)?;
    let driver = |d: &house::kernel::drivers::Driver| {
        json!({
            "algorithm": d.algorithm,
            "name": d.name,
            "module": d.module,
            "priority": d.priority,
            "kind": d.kind,
            "flags": d.flags,
            "hardware": d.hardware(),
            "selftest": d.tested(),
            "internal": !d.usable(),
            "block_size": d.block,
            "min_key_size": d.min_key,
            "max_key_size": d.max_key,
            "iv_size": d.iv,
            "digest_size": d.digest,
            "seed_size": d.seed,
        })
    };
    Ok(Value::Array(list.iter().map(driver).collect()).to_string())
}
