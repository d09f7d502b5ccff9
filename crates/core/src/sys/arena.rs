//! Locked memory for secrets: mapped apart, never swapped or dumped, wiped when freed.
//!
//! Regions of 64 KiB between two guard pages, locked (mlock) and left out of core dumps
//! (MADV_DONTDUMP), cut page by page, or a few pages at once, into slots of a few sizes. A free slot is
//! zero but for the link to the next one. Past RLIMIT_MEMLOCK the memory is not locked, and `locked()` says
//! so; in a process that is `strict()`, there is none then: ENOMEM.
//!
//! fork(): the child gets the slots with their contents. Locks on memory are not inherited, so the
//! child locks its regions again; the arena's own lock is held across the fork, so that no other
//! thread leaves it half changed.

use crate::error::{Error, Kind, Result};
use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_char, c_int, c_void};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{NonNull, null_mut};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const PAGE: usize = 4096;
const REGION: usize = 64 * 1024;
/// Slots' sizes: multiples of 64 bytes, the largest alignment that is served, but for the first.
const CLASSES: [usize; 13] = [
    32,
    64,
    128,
    256,
    384,
    512,
    640,
    1024,
    1280,
    2048,
    PAGE,
    2 * PAGE,
    4 * PAGE,
];
/// The class of a page.
const OF_A_PAGE: usize = 10;
const ALIGN: usize = 64;

/// Bytes of the arena that could not be locked.
static UNLOCKED: AtomicUsize = AtomicUsize::new(0);

/// Whether memory that cannot be locked is not given.
static STRICT: AtomicBool = AtomicBool::new(false);

/// From now on in this process, and for good: no secret in memory that is not locked. What needs more than
/// RLIMIT_MEMLOCK allows unwinds to `bounded`.
pub fn strict() {
    STRICT.store(true, Ordering::Relaxed);
}

/// Whether `strict()` was called.
pub fn is_strict() -> bool {
    STRICT.load(Ordering::Relaxed)
}

/// What unwinds from an arena that is strict and full.
struct Full(usize);

thread_local! {
    /// Bytes that a C library last asked for in vain in this thread.
    static MISSED: Cell<usize> = const { Cell::new(0) };
}

fn full(bytes: usize) -> Error {
    Error::new(
        Kind::System,
        libc::ENOMEM,
        format!(
            "{bytes} more bytes of locked memory: past RLIMIT_MEMLOCK; raise it, or close sessions"
        ),
    )
}

/// Runs `f`; ENOMEM if it needs more locked memory than there is.
pub fn bounded<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    MISSED.set(0);
    match catch_unwind(AssertUnwindSafe(f)) {
        // A library that gets no memory says something else, or nothing.
        Ok(Err(_)) if MISSED.get() > 0 => Err(full(MISSED.take())),
        Ok(done) => done,
        Err(panic) => match panic.downcast::<Full>() {
            Ok(missed) => Err(full(missed.0)),
            Err(other) => resume_unwind(other),
        },
    }
}

/// Locks all that this process has and will map, as it is touched (mlockall(2)). Only where locked memory has
/// no limit: otherwise a mapping past it would fail wherever it is made. False if it was not done.
pub fn lock_all() -> bool {
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: no memory changes but its place.
    unlimited() && unsafe { libc::mlockall(flags) == 0 }
}

/// Whether this process may lock as much as it likes: there is no limit, or none for its capability.
fn unlimited() -> bool {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let page = 0u8;
    let place = (&raw const page).cast::<libc::c_void>();
    // SAFETY: whole rlimits, of which the first is put back; of one page of this stack the place is asked for.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) != 0 {
            return false;
        }
        let none = libc::rlimit {
            rlim_cur: 0,
            ..limit
        };
        let exempt = limit.rlim_cur == libc::RLIM_INFINITY
            || libc::setrlimit(libc::RLIMIT_MEMLOCK, &none) == 0 && libc::mlock(place, 1) == 0;
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit);
        exempt
    }
}

/// Whether all of the arena's memory is locked, as far as it was needed until now.
pub fn locked() -> bool {
    unlocked() == 0
}

/// Bytes of the arena that are not locked: RLIMIT_MEMLOCK was reached.
pub fn unlocked() -> usize {
    UNLOCKED.load(Ordering::Relaxed)
}

