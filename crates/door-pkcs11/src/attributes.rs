//! Attributes of objects, and templates of them.

use crate::rv::{Result, Rv};
use cryptoki_sys::*;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Attributes with their values, each as PKCS#11 lays it out.
#[derive(Clone, Debug, Default)]
pub struct Attributes(BTreeMap<CK_ATTRIBUTE_TYPE, Zeroizing<Vec<u8>>>);

/// How a value is laid out. Of templates within templates there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Flag,
    Number,
    Numbers,
    Bytes,
}

fn shape(kind: CK_ATTRIBUTE_TYPE) -> Shape {
    match kind {
        CKA_TOKEN
        | CKA_PRIVATE
        | CKA_MODIFIABLE
        | CKA_COPYABLE
        | CKA_DESTROYABLE
        | CKA_TRUSTED
        | CKA_SENSITIVE
        | CKA_ALWAYS_SENSITIVE
        | CKA_EXTRACTABLE
        | CKA_NEVER_EXTRACTABLE
        | CKA_LOCAL
        | CKA_DERIVE
        | CKA_ENCRYPT
        | CKA_DECRYPT
        | CKA_SIGN
        | CKA_SIGN_RECOVER
        | CKA_VERIFY
        | CKA_VERIFY_RECOVER
        | CKA_WRAP
        | CKA_UNWRAP
        | CKA_WRAP_WITH_TRUSTED
        | CKA_ALWAYS_AUTHENTICATE
        | CKA_ENCAPSULATE
        | CKA_DECAPSULATE => Shape::Flag,
        CKA_CLASS
        | CKA_KEY_TYPE
        | CKA_CERTIFICATE_TYPE
        | CKA_CERTIFICATE_CATEGORY
        | CKA_VALUE_LEN
        | CKA_MODULUS_BITS
        | CKA_KEY_GEN_MECHANISM
        | CKA_PARAMETER_SET
        | CKA_PROFILE_ID
        | CKA_JAVA_MIDP_SECURITY_DOMAIN
        | CKA_NAME_HASH_ALGORITHM => Shape::Number,
        CKA_ALLOWED_MECHANISMS => Shape::Numbers,
        _ => Shape::Bytes,
    }
}

const NUMBER: usize = size_of::<CK_ULONG>();

