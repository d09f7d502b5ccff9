//! cryptofd.toml from anybody: every error names the file, nothing panics.
#![no_main]

use cryptofd_core::preferences::file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = file::parse("the file", text) {
        assert!(error.message().contains("the file"), "{error}");
    }
});