struct Mapping {
    start: usize,
    length: usize,
    locked: bool,
}

impl Mapping {
    fn lock(&mut self, onfault: bool) {
        let flags = if onfault { libc::MLOCK_ONFAULT } else { 0 };
        // SAFETY: only asks for the pages of our own mapping; fork-safe (a bare system call).
        let result = unsafe {
            libc::syscall(
                libc::SYS_mlock2,
                self.start as *const libc::c_void,
                self.length,
                flags,
            )
        };
        self.locked = result == 0;
        if !self.locked {
            UNLOCKED.fetch_add(self.length, Ordering::Relaxed);
        }
    }
}

struct State {
    /// Heads of the lists of free slots, one a class.
    free: [*mut u8; CLASSES.len()],
    /// Pages that no class has taken yet.
    next: usize,
    end: usize,
    mappings: Vec<Mapping>,
}

struct Arena {
    held: AtomicBool,
    state: UnsafeCell<State>,
}

// SAFETY: `state` is touched only while `held` is ours.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena {
    held: AtomicBool::new(false),
    state: UnsafeCell::new(State {
        free: [null_mut(); CLASSES.len()],
        next: 0,
        end: 0,
        mappings: Vec::new(),
    }),
};

impl Arena {
    fn acquire(&self) {
        let mut tries = 0u32;
        while self
            .held
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            tries += 1;
            if tries % 64 == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn release(&self) {
        self.held.store(false, Ordering::Release);
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        static FORK: Once = Once::new();
        FORK.call_once(|| {
            // SAFETY: the three handlers are functions of this library; should it be unloaded, the C
            // library drops them with it.
            unsafe {
                libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child));
            }
        });
        self.acquire();
        // SAFETY: the lock is ours.
        let result = f(unsafe { &mut *self.state.get() });
        self.release();
        result
    }
}

extern "C" fn before_fork() {
    ARENA.acquire();
}

extern "C" fn in_parent() {
    ARENA.release();
}

extern "C" fn in_child() {
    UNLOCKED.store(0, Ordering::Relaxed);
    // SAFETY: the lock was taken before the fork and this is the only thread.
    let state = unsafe { &mut *ARENA.state.get() };
    for mapping in &mut state.mappings {
        // On fault: the pages are shared with the parent until they are written.
        mapping.lock(true);
    }
    ARENA.release();
}

fn out_of_memory(length: usize) -> ! {
    match std::alloc::Layout::from_size_align(length, ALIGN) {
        Ok(layout) => std::alloc::handle_alloc_error(layout),
        Err(_) => panic!("a secret of {length} bytes"),
    }
}

