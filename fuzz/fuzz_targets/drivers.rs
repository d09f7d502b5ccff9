//! What the kernel says of its drivers, by netlink or as text: read or refused, never beyond its end.
#![no_main]

use cryptofd_core::engines::kernel::drivers::{parse_netlink, parse_proc_crypto};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut drivers = Vec::new();
    if parse_netlink(bytes, &mut drivers).is_ok() {
        assert!(drivers.len() <= bytes.len() / 16);
    }
    for driver in parse_proc_crypto(&String::from_utf8_lossy(bytes)) {
        assert!(!driver.name.is_empty());
    }
});
