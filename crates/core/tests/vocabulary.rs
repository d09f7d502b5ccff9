//! The table's other names against those who gave them: PKCS#11, virtio-crypto, cryptodev, OpenSSL.

use cryptofd_core::table::{ALGORITHMS, Kind, find};
use std::collections::{HashMap, HashSet};
use std::process::Command;

macro_rules! mechanisms {
    ($($name:ident)*) => {
        HashMap::from([$((stringify!($name), u64::from(cryptoki_sys::$name)),)*])
    };
}

/// Name and number of mechanisms and key types as in the PKCS#11 3.x headers, by the bindings of cryptoki-sys.
fn mechanisms() -> HashMap<&'static str, u64> {
    mechanisms!(
        CKM_AES_CBC CKM_AES_CCM CKM_AES_CFB128 CKM_AES_CMAC CKM_AES_CTR CKM_AES_ECB
        CKM_AES_GCM CKM_AES_GMAC CKM_AES_KEY_WRAP CKM_AES_KEY_WRAP_KWP CKM_AES_XTS
        CKM_BLAKE2B_512 CKM_CHACHA20 CKM_CHACHA20_POLY1305 CKM_DES3_CBC CKM_ECDH1_DERIVE
        CKM_ECDSA CKM_ECDSA_SHA1 CKM_ECDSA_SHA224 CKM_ECDSA_SHA256 CKM_ECDSA_SHA384
        CKM_ECDSA_SHA3_224 CKM_ECDSA_SHA3_256 CKM_ECDSA_SHA3_384 CKM_ECDSA_SHA3_512
        CKM_ECDSA_SHA512 CKM_EDDSA CKM_HKDF_DERIVE CKM_MD5 CKM_MD5_HMAC CKM_ML_DSA
        CKM_ML_KEM CKM_PKCS5_PBKD2 CKM_POLY1305 CKM_RSA_PKCS CKM_RSA_PKCS_OAEP
        CKM_RSA_PKCS_PSS CKM_RSA_X_509 CKM_SHA1_RSA_PKCS CKM_SHA1_RSA_PKCS_PSS CKM_SHA224
        CKM_SHA224_HMAC CKM_SHA224_RSA_PKCS CKM_SHA224_RSA_PKCS_PSS CKM_SHA256
        CKM_SHA256_HMAC CKM_SHA256_RSA_PKCS CKM_SHA256_RSA_PKCS_PSS CKM_SHA384
        CKM_SHA384_HMAC CKM_SHA384_RSA_PKCS CKM_SHA384_RSA_PKCS_PSS CKM_SHA3_224
        CKM_SHA3_224_HMAC CKM_SHA3_224_RSA_PKCS CKM_SHA3_224_RSA_PKCS_PSS CKM_SHA3_256
        CKM_SHA3_256_HMAC CKM_SHA3_256_RSA_PKCS CKM_SHA3_256_RSA_PKCS_PSS CKM_SHA3_384
        CKM_SHA3_384_HMAC CKM_SHA3_384_RSA_PKCS CKM_SHA3_384_RSA_PKCS_PSS CKM_SHA3_512
        CKM_SHA3_512_HMAC CKM_SHA3_512_RSA_PKCS CKM_SHA3_512_RSA_PKCS_PSS CKM_SHA512
        CKM_SHA512_256 CKM_SHA512_256_HMAC CKM_SHA512_HMAC CKM_SHA512_RSA_PKCS
        CKM_SHA512_RSA_PKCS_PSS CKM_SHA_1 CKM_SHA_1_HMAC CKM_SP800_108_COUNTER_KDF
        CKK_EC CKK_EC_EDWARDS CKK_EC_MONTGOMERY CKK_ML_DSA CKK_ML_KEM CKK_RSA
    )
}

#[test]
fn pkcs11_mechanisms_have_their_numbers() {
    let mechanisms = mechanisms();
    let mut seen = HashSet::new();
    for algorithm in ALGORITHMS {
        assert_eq!(
            algorithm.kind == Kind::Pair,
            algorithm.key_type.is_some(),
            "{}",
            algorithm.name
        );
        let names = algorithm.pkcs11.iter().chain(&algorithm.key_type);
        for name in names.chain(algorithm.mechanisms) {
            seen.insert(name.name);
            assert_eq!(
                mechanisms.get(name.name),
                Some(&name.id),
                "{}: {}",
                algorithm.name,
                name.name
            );
        }
    }
    assert_eq!(seen.len(), mechanisms.len(), "mechanisms that nobody uses");
}