/// A fresh mapping of `length` bytes (whole pages) between two guard pages. `None`: it cannot be locked, and
/// must be.
fn map(state: &mut State, length: usize) -> Option<usize> {
    let strict = STRICT.load(Ordering::Relaxed);
    // SAFETY: a fresh anonymous mapping, of which only the middle is made accessible.
    let start = unsafe {
        let base = libc::mmap(
            null_mut(),
            length + 2 * PAGE,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if base == libc::MAP_FAILED {
            if strict {
                return None;
            }
            out_of_memory(length);
        }
        let start = base as usize + PAGE;
        let middle = start as *mut libc::c_void;
        if libc::mprotect(middle, length, libc::PROT_READ | libc::PROT_WRITE) != 0 {
            out_of_memory(length);
        }
        libc::madvise(middle, length, libc::MADV_DONTDUMP);
        start
    };
    let mut mapping = Mapping {
        start,
        length,
        locked: false,
    };
    mapping.lock(false);
    let given = mapping.locked || !strict;
    state.mappings.push(mapping);
    if !given {
        unmap(state, start);
    }
    given.then_some(start)
}

fn unmap(state: &mut State, start: usize) {
    let Some(place) = state.mappings.iter().position(|m| m.start == start) else {
        return;
    };
    let mapping = state.mappings.swap_remove(place);
    if !mapping.locked {
        UNLOCKED.fetch_sub(mapping.length, Ordering::Relaxed);
    }
    // SAFETY: the mapping is ours, guard pages and all, and nothing points into it any more.
    unsafe {
        libc::munmap(
            (start - PAGE) as *mut libc::c_void,
            mapping.length + 2 * PAGE,
        );
    }
}

fn class(size: usize) -> Option<usize> {
    CLASSES.iter().position(|&class| size <= class)
}

fn whole_pages(size: usize) -> usize {
    size.checked_next_multiple_of(PAGE)
        .unwrap_or_else(|| out_of_memory(size))
}

/// So many bytes of whole pages that no class has taken yet.
fn pages(state: &mut State, length: usize) -> Option<usize> {
    if state.end - state.next < length {
        // What is left of the region is for whoever needs a page.
        for page in (state.next..state.end).step_by(PAGE) {
            // SAFETY: a page of ours that nobody uses.
            unsafe { link(state, OF_A_PAGE, page as *mut u8) };
        }
        state.next = state.end;
        state.next = map(state, REGION)?;
        state.end = state.next + REGION;
    }
    state.next += length;
    Some(state.next - length)
}

/// A free slot of a class, zeroed.
fn pop(state: &mut State, class: usize) -> Option<*mut u8> {
    let slot = state.free[class];
    if slot.is_null() {
        return None;
    }
    // SAFETY: a free slot begins with the link to the next one; the rest of it is zero.
    unsafe {
        state.free[class] = slot.cast::<*mut u8>().read();
        slot.cast::<*mut u8>().write(null_mut());
    }
    Some(slot)
}

/// Zeroed memory of at least `size` bytes. `None`: it cannot be locked, and must be.
fn try_take(size: usize) -> Option<NonNull<u8>> {
    let pointer = ARENA.with(|state| {
        let Some(class) = class(size) else {
            return map(state, whole_pages(size)).map(|start| start as *mut u8);
        };
        if state.free[class].is_null() {
            let length = CLASSES[class].next_multiple_of(PAGE);
            let (start, length) = match pages(state, length) {
                Some(start) => (start, length),
                // There is no more, but larger slots may be free. Those of several pages are rare, and stay.
                None => (class + 1..=OF_A_PAGE)
                    .find_map(|larger| pop(state, larger).map(|s| (s as usize, CLASSES[larger])))?,
            };
            for slot in (0..length / CLASSES[class]).rev() {
                // SAFETY: the slot lies in memory of ours that nobody uses.
                unsafe { link(state, class, (start + slot * CLASSES[class]) as *mut u8) };
            }
        }
        pop(state, class)
    });
    // SAFETY: neither a mapping nor a slot is null.
    pointer.map(|pointer| unsafe { NonNull::new_unchecked(pointer) })
}

/// Zeroed memory of at least `size` bytes; unwinds to `bounded` if there is none that is locked.
fn take(size: usize) -> NonNull<u8> {
    try_take(size).unwrap_or_else(|| resume_unwind(Box::new(Full(size))))
}

/// Puts a slot of zeros on its list.
///
/// # Safety
/// `slot` is a slot of `class` that nobody uses.
unsafe fn link(state: &mut State, class: usize, slot: *mut u8) {
    // SAFETY: as above; every slot has room for a pointer and is aligned for one.
    unsafe { slot.cast::<*mut u8>().write(state.free[class]) };
    state.free[class] = slot;
}

/// Wipes and gives back.
///
/// # Safety
/// `pointer` came from `take(size)`, with the same size, and is not used again.
unsafe fn give_back(pointer: NonNull<u8>, size: usize) {
    // SAFETY: the caller's memory, of at least `size` bytes.
    unsafe { libc::explicit_bzero(pointer.as_ptr().cast(), size) };
    ARENA.with(|state| match class(size) {
        // SAFETY: wiped, and the caller does not use it again.
        Some(class) => unsafe { link(state, class, pointer.as_ptr()) },
        None => unmap(state, pointer.as_ptr() as usize),
    });
}

/// What stands before the memory of a C library: how much it is. The library's memory is aligned as
/// malloc's.
const HEAD: usize = 16;

/// malloc(3) in the arena, for a library that lets its own be replaced. NULL past RLIMIT_MEMLOCK.
pub extern "C" fn c_malloc(size: usize, _: *const c_char, _: c_int) -> *mut c_void {
    let Some(whole) = size.checked_add(HEAD) else {
        return null_mut();
    };
    let Some(place) = try_take(whole) else {
        // A thread that ends has none any more, and nobody to tell.
        let _ = MISSED.try_with(|missed| missed.set(whole));
        return null_mut();
    };
    // SAFETY: there is room for the head, and every slot and mapping is aligned for it.
    unsafe {
        place.cast::<usize>().write(size);
        place.add(HEAD).as_ptr().cast()
    }
}

/// realloc(3) of such memory.
///
/// # Safety
/// `old` is null, or came from `c_malloc` or from here and was not freed.
pub unsafe extern "C" fn c_realloc(
    old: *mut c_void,
    size: usize,
    file: *const c_char,
    line: c_int,
) -> *mut c_void {
    let new = c_malloc(size, file, line);
    if !old.is_null() && !new.is_null() {
        // SAFETY: ours by the caller's word: its size stands before it, and both have so many bytes.
        unsafe {
            let before = old.cast::<u8>().sub(HEAD).cast::<usize>().read();
            std::ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast(), before.min(size));
            c_free(old, file, line);
        }
    }
    new
}