impl Attributes {
    /// A template's, whose shapes are checked. The last of two that name one attribute would win: refused.
    pub fn from_template(template: Vec<(CK_ATTRIBUTE_TYPE, Zeroizing<Vec<u8>>)>) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (kind, value) in template {
            let right = match shape(kind) {
                Shape::Flag => value.len() == 1,
                Shape::Number => value.len() == NUMBER,
                Shape::Numbers => value.len() % NUMBER == 0,
                Shape::Bytes => true,
            };
            if kind & CKF_ARRAY_ATTRIBUTE != 0 && kind != CKA_ALLOWED_MECHANISMS {
                return Err(Rv(CKR_ATTRIBUTE_TYPE_INVALID));
            }
            if !right {
                return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
            }
            if all.insert(kind, value).is_some() {
                return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
            }
        }
        Ok(Attributes(all))
    }

    /// The bytes of one.
    pub fn bytes(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        self.0.get(&kind).map(|value| &value[..])
    }

    /// Takes one out.
    pub fn take(&mut self, kind: CK_ATTRIBUTE_TYPE) -> Option<Zeroizing<Vec<u8>>> {
        self.0.remove(&kind)
    }

    /// A number.
    pub fn number(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<CK_ULONG> {
        let bytes: [u8; NUMBER] = self.bytes(kind)?.try_into().ok()?;
        Some(CK_ULONG::from_ne_bytes(bytes))
    }

    /// Numbers; none where nothing is said.
    pub fn numbers(&self, kind: CK_ATTRIBUTE_TYPE) -> Vec<CK_ULONG> {
        let all = self.bytes(kind).unwrap_or_default().chunks_exact(NUMBER);
        all.filter_map(|one| one.try_into().ok().map(CK_ULONG::from_ne_bytes))
            .collect()
    }

    /// A flag, if it is said.
    pub fn said(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<bool> {
        self.bytes(kind).map(|value| value != [0])
    }

    /// A flag; what is not said is false.
    pub fn flag(&self, kind: CK_ATTRIBUTE_TYPE) -> bool {
        self.said(kind).unwrap_or(false)
    }

    /// Whether it is there.
    pub fn has(&self, kind: CK_ATTRIBUTE_TYPE) -> bool {
        self.0.contains_key(&kind)
    }

    /// Sets bytes.
    pub fn set(&mut self, kind: CK_ATTRIBUTE_TYPE, value: &[u8]) {
        self.0.insert(kind, Zeroizing::new(value.to_vec()));
    }

    /// Sets a number.
    pub fn set_number(&mut self, kind: CK_ATTRIBUTE_TYPE, value: CK_ULONG) {
        self.set(kind, &value.to_ne_bytes());
    }

    /// Sets a flag.
    pub fn set_flag(&mut self, kind: CK_ATTRIBUTE_TYPE, value: bool) {
        self.set(kind, &[u8::from(value)]);
    }

    /// Sets a flag that nobody has said.
    pub fn default_flag(&mut self, kind: CK_ATTRIBUTE_TYPE, value: bool) {
        if !self.has(kind) {
            self.set_flag(kind, value);
        }
    }

    /// Sets bytes that nobody has said.
    pub fn default_bytes(&mut self, kind: CK_ATTRIBUTE_TYPE, value: &[u8]) {
        if !self.has(kind) {
            self.set(kind, value);
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (CK_ATTRIBUTE_TYPE, &[u8])> {
        self.0.iter().map(|(kind, value)| (*kind, &value[..]))
    }

    /// Takes what `other` says; a contradiction is an error.
    pub fn agree(&mut self, other: &Attributes) -> Result<()> {
        for (kind, value) in other.iter() {
            match self.bytes(kind) {
                Some(own) if own != value => return Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
                Some(_) => {}
                None => self.set(kind, value),
            }
        }
        Ok(())
    }

    /// The class.
    pub fn class(&self) -> CK_OBJECT_CLASS {
        self.number(CKA_CLASS).unwrap_or(CK_OBJECT_CLASS::MAX)
    }

    /// The key's type.
    pub fn key_type(&self) -> Option<CK_KEY_TYPE> {
        self.number(CKA_KEY_TYPE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(all: &[(CK_ATTRIBUTE_TYPE, &[u8])]) -> Result<Attributes> {
        let owned = all
            .iter()
            .map(|(kind, value)| (*kind, Zeroizing::new(value.to_vec())));
        Attributes::from_template(owned.collect())
    }

    #[test]
    fn shapes_are_checked() {
        let refused = |all: &[(CK_ATTRIBUTE_TYPE, &[u8])]| template(all).unwrap_err().0;
        assert_eq!(
            refused(&[(CKA_TOKEN, &[1, 0])]),
            CKR_ATTRIBUTE_VALUE_INVALID
        );
        assert_eq!(
            refused(&[(CKA_CLASS, &[1, 0])]),
            CKR_ATTRIBUTE_VALUE_INVALID
        );
        assert_eq!(
            refused(&[(CKA_TOKEN, &[1]), (CKA_TOKEN, &[0])]),
            CKR_TEMPLATE_INCONSISTENT
        );
        assert_eq!(
            refused(&[(CKA_WRAP_TEMPLATE, &[])]),
            CKR_ATTRIBUTE_TYPE_INVALID
        );
        let fine = template(&[(CKA_TOKEN, &[1]), (CKA_LABEL, b"x")]).unwrap();
        assert!(fine.flag(CKA_TOKEN) && !fine.flag(CKA_PRIVATE));
        assert_eq!(fine.bytes(CKA_LABEL), Some(&b"x"[..]));
    }
}
