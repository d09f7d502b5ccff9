//! For libraries that live in programs of others: no fork falls into the middle of a call, no panic leaves
//! one, and nothing is printed.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Once, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Calls read it; a fork writes it, so that a child finds every lock behind it free.
static GATE: RwLock<()> = RwLock::new(());

thread_local! {
    /// How many calls of this thread are under way: a host calls back into us (a store's object, a
    /// decoder's key), and who waits to fork must not come between.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// How many calls of this thread say nothing of their panics.
    static QUIET: Cell<u32> = const { Cell::new(0) };
    /// What this thread holds while it forks.
    static CLOSED: RefCell<Option<RwLockWriteGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// A call that is under way.
pub struct Inside(#[allow(dead_code, reason = "held")] Option<RwLockReadGuard<'static, ()>>);

/// Begins a call; who forks meanwhile waits for its end.
pub fn enter() -> Inside {
    let outermost = DEPTH.with(|depth| depth.replace(depth.get() + 1) == 0);
    Inside(outermost.then(|| GATE.read().unwrap_or_else(|e| e.into_inner())))
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

/// Waits until no call runs, and keeps others from beginning. Not within one: then this thread forks in a
/// callback of the host's, and only its own call is under way in the child.
extern "C" fn before() {
    if DEPTH.with(Cell::get) > 0 {
        return;
    }
    let gate = GATE.write().unwrap_or_else(|e| e.into_inner());
    let _ = CLOSED.try_with(|closed| {
        if let Ok(mut closed) = closed.try_borrow_mut() {
            *closed = Some(gate);
        }
    });
}

extern "C" fn after() {
    let _ = CLOSED.try_with(|closed| {
        if let Ok(mut closed) = closed.try_borrow_mut() {
            *closed = None;
        }
    });
}

/// Keeps forks out of calls; once in a process, before the first call.
pub fn watch_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Handlers run from the last registered to the first, and the core's own take locks: they must be
        // there before these, or a fork would hold the arena while it waits for a call that needs it.
        drop(crate::secret::Secret::new(&[0]));
        let _ = super::descriptor::watch_forks();
        // SAFETY: the handlers take and give back a lock and touch nothing else; they go with the library.
        unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
    });
}

/// For a thread of ours: its panics are never printed in a library.
pub(super) fn quiet_thread() {
    QUIET.with(|quiet| quiet.set(quiet.get() + 1));
}

/// Runs `f`; `None` if it panicked, of which nothing is printed: it is a bug, but the error output is the
/// program's. Nor is it of a panic in a thread of ours, from now on.
pub fn quietly<T>(f: impl FnOnce() -> T) -> Option<T> {
    static ONCE: Once = Once::new();
    // A library has a std of its own: whoever else in this process is written in Rust has another hook.
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |about| {
            if QUIET.with(Cell::get) == 0 {
                others(about);
            }
        }));
    });
    QUIET.with(|quiet| {
        quiet.set(quiet.get() + 1);
        let done = catch_unwind(AssertUnwindSafe(f)).ok();
        quiet.set(quiet.get() - 1);
        done
    })
}

#[cfg(test)]
mod tests {
    use super::quietly;
    use crate::sys::forked::in_child;
    use std::sync::{Mutex, mpsc};

    static PRINTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    #[test]
    fn a_panic_in_a_call_is_not_printed() {
        // In a child, whose hook is not that of the other tests.
        let said = in_child(|| {
            std::panic::set_hook(Box::new(|about| {
                let words = about.payload().downcast_ref::<&str>().unwrap_or(&"");
                PRINTED.lock().unwrap().push((*words).to_owned());
            }));
            assert_eq!(quietly(|| 1), Some(1));
            assert_eq!(quietly::<()>(|| panic!("inside")), None);
            let (alive, gone) = mpsc::channel::<()>();
            crate::sys::thread::spawn("ours".into(), move || {
                let _alive = alive;
                panic!("in a thread of ours")
            })
            .unwrap();
            gone.recv().unwrap_err();
            // What is not ours is printed as before.
            let _ = std::panic::catch_unwind(|| panic!("outside"));
            PRINTED.lock().unwrap().join(" ").into_bytes()
        });
        assert_eq!(String::from_utf8(said.unwrap()).unwrap(), "outside");
    }
}
