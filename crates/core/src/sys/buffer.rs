//! Borrowed payload: memory that may change under us, so never a slice until it is copied.
//!
//! A caller's buffer (a bytearray, a mapping, shared memory) can be written by others while an
//! engine reads it. A Rust slice over it would be undefined behaviour; a pointer and a length that
//! go to a C function or are copied into private memory are not.

use std::marker::PhantomData;

/// Bytes to read.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pointer: *const u8,
    length: usize,
    life: PhantomData<&'a [u8]>,
}

/// Bytes to write.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    pointer: *mut u8,
    length: usize,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: only a pointer and a length, whose memory outlives 'a; every access is a copy or C's.
unsafe impl Send for Input<'_> {}
// SAFETY: as above.
unsafe impl Sync for Input<'_> {}
// SAFETY: as above.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> From<&'a [u8]> for Input<'a> {
    fn from(slice: &'a [u8]) -> Self {
        Input {
            pointer: slice.as_ptr(),
            length: slice.len(),
            life: PhantomData,
        }
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Input<'a> {
    fn from(slice: &'a [u8; N]) -> Self {
        Input::from(&slice[..])
    }
}

impl<'a> From<&'a Vec<u8>> for Input<'a> {
    fn from(slice: &'a Vec<u8>) -> Self {
        Input::from(&slice[..])
    }
}

impl<'a> Input<'a> {
    /// No bytes.
    pub const EMPTY: Input<'static> = Input {
        pointer: std::ptr::NonNull::dangling().as_ptr(),
        length: 0,
        life: PhantomData,
    };

    /// Memory of others.
    ///
    /// # Safety
    /// `pointer` is readable for `length` bytes during 'a (its contents may change).
    pub unsafe fn from_raw(pointer: *const u8, length: usize) -> Input<'a> {
        if length == 0 {
            return Input::EMPTY;
        }
        Input {
            pointer,
            length,
            life: PhantomData,
        }
    }

    /// Where it begins; never null.
    pub fn as_ptr(&self) -> *const u8 {
        self.pointer
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first `at` bytes and the rest. Panics beyond the end.
    pub fn split_at(&self, at: usize) -> (Input<'a>, Input<'a>) {
        assert!(at <= self.length);
        (
            Input {
                length: at,
                ..*self
            },
            Input {
                // SAFETY: `at` is within the buffer.
                pointer: unsafe { self.pointer.add(at) },
                length: self.length - at,
                life: PhantomData,
            },
        )
    }

    /// Copies all of it. Panics if the lengths differ.
    pub fn copy_to(&self, target: &mut [u8]) {
        assert_eq!(target.len(), self.length);
        // SAFETY: both are valid for `length`; a private target does not overlap.
        unsafe { std::ptr::copy(self.pointer, target.as_mut_ptr(), self.length) }
    }

    /// Gives all of it to `f`, piece by piece in private copies, which are wiped.
    pub fn pieces(&self, mut f: impl FnMut(&[u8])) {
        const MOST: usize = 4096;
        let mut copy = std::mem::MaybeUninit::<[u8; MOST]>::uninit();
        let mut done = 0;
        while done < self.length {
            let length = (self.length - done).min(MOST);
            // SAFETY: `length` bytes are readable at `done`; the private copy has room for them, is
            // initialised by them and borrowed for no more than them.
            let piece = unsafe {
                let target = copy.as_mut_ptr().cast::<u8>();
                std::ptr::copy_nonoverlapping(self.pointer.add(done), target, length);
                std::slice::from_raw_parts(target, length)
            };
            f(piece);
            done += length;
        }
        // SAFETY: the copy's own bytes, as many as were ever written.
        unsafe { libc::explicit_bzero(copy.as_mut_ptr().cast(), self.length.min(MOST)) }
    }

    /// A private copy.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut copy = vec![0; self.length];
        self.copy_to(&mut copy);
        copy
    }
}

impl<'a> From<&'a mut [u8]> for Output<'a> {
    fn from(slice: &'a mut [u8]) -> Self {
        Output {
            pointer: slice.as_mut_ptr(),
            length: slice.len(),
            life: PhantomData,
        }
    }
}

impl<'a> From<&'a mut Vec<u8>> for Output<'a> {
    fn from(slice: &'a mut Vec<u8>) -> Self {
        Output::from(&mut slice[..])
    }
}

impl<'a> Output<'a> {
    /// Memory of others.
    ///
    /// # Safety
    /// `pointer` is writable for `length` bytes during 'a (others may write it too).
    pub unsafe fn from_raw(pointer: *mut u8, length: usize) -> Output<'a> {
        Output {
            pointer: if length == 0 {
                std::ptr::NonNull::dangling().as_ptr()
            } else {
                pointer
            },
            length,
            life: PhantomData,
        }
    }

    /// Where it begins; never null.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.pointer
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first `at` bytes and the rest. Panics beyond the end.
    pub fn split_at(&self, at: usize) -> (Output<'a>, Output<'a>) {
        assert!(at <= self.length);
        (
            Output {
                length: at,
                ..*self
            },
            Output {
                // SAFETY: `at` is within the buffer.
                pointer: unsafe { self.pointer.add(at) },
                length: self.length - at,
                life: PhantomData,
            },
        )
    }

    /// The same bytes, to be read again.
    pub fn as_input(&self) -> Input<'a> {
        Input {
            pointer: self.pointer,
            length: self.length,
            life: PhantomData,
        }
    }

    /// Copies `source` in. Panics if the lengths differ.
    pub fn copy_from(&self, source: &[u8]) {
        assert_eq!(source.len(), self.length);
        // SAFETY: both are valid for `length`; a private source does not overlap.
        unsafe { std::ptr::copy(source.as_ptr(), self.pointer, self.length) }
    }

    /// Copies `source`, which may overlap. Panics if the lengths differ.
    pub fn copy_from_input(&self, source: Input<'_>) {
        assert_eq!(source.len(), self.length);
        // SAFETY: both are valid for `length`, and copy() allows overlap.
        unsafe { std::ptr::copy(source.as_ptr(), self.pointer, self.length) }
    }

    /// Zeroes it, and the compiler may not leave that out.
    pub fn wipe(&self) {
        // SAFETY: valid for `length`; bzero-like writes that are not optimised away.
        unsafe { libc::explicit_bzero(self.pointer.cast(), self.length) }
    }

    /// Whether it shares bytes with `input` without being the same buffer.
    pub fn overlaps_partly(&self, input: Input<'_>) -> bool {
        let (a, b) = (self.pointer as usize, input.as_ptr() as usize);
        a != b && a < b + input.len() && b < a + self.length
    }
}
