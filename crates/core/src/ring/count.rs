//! How one side of a ring counts what it has done, and learns that the other sleeps. tests/model runs this very
//! file in every interleaving.

/// A word that both sides use.
pub trait Word {
    /// An acquiring load.
    fn load(&self) -> u32;
    /// A releasing store.
    fn store(&self, value: u32);
    /// Exchanges.
    fn swap(&self, value: u32) -> u32;
    /// Keeps what stands before it from passing what stands behind it.
    fn fence();
}

/// Whether the other side sleeps and is to be rung for, after something was counted: at most one side's
/// caller is told so for every time that it went to sleep.
pub fn must_ring<W: Word>(sleeps: &W) -> bool {
    W::fence();
    sleeps.load() == 1 && sleeps.swap(0) == 1
}

/// Goes to sleep unless `count` has moved from `seen`. True: sleep until the bell.
pub fn may_sleep<W: Word>(sleeps: &W, count: &W, seen: u32) -> bool {
    sleeps.store(1);
    W::fence();
    count.load() == seen
}

/// Sleeps no more. True: a bell has rung or is about to.
pub fn awake<W: Word>(sleeps: &W) -> bool {
    sleeps.swap(0) == 0
}