/// Numbers from linux/virtio_crypto.h (Virtio 1.2, 5.9.7), and the algorithms that they mean.
#[test]
fn virtio_numbers_are_those_of_the_kernels_header() {
    let path = "/usr/include/linux/virtio_crypto.h";
    let header = match std::fs::read_to_string(path) {
        Ok(header) => header,
        Err(error) => return eprintln!("skipped: {path}: {error}"),
    };
    let numbers: HashMap<&str, u32> = header
        .lines()
        .filter_map(|line| {
            let mut words = line
                .strip_prefix("#define VIRTIO_CRYPTO_")?
                .split_whitespace();
            Some((words.next()?, words.next()?.parse().ok()?))
        })
        .collect();
    let mut checked = 0;
    for algorithm in ALGORITHMS {
        let Some(virtio) = algorithm.virtio else {
            continue;
        };
        let name = match algorithm.name {
            "md5" => "HASH_MD5".into(),
            "sha1" => "HASH_SHA1".into(),
            "hmac(md5)" => "MAC_HMAC_MD5".into(),
            "hmac(sha1)" => "MAC_HMAC_SHA1".into(),
            "shake128" => "HASH_SHA3_SHAKE128".into(),
            "shake256" => "HASH_SHA3_SHAKE256".into(),
            "cmac(aes)" => "MAC_CMAC_AES".into(),
            "gmac(aes)" => "MAC_GMAC_AES".into(),
            "cbc(des3_ede)" => "CIPHER_3DES_CBC".into(),
            "gcm(aes)" => "AEAD_GCM".into(),
            "ccm(aes)" => "AEAD_CCM".into(),
            "rfc7539(chacha20,poly1305)" => "AEAD_CHACHA20_POLY1305".into(),
            name if name.starts_with("sha3-") => format!("HASH_SHA3_{}", &name[5..]),
            name if name.starts_with("sha") => format!("HASH_SHA_{}", &name[3..]),
            name if name.starts_with("hmac(sha") => {
                format!("MAC_HMAC_SHA_{}", &name[8..name.len() - 1])
            }
            name if name.ends_with("(aes)") => {
                format!("CIPHER_AES_{}", name[..3].to_uppercase())
            }
            name => panic!("{name}: virtio-crypto does not know it"),
        };
        assert_eq!(
            numbers.get(&*name),
            Some(&virtio.id),
            "{}: {name}",
            algorithm.name
        );
        assert!(name.starts_with(&virtio.service.to_uppercase()), "{name}");
        checked += 1;
    }
    assert!(checked > 20, "{checked} checked");
}

/// crypto/cryptodev.h of cryptodev-linux: enum cryptodev_crypto_op_t.
const CRYPTODEV: &[(&str, u32)] = &[
    ("cbc(des3_ede)", 2),
    ("hmac(md5)", 6),
    ("hmac(sha1)", 7),
    ("cbc(aes)", 11),
    ("md5", 13),
    ("sha1", 14),
    ("hmac(sha256)", 18),
    ("hmac(sha384)", 19),
    ("hmac(sha512)", 20),
    ("ctr(aes)", 21),
    ("xts(aes)", 22),
    ("ecb(aes)", 23),
    ("cfb(aes)", 24),
    ("gcm(aes)", 50),
    ("ccm(aes)", 51),
    ("sha224", 103),
    ("sha256", 104),
    ("sha384", 105),
    ("sha512", 106),
    ("hmac(sha224)", 107),
];

#[test]
fn cryptodev_numbers_are_those_of_cryptodev_linux() {
    let table: HashMap<&str, u32> = ALGORITHMS
        .iter()
        .filter_map(|a| Some((a.name, a.cryptodev?)))
        .collect();
    assert_eq!(table, CRYPTODEV.iter().copied().collect());
}

/// What the host's openssl command lists, in capitals; nothing where there is no such command.
fn openssl() -> Option<HashSet<String>> {
    let list = |what: &str| -> Option<String> {
        let output = Command::new("openssl").args(["list", what]).output().ok()?;
        output.status.success().then_some(())?;
        String::from_utf8(output.stdout).ok()
    };
    let mut names = HashSet::new();
    for what in [
        "-digest-algorithms",
        "-cipher-algorithms",
        "-mac-algorithms",
        "-kdf-algorithms",
        "-random-generators",
        "-key-managers",
    ] {
        for word in list(what)?.split([' ', ',', '{', '}', '\n']) {
            names.insert(word.to_uppercase());
        }
    }
    Some(names)
}

