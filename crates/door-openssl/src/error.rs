//! What goes on the host's error stack: a reason, with a text for people.

use cryptofd_core::error::{Error as CoreError, Kind};
use std::borrow::Cow;

/// A reason: one of ours, or one of those that OpenSSL's own providers give (ERR_LIB_PROV), which programs
/// look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u32);

/// ERR_LIB_PROV in the place of a library's number.
const PROV: u32 = 57 << 23;

/// Each of ours: its name here, its number, its text.
macro_rules! ours {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        #[allow(dead_code, reason = "the families of keys have theirs")]
        impl Reason {
            $(#[doc = $text] pub const $name: Reason = Reason($number);)*
        }
        /// Numbers and texts of our own reasons.
        pub const REASONS: &[(u32, &std::ffi::CStr)] = &[
            $(($number, match std::ffi::CStr::from_bytes_with_nul(concat!($text, "\0").as_bytes()) {
                Ok(text) => text,
                Err(_) => panic!("a zero within a text"),
            }),)*
        ];
    };
}

ours! {
    INTERNAL = 1, "internal error";
    PARAMETER = 2, "wrong parameter";
    UNKNOWN_ALGORITHM = 3, "unknown algorithm";
    INVALID = 4, "invalid argument";
    REFUSED = 5, "refused by policy";
    NO_ENGINE = 6, "no engine can do it";
    ENGINE_FAILED = 7, "engine failed";
    STATE_LOST = 8, "state lost with its engine";
    TOO_LARGE = 9, "too large";
    UNSUPPORTED = 10, "not supported";
    BROKER = 11, "broker cannot be asked";
    NO_SUCH_KEY = 12, "no such key";
    KEY_NOT_USABLE = 13, "key revoked or expired";
    BAD_SIGNATURE = 14, "bad signature";
    BAD_URI = 15, "not a cryptofd URI";
    SYSTEM = 16, "system error";
    OUT_OF_ORDER = 17, "called out of order";
}

/// OpenSSL's own (proverr.h).
#[allow(dead_code, reason = "they stand together, used or not")]
impl Reason {
    pub const BAD_DECRYPT: Reason = Reason(PROV | 100);
    pub const INVALID_TAG: Reason = Reason(PROV | 110);
    pub const INVALID_DIGEST_SIZE: Reason = Reason(PROV | 218);
    pub const WRONG_FINAL_BLOCK_LENGTH: Reason = Reason(PROV | 107);
    pub const OUTPUT_TOO_SMALL: Reason = Reason(PROV | 106);
    pub const INVALID_KEY_LENGTH: Reason = Reason(PROV | 105);
    pub const INVALID_IV_LENGTH: Reason = Reason(PROV | 109);
    pub const MISSING_KEY: Reason = Reason(PROV | 128);
    pub const INVALID_DIGEST: Reason = Reason(PROV | 122);
    pub const INVALID_TAG_LENGTH: Reason = Reason(PROV | 118);
    pub const TAG_NOT_SET: Reason = Reason(PROV | 119);
    pub const TAG_NOT_NEEDED: Reason = Reason(PROV | 120);
    pub const INVALID_AAD: Reason = Reason(PROV | 108);
    pub const BAD_LENGTH: Reason = Reason(PROV | 142);
    pub const CIPHER_OPERATION_FAILED: Reason = Reason(PROV | 102);
    pub const INVALID_DATA: Reason = Reason(PROV | 115);
    pub const NOT_SUPPORTED: Reason = Reason(PROV | 136);
    pub const XTS_DUPLICATED_KEYS: Reason = Reason(PROV | 149);
    pub const XTS_DATA_UNIT_IS_TOO_LARGE: Reason = Reason(PROV | 148);
    pub const MISSING_MESSAGE_DIGEST: Reason = Reason(PROV | 129);
    pub const MISSING_PASS: Reason = Reason(PROV | 130);
    pub const MISSING_SALT: Reason = Reason(PROV | 131);
    pub const MISSING_SECRET: Reason = Reason(PROV | 132);
    pub const MISSING_SEED: Reason = Reason(PROV | 140);
    pub const INVALID_ITERATION_COUNT: Reason = Reason(PROV | 123);
    pub const INVALID_SALT_LENGTH: Reason = Reason(PROV | 112);
    pub const INVALID_MODE: Reason = Reason(PROV | 125);
    pub const INVALID_OUTPUT_LENGTH: Reason = Reason(PROV | 217);
    pub const FAILED_TO_SET_PARAMETER: Reason = Reason(PROV | 104);
    pub const INVALID_CUSTOM_LENGTH: Reason = Reason(PROV | 111);
    pub const MISSING_MAC: Reason = Reason(PROV | 150);
    pub const INVALID_MAC: Reason = Reason(PROV | 151);
    pub const UNSUPPORTED_MAC_TYPE: Reason = Reason(PROV | 137);
    pub const INVALID_INPUT_LENGTH: Reason = Reason(PROV | 230);
    pub const NOT_XOF_OR_INVALID_LENGTH: Reason = Reason(PROV | 113);
    pub const MISSING_CIPHER: Reason = Reason(PROV | 155);
    pub const NO_KEY_SET: Reason = Reason(PROV | 114);
}

/// A failure.
#[derive(Clone, Debug)]
pub struct Error {
    /// Why, for programs.
    pub reason: Reason,
    /// The object, the limit, the way out; for people.
    pub text: Cow<'static, str>,
}

/// What this door's functions return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What is on the error stack already.
    pub const SAID: Error = Error {
        reason: Reason(0),
        text: Cow::Borrowed(""),
    };

    /// With a text.
    pub fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Error {
        Error {
            reason,
            text: text.into(),
        }
    }
}

impl From<CoreError> for Error {
    fn from(error: CoreError) -> Error {
        let reason = match error.kind() {
            Kind::UnknownAlgorithm => Reason::UNKNOWN_ALGORITHM,
            Kind::Invalid => Reason::INVALID,
            Kind::Refused => Reason::REFUSED,
            Kind::NoEngine | Kind::NotOffered | Kind::Elsewhere => Reason::NO_ENGINE,
            Kind::BadTag => Reason::BAD_DECRYPT,
            Kind::BadSignature => Reason::BAD_SIGNATURE,
            Kind::TooLarge => Reason::TOO_LARGE,
            Kind::Unsupported => Reason::UNSUPPORTED,
            Kind::EngineFailed => Reason::ENGINE_FAILED,
            Kind::Stale => Reason::STATE_LOST,
            Kind::KeyRevoked => Reason::KEY_NOT_USABLE,
            Kind::Closed | Kind::Again | Kind::System => Reason::SYSTEM,
        };
        Error::new(reason, error.message().to_owned())
    }
}
