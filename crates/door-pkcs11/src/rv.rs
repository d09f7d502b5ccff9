//! What a call returns: why it was not done.

use cryptofd_core::error::Error;
use cryptoki_sys::*;

/// A CK_RV that is not CKR_OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rv(pub CK_RV);

/// What was done, or why not.
pub type Result<T> = std::result::Result<T, Rv>;

/// Of an error of the core: what EINVAL means depends on the call.
pub fn invalid_is(rv: CK_RV) -> impl Fn(Error) -> Rv {
    move |error| match error.errno() {
        libc::EINVAL => Rv(rv),
        _ => Rv::from(error),
    }
}

impl From<Error> for Rv {
    fn from(error: Error) -> Rv {
        Rv(match error.errno() {
            libc::EINVAL => CKR_ARGUMENTS_BAD,
            libc::EBADMSG => CKR_ENCRYPTED_DATA_INVALID,
            libc::EKEYREJECTED => CKR_SIGNATURE_INVALID,
            // A policy, a usage that is missing, a key whose time is over.
            libc::EPERM | libc::EACCES | libc::EKEYEXPIRED | libc::EKEYREVOKED | libc::EDQUOT => {
                CKR_KEY_FUNCTION_NOT_PERMITTED
            }
            libc::ENOKEY => CKR_KEY_HANDLE_INVALID,
            libc::ENOMEM | libc::EMFILE | libc::ENFILE => CKR_HOST_MEMORY,
            libc::EMSGSIZE => CKR_DATA_LEN_RANGE,
            libc::ENOENT | libc::EOPNOTSUPP => CKR_MECHANISM_INVALID,
            libc::EEXIST | libc::ENAMETOOLONG => CKR_ATTRIBUTE_VALUE_INVALID,
            libc::EINTR | libc::EAGAIN => CKR_FUNCTION_FAILED,
            libc::ENODEV | libc::EPIPE | libc::ECONNREFUSED => CKR_DEVICE_REMOVED,
            _ => CKR_DEVICE_ERROR,
        })
    }
}
