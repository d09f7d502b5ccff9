//! What OpenSSL calls the table's algorithms.

use cryptofd_core::table::Algorithm;

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

#[cfg(test)]
mod tests {
    use super::of;
    use cryptofd_core::table::find;

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
