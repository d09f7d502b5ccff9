//! The two slots and their tokens, whose numbers never change: programs write them down.

use crate::rv::{Result, Rv};
use cryptoki_sys::*;

/// Computes with keys that the program brings. No login.
pub const CRYPTO: CK_SLOT_ID = 0x63_66_64_00;
/// The broker's keys of this user.
pub const KEYS: CK_SLOT_ID = 0x63_66_64_01;

/// Both.
pub const ALL: [CK_SLOT_ID; 2] = [CRYPTO, KEYS];

/// That there is such a slot.
pub fn check(slot: CK_SLOT_ID) -> Result<()> {
    if ALL.contains(&slot) {
        Ok(())
    } else {
        Err(Rv(CKR_SLOT_ID_INVALID))
    }
}

/// Name of the slot and of its token.
pub fn label(slot: CK_SLOT_ID) -> &'static str {
    match slot {
        KEYS => "cryptofd keys",
        _ => "cryptofd",
    }
}

/// What a slot is.
pub fn description(slot: CK_SLOT_ID) -> &'static str {
    match slot {
        KEYS => "Keys of the cryptofd broker",
        _ => "cryptofd session crypto",
    }
}

/// What a token can. Who connects is whom the broker sees: there is no PIN to ask for.
pub fn flags(slot: CK_SLOT_ID) -> CK_FLAGS {
    let both = CKF_RNG | CKF_TOKEN_INITIALIZED;
    match slot {
        KEYS => both | CKF_USER_PIN_INITIALIZED | CKF_PROTECTED_AUTHENTICATION_PATH,
        // Nothing stays there, as on NSS's own slot of this kind.
        _ => both | CKF_WRITE_PROTECTED,
    }
}
