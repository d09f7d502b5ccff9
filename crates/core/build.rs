//! Compiles algorithms.toml, the one table, into Rust.

use serde::Deserialize;
use std::fmt::Write as _;
use std::{env, fs, path::Path};

#[derive(Deserialize)]
struct Table {
    algorithm: Vec<Algorithm>,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(deny_unknown_fields)]
struct Sizes {
    min: u64,
    max: u64,
    step: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
    id: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Strength {
    bits: usize,
    strength: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Virtio {
    service: String,
    id: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Faster {
    engine: String,
    without: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Test {
    key: String,
    iv: String,
    aad: String,
    salt: String,
    info: String,
    iterations: u32,
    n: u64,
    r: u32,
    p: u32,
    tag_size: u64,
    op: String,
    hash: Option<String>,
    scheme: Option<String>,
    #[serde(rename = "in")]
    input: String,
    out: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Algorithm {
    name: String,
    kind: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    key: Sizes,
    #[serde(default)]
    iv: Sizes,
    #[serde(default)]
    iv_default: u64,
    #[serde(default)]
    digest: u64,
    #[serde(default)]
    digest_sizes: Sizes,
    #[serde(default)]
    block: u64,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    tag: u64,
    #[serde(default)]
    tag_sizes: Vec<u64>,
    #[serde(default)]
    tags: Option<Sizes>,
    #[serde(default)]
    padding: Vec<String>,
    #[serde(default)]
    salt: u64,
    #[serde(default)]
    person: u64,
    #[serde(default)]
    min_message: u64,
    #[serde(default)]
    max_message: Option<u64>,
    strength: u32,
    #[serde(default)]
    weak: Option<String>,
    #[serde(default)]
    fips: bool,
    #[serde(default)]
    one_time_key: bool,
    #[serde(default)]
    segment: u64,
    #[serde(default)]
    derived_key: u64,
    #[serde(default)]
    hkdf: Option<String>,
    #[serde(default)]
    cipher: Option<String>,
    #[serde(default)]
    bits: Sizes,
    #[serde(default)]
    bits_default: u64,
    #[serde(default)]
    operations: Vec<String>,
    #[serde(default)]
    hash: Option<String>,
    #[serde(default)]
    hashes: Vec<String>,
    #[serde(default)]
    strengths: Vec<Strength>,
    #[serde(default)]
    key_type: Option<Name>,
    #[serde(default)]
    mechanisms: Vec<Name>,
    #[serde(default)]
    kernel: Option<String>,
    #[serde(default)]
    openssl: Option<String>,
    #[serde(default)]
    openssl_aliases: Vec<String>,
    #[serde(default)]
    openssl_mac: Vec<String>,
    #[serde(default)]
    openssl_rand: Vec<String>,
    #[serde(default)]
    hashlib: Option<String>,
    #[serde(default)]
    pkcs11: Option<Name>,
    #[serde(default)]
    cryptodev: Option<u32>,
    #[serde(default)]
    virtio: Option<Virtio>,
    #[serde(default)]
    faster: Option<Faster>,
    #[serde(default)]
    test: Vec<Test>,
}

fn sizes(s: Sizes) -> String {
    format!(
        "Sizes {{ min: {}, max: {}, step: {} }}",
        s.min,
        s.max,
        s.step.max(1)
    )
}

fn bytes(hex: &str) -> String {
    let pairs: Vec<String> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| {
            let text = std::str::from_utf8(pair).expect("hexadecimal is ASCII");
            u8::from_str_radix(text, 16)
                .expect("hexadecimal")
                .to_string()
        })
        .collect();
    format!("&[{}]", pairs.join(","))
}

fn pkcs11(name: &Name) -> String {
    format!("Pkcs11 {{ name: {:?}, id: {} }}", name.name, name.id)
}

fn optional(name: Option<&Name>) -> String {
    name.map_or("None".into(), |name| format!("Some({})", pkcs11(name)))
}

fn kind(name: &str) -> &'static str {
    match name {
        "hash" => "Hash",
        "xof" => "Xof",
        "mac" => "Mac",
        "cipher" => "Cipher",
        "aead" => "Aead",
        "wrap" => "Wrap",
        "kdf" => "Kdf",
        "pair" => "Pair",
        "rng" => "Rng",
        "streaming" => "Streaming",
        other => panic!("algorithms.toml: no kind {other:?}"),
    }
}

fn main() {
    // The table stands at the root of the repository, for people; Rust reads it from there.
    let source = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../algorithms.toml");
    println!("cargo::rerun-if-changed={}", source.display());
    let table: Table =
        toml::from_str(&fs::read_to_string(&source).unwrap()).expect("algorithms.toml");
    let mut out = String::from("&[\n");
    for a in &table.algorithm {
        let tags = match a.tags {
            Some(s) => (s.min..=s.max).step_by(s.step.max(1) as usize).collect(),
            None => a.tag_sizes.clone(),
        };
        let tag = if a.tag == 0 && a.kind == "mac" {
            a.digest
        } else {
            a.tag
        };
        writeln!(
            out,
            "Algorithm {{ name: {:?}, kind: Kind::{}, aliases: &{:?}, key: {}, iv: {}, iv_default: {}, digest: {}, digest_sizes: {}, block: {}, stream: {}, tag: {}, tag_sizes: &{:?}, pkcs7: {}, salt: {}, person: {}, min_message: {}, max_message: {}, strength: {}, weak: {:?}, fips: {}, one_time_key: {}, segment: {}, derived_key: {}, hkdf: {:?}, cipher: {:?}, kernel: {:?}, openssl: {:?}, openssl_aliases: &{:?}, openssl_mac: &{:?}, openssl_rand: &{:?}, hashlib: {:?}, pkcs11: {}, cryptodev: {:?}, virtio: {}, faster: {}, bits: {}, bits_default: {}, operations: &{:?}, default_hash: {:?}, hashes: &{:?}, strengths: &{:?}, key_type: {}, mechanisms: &[{}], tests: &[",
            a.name, kind(&a.kind), a.aliases, sizes(a.key), sizes(a.iv),
            if a.iv_default == 0 { a.iv.max } else { a.iv_default },
            a.digest, sizes(a.digest_sizes), a.block, a.stream, tag, tags,
            a.padding.iter().any(|p| p == "pkcs7"), a.salt, a.person, a.min_message,
            a.max_message.unwrap_or(u64::MAX), a.strength, a.weak, a.fips, a.one_time_key,
            a.segment, a.derived_key, a.hkdf, a.cipher, a.kernel, a.openssl, a.openssl_aliases, a.openssl_mac, a.openssl_rand, a.hashlib,
            optional(a.pkcs11.as_ref()),
            a.cryptodev,
            a.virtio.as_ref().map_or("None".into(), |v| format!("Some(Virtio {{ service: {:?}, id: {} }})", v.service, v.id)),
            a.faster.as_ref().map_or("None".into(), |f| format!("Some(Faster {{ engine: {:?}, without: {:?} }})", f.engine, f.without)),
            sizes(a.bits),
            if a.bits_default == 0 { a.bits.max } else { a.bits_default },
            a.operations, a.hash, a.hashes,
            a.strengths.iter().map(|s| (s.bits, s.strength)).collect::<Vec<_>>(),
            optional(a.key_type.as_ref()),
            a.mechanisms.iter().map(pkcs11).collect::<Vec<_>>().join(", "),
        )
        .unwrap();
        for t in &a.test {
            writeln!(
                out,
                "Test {{ key: {}, iv: {}, aad: {}, salt: {}, info: {}, iterations: {}, n: {}, r: {}, p: {}, tag_size: {}, op: {:?}, hash: {:?}, scheme: {:?}, input: {}, output: {} }},",
                bytes(&t.key), bytes(&t.iv), bytes(&t.aad), bytes(&t.salt), bytes(&t.info),
                t.iterations, t.n, t.r, t.p, t.tag_size, t.op, t.hash, t.scheme, bytes(&t.input), bytes(&t.out),
            )
            .unwrap();
        }
        out.push_str("] },\n");
    }
    out.push(']');
    let target = Path::new(&env::var("OUT_DIR").unwrap()).join("algorithms.rs");
    fs::write(target, out).unwrap();
}