/// Names that came with a later OpenSSL than 3.0.
const LATER: &[(&str, &str)] = &[
    ("AES-*-GCM-SIV", "3.2"),
    ("ML-KEM-768", "3.5"),
    ("ML-KEM-1024", "3.5"),
    ("ML-DSA-65", "3.5"),
];

#[test]
fn openssl_knows_the_names() {
    let Some(names) = openssl() else {
        return eprintln!("skipped: no openssl command");
    };
    let knows = |name: &str| names.contains(&name.to_uppercase());
    for algorithm in ALGORITHMS {
        let Some(name) = algorithm.openssl else {
            continue;
        };
        if let Some((_, since)) = LATER.iter().find(|(later, _)| *later == name) {
            if !knows(&name.replace('*', "256")) {
                eprintln!("{name} is of OpenSSL {since}: not checked here");
                continue;
            }
        }
        // `SHA2-512/256` is one name, `HMAC/SHA2-256` two.
        let parts: Vec<&str> = match name.split_once('/') {
            Some((mac, under)) if ["HMAC", "CMAC", "GMAC"].contains(&mac) => vec![mac, under],
            _ => vec![name],
        };
        for part in parts {
            let part = match algorithm.name {
                "xts(aes)" => part.replace('*', "128"),
                _ => part.replace('*', "192"),
            };
            let part = match &*part {
                "AES-192-GCM-SIV" => "AES-256-GCM-SIV",
                part => part,
            };
            assert!(knows(part), "{}: openssl has no {part}", algorithm.name);
        }
    }
}

#[test]
fn pairs_are_described_whole() {
    const KNOWN: [&str; 7] = [
        "sign",
        "verify",
        "encrypt",
        "decrypt",
        "agree",
        "encapsulate",
        "decapsulate",
    ];
    let pairs: Vec<_> = ALGORITHMS.iter().filter(|a| a.kind == Kind::Pair).collect();
    assert_eq!(pairs.len(), 12);
    for pair in pairs {
        let name = pair.name;
        assert!(
            pair.bits.min > 0 && pair.bits.contains(pair.bits_default),
            "{name}"
        );
        assert!(!pair.operations.is_empty(), "{name}");
        assert!(pair.operations.iter().all(|o| KNOWN.contains(o)), "{name}");
        for hash in pair.hashes.iter().chain(&pair.default_hash) {
            assert_eq!(find(hash).unwrap().kind, Kind::Hash, "{name}: {hash}");
            assert!(pair.hashes.contains(hash), "{name}: {hash}");
        }
        // The known answers use every private operation.
        for (private, op) in [
            ("sign", &["sign", "verify"][..]),
            ("decrypt", &["decrypt"]),
            ("agree", &["agree"]),
            ("decapsulate", &["decapsulate"]),
        ] {
            assert_eq!(
                pair.does(private),
                pair.tests.iter().any(|t| op.contains(&t.op)),
                "{name}: {private}"
            );
        }
        assert!(pair.strengths.is_sorted(), "{name}");
    }
}

/// SP 800-57 part 1 (2020), tables 2 and 4.
#[test]
fn strengths_are_those_of_sp_800_57() {
    for (name, bits, strength) in [
        ("rsa", 2048, 112),
        ("rsa", 3064, 112),
        ("rsa", 3072, 128),
        ("rsa", 7672, 128),
        ("rsa", 7680, 192),
        ("rsa", 8192, 192),
        ("rsa", 1024, 0),
        ("ecdsa-nist-p256", 256, 128),
        ("ecdh-nist-p384", 384, 192),
        ("ecdsa-nist-p521", 521, 256),
        ("ed25519", 256, 128),
        ("gcm(aes)", 128, 128),
        ("gcm(aes)", 256, 256),
        ("xts(aes)", 256, 128),
        ("cbc(des3_ede)", 192, 112),
        ("hmac(sha256)", 64, 64),
    ] {
        assert_eq!(
            find(name).unwrap().strength_of(bits),
            strength,
            "{name} {bits}"
        );
    }
}

#[test]
fn no_two_algorithms_share_a_name() {
    let mut names = HashSet::new();
    for algorithm in ALGORITHMS {
        for name in std::iter::once(&algorithm.name).chain(algorithm.aliases) {
            assert!(names.insert(*name), "{name} twice");
        }
    }
}
