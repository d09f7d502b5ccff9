//! For tests: work done in a forked child, whose answer comes back through a pipe.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

/// Forks, runs `work` in the child and gives what it returned; `None` if the child did not end well.
pub fn in_child(work: impl FnOnce() -> Vec<u8>) -> Option<Vec<u8>> {
    let mut ends = [0; 2];
    // SAFETY: makes two descriptors, each owned by one File from here on; the child does its work and
    // ends without returning.
    let (mut reader, child) = unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            let mut writer = File::from_raw_fd(ends[1]);
            let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let fine = answer.is_ok_and(|answer| writer.write_all(&answer).is_ok());
            drop(writer);
            libc::_exit(i32::from(!fine));
        }
        libc::close(ends[1]);
        (File::from_raw_fd(ends[0]), child)
    };
    let mut answer = Vec::new();
    let read = reader.read_to_end(&mut answer);
    let mut status = 0;
    // SAFETY: waits for our own child.
    unsafe { libc::waitpid(child, &mut status, 0) };
    (read.is_ok() && status == 0).then_some(answer)
}