/// free(3) of such memory; it is wiped.
///
/// # Safety
/// As of `c_realloc`.
pub unsafe extern "C" fn c_free(old: *mut c_void, _: *const c_char, _: c_int) {
    // SAFETY: ours by the caller's word: the head, and its size in it, stand before it.
    unsafe {
        if let Some(place) = NonNull::new(old.cast::<u8>()) {
            let place = place.sub(HEAD);
            give_back(place, place.cast::<usize>().read() + HEAD);
        }
    }
}

/// Bytes in the arena.
pub struct ArenaBytes {
    pointer: NonNull<u8>,
    length: usize,
}

// SAFETY: owns its memory, as a Box does.
unsafe impl Send for ArenaBytes {}
// SAFETY: as above.
unsafe impl Sync for ArenaBytes {}

impl ArenaBytes {
    /// `length` zero bytes.
    pub fn zeroed(length: usize) -> ArenaBytes {
        ArenaBytes {
            pointer: if length == 0 {
                NonNull::dangling()
            } else {
                take(length)
            },
            length,
        }
    }
}

impl Deref for ArenaBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: owned, initialised (zero at first), `length` long.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }
}

impl DerefMut for ArenaBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.length) }
    }
}

impl Drop for ArenaBytes {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: taken with this length, and gone after this.
            unsafe { give_back(self.pointer, self.length) }
        }
    }
}

/// A value in the arena: an expanded key, a keyed state. It never moves.
pub struct ArenaBox<T>(NonNull<T>);

// SAFETY: owns its value, as a Box does.
unsafe impl<T: Send> Send for ArenaBox<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for ArenaBox<T> {}

impl<T> ArenaBox<T> {
    /// Moves a value in. What it leaves behind where it was made is the caller's to wipe.
    pub fn new(value: T) -> ArenaBox<T> {
        let place = ArenaBox::room();
        // SAFETY: fresh memory, large and aligned enough.
        unsafe { place.write(value) };
        ArenaBox(place)
    }

    /// A value of zero bytes.
    ///
    /// # Safety
    /// All-zero bytes are a valid `T`.
    pub unsafe fn zeroed() -> ArenaBox<T> {
        ArenaBox(ArenaBox::room())
    }

    fn room() -> NonNull<T> {
        const {
            assert!(size_of::<T>() > 0 && align_of::<T>() <= ALIGN);
            assert!(align_of::<T>() <= 32 || size_of::<T>() > 32);
        }
        take(size_of::<T>()).cast()
    }
}

