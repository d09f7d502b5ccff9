//! libcryptofd.so: the C door (include/cryptofd.h, man/cryptofd.3).

pub mod ffi;
