//! How a key of the broker's is named: `cryptofd:LABEL`, `cryptofd:OWNER/LABEL`, percent-encoded as RFC 3986
//! has it; and the PEM file that holds no key but such a name.

use crate::error::{Error, Reason, Result};
use crate::pair::TYPES;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use spki::der::asn1::{SequenceOf, Utf8StringRef};
use spki::der::{Decode, Encode};

/// The scheme.
pub const SCHEME: &str = "cryptofd";
/// The label of the PEM file.
pub const PEM: &str = "CRYPTOFD KEY REFERENCE";
/// The structure of what is in it, to OpenSSL's decoders.
pub const STRUCTURE: &std::ffi::CStr = c"cryptofd-reference";
/// Most bytes of it.
pub const MOST: usize = 4096;

/// Characters of a line of it.
const LINE: usize = 64;

/// What is in the PEM file: `SEQUENCE { type UTF8String, uri UTF8String }`.
type Reference<'a> = SequenceOf<Utf8StringRef<'a>, 2>;

/// What a URI names.
#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    /// A key: LABEL or OWNER/LABEL.
    Key(String),
    /// All that one has.
    All,
}

fn wrong(uri: &str, why: &str) -> Error {
    let uri: String = uri.chars().take(200).collect();
    Error::new(
        Reason::BAD_URI,
        format!("{uri:?}: {why}; cryptofd:LABEL, cryptofd:OWNER/LABEL, or cryptofd: for all keys"),
    )
}

fn decoded(uri: &str, text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push((16 * high + low) as u8),
            _ => return Err(wrong(uri, "% is followed by two hexadecimal digits")),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong(uri, "it is not UTF-8"))
}

/// The URI of a key: OWNER/LABEL.
pub fn uri(name: &str) -> String {
    let mut uri = format!("{SCHEME}:");
    for byte in name.bytes() {
        match byte {
            // What a path may have as it is (RFC 3986, 3.3).
            b'/' | b':' | b'@' | b'-' | b'.' | b'_' | b'~' | b'+' => uri.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => uri.push(byte.into()),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

impl Name {
    /// From a URI that a program gives as a parameter.
    pub fn given(uri: &str) -> Result<Name> {
        if uri.len() > MOST {
            let text = format!("a URI of {} bytes: at most {MOST}", uri.len());
            return Err(Error::new(Reason::BAD_URI, text));
        }
        Name::parse(uri)
    }

    /// From a URI.
    pub fn parse(uri: &str) -> Result<Name> {
        let (scheme, rest) = uri.split_once(':').unwrap_or(("", uri));
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(wrong(uri, "its scheme is another one"));
        }
        if rest.contains(['?', '#']) {
            return Err(wrong(uri, "a query or a fragment means nothing here"));
        }
        if rest.is_empty() {
            return Ok(Name::All);
        }
        let (owner, label) = match rest.split_once('/') {
            Some((owner, label)) => (Some(decoded(uri, owner)?), label),
            None => (None, rest),
        };
        let label = decoded(uri, label)?;
        let fine = |part: &str| {
            !part.is_empty() && !part.contains('/') && !part.chars().any(char::is_control)
        };
        match owner {
            _ if !fine(&label) => Err(wrong(uri, "a label has no / and is not empty")),
            Some(owner) if !fine(&owner) => Err(wrong(uri, "an owner has no / and is not empty")),
            Some(owner) => Ok(Name::Key(format!("{owner}/{label}"))),
            None => Ok(Name::Key(label)),
        }
    }
}

/// The place of the type, and the URI, in a reference's DER.
pub fn read(der: &[u8]) -> Result<(usize, String)> {
    let bad = |why: &str| Error::new(Reason::BAD_URI, format!("a key reference: {why}"));
    let reference = Reference::from_der(der)
        .map_err(|_| bad("it is not what `cryptofd key reference` writes"))?;
    let (Some(kind), Some(uri)) = (reference.get(0), reference.get(1)) else {
        return Err(bad("it is not what `cryptofd key reference` writes"));
    };
    let place = TYPES
        .iter()
        .position(|one| one.name.to_str() == Ok(kind.as_str()))
        .ok_or_else(|| bad("a key of a type that is not known here"))?;
    Ok((place, uri.as_str().to_owned()))
}

/// The PEM file that names a key of the type at this place.
pub fn write(place: usize, uri: &str) -> Result<String> {
    let wrong = |_| Error::new(Reason::BAD_URI, format!("{uri}: not to be written"));
    let kind = TYPES[place].name.to_str().unwrap_or_default();
    let mut both = Reference::new();
    for text in [kind, uri] {
        both.add(Utf8StringRef::new(text).map_err(wrong)?)
            .map_err(wrong)?;
    }
    let text = STANDARD.encode(both.to_der().map_err(wrong)?);
    let mut pem = format!("-----BEGIN {PEM}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        pem += line;
        pem += "\n";
        rest = after;
    }
    Ok(pem + &format!("-----END {PEM}-----\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_keys() {
        let key = |name: &str| Name::Key(name.to_owned());
        for (uri, name) in [
            ("cryptofd:web", key("web")),
            ("CryptoFD:w%65b", key("web")),
            ("cryptofd:uid:0/web", key("uid:0/web")),
            ("cryptofd:uid%3A0/a%2Bb", key("uid:0/a+b")),
            ("cryptofd:", Name::All),
        ] {
            assert_eq!(Name::parse(uri).unwrap(), name, "{uri}");
        }
        for uri in [
            "file:web",
            "web",
            "cryptofd:a/b/c",
            "cryptofd:/web",
            "cryptofd:a%2Fb",
            "cryptofd:a%",
            "cryptofd:a%0",
            "cryptofd:a%ff",
            "cryptofd:a%00",
            "cryptofd:a?version=1",
            "cryptofd:uid:0/",
        ] {
            assert!(Name::parse(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn names_become_uris() {
        for (name, text) in [
            ("uid:0/web", "cryptofd:uid:0/web"),
            ("uid:0/John's Key", "cryptofd:uid:0/John%27s%20Key"),
        ] {
            assert_eq!(uri(name), text);
            assert_eq!(Name::parse(text).unwrap(), Name::Key(name.to_owned()));
        }
    }

    #[test]
    fn a_reference_is_written_and_read() {
        let uri = format!("cryptofd:uid:0/{}", "web".repeat(20));
        let pem = write(1, &uri).unwrap();
        let mut lines = pem.lines();
        assert_eq!(lines.next(), Some("-----BEGIN CRYPTOFD KEY REFERENCE-----"));
        let text: Vec<&str> = lines
            .clone()
            .take_while(|line| !line.starts_with('-'))
            .collect();
        assert!(text.len() > 1 && text.iter().all(|line| line.len() <= 64));
        assert_eq!(lines.last(), Some("-----END CRYPTOFD KEY REFERENCE-----"));
        assert!(pem.ends_with('\n'));
        let der = STANDARD.decode(text.concat()).unwrap();
        assert_eq!(read(&der).unwrap(), (1, uri));
    }

    #[test]
    fn a_reference_is_read() {
        let mut both = Reference::new();
        for text in ["EC", "cryptofd:uid:0/web"] {
            both.add(Utf8StringRef::new(text).unwrap()).unwrap();
        }
        let der = both.to_der().unwrap();
        assert_eq!(read(&der).unwrap(), (1, "cryptofd:uid:0/web".to_owned()));
        assert!(read(&der[..der.len() - 1]).is_err());
        assert!(read(b"").is_err());
        assert!(read(&[&der[..], b"x"].concat()).is_err());
    }
}