impl<T> Deref for ArenaBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: owned and initialised.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for ArenaBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: owned, initialised, and borrowed mutably.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for ArenaBox<T> {
    fn drop(&mut self) {
        // SAFETY: dropped once; its memory was taken with this size and goes back.
        unsafe {
            self.0.drop_in_place();
            give_back(self.0.cast(), size_of::<T>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::sys::forked::in_child;
    use std::fs;
    use std::os::unix::fs::FileExt;

    /// `length` bytes of this process, read as another would read them.
    fn memory(address: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let file = fs::File::open("/proc/self/mem").unwrap();
        file.read_exact_at(&mut bytes, address as u64).unwrap();
        bytes
    }

    /// The kernel's flags of the mapping that `address` lies in.
    fn flags(address: usize) -> Vec<String> {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut within = false;
        for line in smaps.lines() {
            if let Some(flags) = line.strip_prefix("VmFlags: ") {
                if within {
                    return flags.split_whitespace().map(str::to_owned).collect();
                }
            } else if let Some((start, end)) = line
                .split_whitespace()
                .next()
                .and_then(|range| range.split_once('-'))
            {
                let number = |text| usize::from_str_radix(text, 16);
                if let (Ok(start), Ok(end)) = (number(start), number(end)) {
                    within = (start..end).contains(&address);
                }
            }
        }
        panic!("{address:x} is not mapped");
    }

    fn mapped(address: usize) -> bool {
        let file = fs::File::open("/proc/self/mem").unwrap();
        file.read_exact_at(&mut [0], address as u64).is_ok()
    }

    #[test]
    fn a_secrets_bytes_are_gone_after_its_last_clone() {
        // In a child, where no other thread takes the slot meanwhile.
        let answer = in_child(|| {
            let bytes = [0xa5; 3000];
            let secret = Secret::new(&bytes);
            let clone = secret.clone();
            let address = secret.expose().as_ptr() as usize;
            drop(secret);
            let kept = memory(address, bytes.len()) == bytes;
            drop(clone);
            let after = memory(address, bytes.len());
            // The first bytes of a free slot link to the next one.
            let gone = after[8..] == [0; 2992] && !after.starts_with(&[0xa5; 4]);
            vec![kept.into(), gone.into()]
        });
        assert_eq!(answer, Some(vec![1, 1]));
    }

    #[test]
    fn a_values_bytes_are_gone_after_it() {
        let answer = in_child(|| {
            let mut value = ArenaBox::new([0u8; 584]);
            value.fill(0x5a);
            let address = &raw const *value as usize;
            let kept = memory(address, 584) == [0x5a; 584];
            drop(value);
            vec![kept.into(), (memory(address + 8, 576) == [0; 576]).into()]
        });
        assert_eq!(answer, Some(vec![1, 1]));
    }

    #[test]
    fn a_large_secrets_mapping_is_gone_with_it() {
        let secret = Secret::new(&[0xa5; 100_000]);
        let address = secret.expose().as_ptr() as usize;
        assert!(mapped(address + 99_999));
        assert!(!flags(address).is_empty());
        drop(secret);
        assert!(!mapped(address));
    }

    #[test]
    fn the_memory_is_locked_and_not_dumped_between_guard_pages() {
        for size in [1, 32, 33, 600, 4096, 4097, 70_000] {
            let secret = Secret::new(&vec![1; size]);
            let address = secret.expose().as_ptr() as usize;
            let flags = flags(address);
            assert!(flags.contains(&"dd".to_owned()), "{size}: {flags:?}");
            if locked() {
                assert!(flags.contains(&"lo".to_owned()), "{size}: {flags:?}");
            }
        }
        let secret = Secret::new(&[1; 40_000]);
        let address = secret.expose().as_ptr() as usize;
        for guard in [address - 1, address + 10 * PAGE] {
            let flags = flags(guard);
            assert!(!flags.contains(&"rd".to_owned()), "{flags:?}");
        }
    }

    #[test]
    fn slots_do_not_overlap_and_come_back_zeroed() {
        let sizes = [1, 31, 32, 33, 64, 65, 200, 500, 584, 1000, 1224, 2000, 4096];
        for round in 0..3u8 {
            let mut all: Vec<ArenaBytes> = Vec::new();
            for (number, size) in sizes.iter().cycle().take(1000).enumerate() {
                let mut bytes = ArenaBytes::zeroed(*size);
                assert!(bytes.iter().all(|b| *b == 0), "round {round}");
                assert_eq!(bytes.as_ptr() as usize % 32, 0);
                bytes.fill(number as u8 ^ round);
                all.push(bytes);
            }
            for (number, bytes) in all.iter().enumerate() {
                assert!(bytes.iter().all(|b| *b == number as u8 ^ round));
            }
        }
    }

    #[test]
    fn a_c_librarys_memory_is_here_and_gone_when_freed() {
        let answer = in_child(|| {
            let (file, line) = (std::ptr::null(), 0);
            let mut right = true;
            for size in [0, 1, 16, 17, 600, 4080, 4081, 9000, 20_000] {
                let memory = c_malloc(size, file, line).cast::<u8>();
                // SAFETY: so many bytes are ours.
                unsafe { memory.write_bytes(0xa5, size) };
                // SAFETY: it came from c_malloc.
                let grown = unsafe { c_realloc(memory.cast(), 2 * size, file, line) };
                // SAFETY: it has twice as many bytes, of which the first were copied.
                let kept = unsafe { std::slice::from_raw_parts(grown.cast::<u8>(), size) };
                right &= kept.iter().all(|b| *b == 0xa5) && grown as usize % 16 == 0;
                right &= flags(grown as usize).contains(&"dd".to_owned());
                // SAFETY: it came from c_realloc.
                unsafe { c_free(grown, file, line) };
                if 2 * size + HEAD <= 4 * PAGE {
                    right &= self::memory(grown as usize, 2 * size)
                        .iter()
                        .all(|b| *b == 0);
                }
            }
            // SAFETY: null is nothing.
            unsafe { c_free(null_mut(), file, line) };
            vec![right.into()]
        });
        assert_eq!(answer, Some(vec![1]));
    }

    #[test]
    fn values_are_aligned() {
        #[repr(align(64))]
        struct Aligned([u8; 584]);
        let values: Vec<_> = (0..100).map(|_| ArenaBox::new(Aligned([7; 584]))).collect();
        for value in &values {
            assert_eq!(&raw const **value as usize % 64, 0);
            assert_eq!((**value).0, [7; 584]);
        }
    }

    #[test]
    fn a_forked_child_has_the_secrets_locked_while_threads_use_the_arena() {
        let secret = Secret::new(b"known to parent and child");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        drop(Secret::new(&[3; 100]));
                    }
                });
            }
            for _ in 0..20 {
                let answer = in_child(|| {
                    let all: Vec<_> = (0..200).map(|n| Secret::new(&[n; 50])).collect();
                    let right = (0..200).all(|n| all[n as usize].expose() == [n; 50]);
                    let address = secret.expose().as_ptr() as usize;
                    let lock = flags(address).contains(&"lo".to_owned());
                    let known = secret.expose() == b"known to parent and child";
                    vec![right.into(), (lock == locked()).into(), known.into()]
                });
                assert_eq!(answer, Some(vec![1, 1, 1]));
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn past_the_limit_a_strict_arena_gives_nothing() {
        let answer = in_child(|| {
            strict();
            let limit = libc::rlimit {
                rlim_cur: 256 << 10,
                rlim_max: 256 << 10,
            };
            // SAFETY: this child only: little locked memory, and no privilege to lock more.
            let limited = unsafe {
                libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) == 0
                    && (libc::geteuid() != 0 || libc::setresuid(65534, 65534, 65534) == 0)
            };
            let before = unlocked();
            let mut kept = Vec::new();
            let mut refused = 0;
            for _ in 0..100 {
                match bounded(|| Ok(Secret::new(&[5; 8192]))) {
                    Ok(secret) => kept.push(secret),
                    Err(error) => refused += u8::from(error.errno() == libc::ENOMEM),
                }
            }
            let few = kept.len() + usize::from(refused) == 100 && !kept.is_empty() && refused > 50;
            kept.pop();
            let again = bounded(|| Ok(Secret::new(&[6; 8192]))).is_ok();
            let never = unlocked() == before;
            vec![limited.into(), few.into(), again.into(), never.into()]
        });
        assert_eq!(answer, Some(vec![1, 1, 1, 1]));
    }

    #[test]
    fn past_the_limit_it_goes_on_unlocked_and_says_so() {
        let answer = in_child(|| {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: this child only: no locked memory, and no privilege to lock any.
            let limited = unsafe {
                libc::setrlimit(libc::RLIMIT_MEMLOCK, &none) == 0
                    && (libc::geteuid() != 0 || libc::setresuid(65534, 65534, 65534) == 0)
            };
            let before = unlocked();
            let secret = Secret::new(&[5; 100_000]);
            let during = unlocked();
            let right = secret.expose() == [5; 100_000];
            drop(secret);
            vec![
                limited.into(),
                right.into(),
                (during >= before + 100_000 && unlocked() == before).into(),
            ]
        });
        assert_eq!(answer, Some(vec![1, 1, 1]));
    }
}
