//! What OpenSSL calls the table's algorithms.

use cryptofd_core::table::{ALGORITHMS, Algorithm, Kind};

/// OpenSSL's names of `algorithm` with a key of `bits` (of three sizes, the `place`th): the chief one, then
/// the others and the object identifier, with colons between. `None` where OpenSSL has no name.
pub fn of(algorithm: &Algorithm, bits: usize, place: usize) -> Option<String> {
    let number = bits.to_string();
    let fill = |name: &str| -> String {
        match name.split_once('|') {
            // An object identifier whose last part depends on the key's size.
            Some(_) => {
                let (stem, ends) = name.rsplit_once('.').unwrap_or(("", name));
                let end = ends.split('|').nth(place).unwrap_or_default();
                format!("{stem}.{end}")
            }
            None => name.replace('*', &number),
        }
    };
    let chief = algorithm.openssl?;
    let all = std::iter::once(&chief).chain(algorithm.openssl_aliases);
    Some(all.map(|name| fill(name)).collect::<Vec<_>>().join(":"))
}

/// The sizes of a key, in bits, of which each has names of its own; 0 where the name does not depend on it.
pub fn key_bits(algorithm: &Algorithm) -> Vec<usize> {
    let own = algorithm.openssl.is_some_and(|name| name.contains('*'));
    if !own {
        return vec![0];
    }
    // XTS has two keys, and is called by the size of one.
    let halves = if algorithm.template() == "xts" { 2 } else { 1 };
    let sizes = (algorithm.key.min..=algorithm.key.max).step_by(algorithm.key.step);
    sizes.map(|bytes| bytes * 8 / halves).collect()
}

fn has(names: &str, name: &str) -> bool {
    names.split(':').any(|one| one.eq_ignore_ascii_case(name))
}

/// The hash or XOF that OpenSSL calls so.
pub fn digest(name: &str) -> Option<&'static Algorithm> {
    ALGORITHMS.iter().find(|algorithm| {
        // None of them depends on the size of a key.
        let mut all = algorithm.openssl.iter().chain(algorithm.openssl_aliases);
        matches!(algorithm.kind, Kind::Hash | Kind::Xof)
            && all.any(|own| own.eq_ignore_ascii_case(name))
    })
}

/// The name of a hash that older programs know as well: SHA256 where there is such a one, else the chief one.
pub fn short(hash: &Algorithm) -> &'static str {
    let plain = |name: &&&'static str| name.starts_with("SHA") && !name.contains(['-', '/']);
    let alias = hash.openssl_aliases.iter().find(plain);
    alias.copied().or(hash.openssl).unwrap_or_default()
}

/// The cipher or AEAD that OpenSSL calls so, and the bits of its key that the name says.
pub fn cipher(name: &str) -> Option<(&'static Algorithm, usize)> {
    let ciphers = ALGORITHMS
        .iter()
        .filter(|algorithm| matches!(algorithm.kind, Kind::Cipher | Kind::Aead | Kind::Wrap));
    for algorithm in ciphers {
        for (place, bits) in key_bits(algorithm).into_iter().enumerate() {
            if of(algorithm, bits, place).is_some_and(|names| has(&names, name)) {
                return Some((algorithm, bits));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{digest, of, short};
    use cryptofd_core::table::find;

    #[test]
    fn a_hash_has_many_names() {
        for name in ["SHA256", "sha2-256", "SHA-256", "2.16.840.1.101.3.4.2.1"] {
            assert_eq!(digest(name).unwrap().name, "sha256");
        }
        assert_eq!(short(digest("SHA2-384").unwrap()), "SHA384");
        assert_eq!(short(digest("SHA1").unwrap()), "SHA1");
        assert!(digest("AES-128-ECB").is_none());
    }

    #[test]
    fn names_follow_the_key() {
        assert_eq!(
            of(find("sha256").unwrap(), 0, 0).unwrap(),
            "SHA2-256:SHA-256:SHA256:2.16.840.1.101.3.4.2.1"
        );
        assert_eq!(
            of(find("gcm(aes)").unwrap(), 192, 1).unwrap(),
            "AES-192-GCM:id-aes192-GCM:2.16.840.1.101.3.4.1.26"
        );
    }
}
