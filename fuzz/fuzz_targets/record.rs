//! Records from anybody: parsed or refused, and what was parsed lies within the packet.
#![no_main]

use cryptofd_core::record::{self, Answer, Incoming};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Incoming::parse(bytes) {
        assert_eq!(record::id(bytes), Some(request.id));
        let sections = request.iv.len() + request.aad.len() + request.data.len();
        assert!(sections + record::HEADER <= bytes.len());
        assert!(request.attached <= record::ATTACHED && request.attached_aad <= request.attached);
    }
    if let Ok(answer) = Answer::parse(bytes) {
        assert!(answer.data.len() + record::HEADER <= bytes.len());
        let error = record::error(answer.status.max(1), answer.data);
        assert!(!error.message().chars().any(char::is_control));
    }
});
