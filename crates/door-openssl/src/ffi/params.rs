//! OSSL_PARAM by hand: reading what a caller gives, answering what it asks (OSSL_PARAM(3),
//! OSSL_PARAM_int(3)): any width of number, strings by value or by pointer, sizes told even where the room is
//! too small, what is not answered left UNMODIFIED.

#![allow(
    dead_code,
    reason = "every type that OpenSSL has, used by a family or not"
)]

use super::types::*;
use crate::error::{Error, Reason, Result};
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::marker::PhantomData;

/// A list that says which parameters there are; made by `described!`.
#[repr(transparent)]
pub struct Described<const N: usize>(pub [OSSL_PARAM; N]);

// SAFETY: constants, whose pointers are to literals.
unsafe impl<const N: usize> Sync for Described<N> {}

impl<const N: usize> Described<N> {
    /// As OpenSSL wants it.
    pub const fn as_ptr(&self) -> *const OSSL_PARAM {
        self.0.as_ptr()
    }
}

const fn describe(key: &'static CStr, data_type: c_uint, data_size: usize) -> OSSL_PARAM {
    OSSL_PARAM {
        key: key.as_ptr(),
        data_type,
        data: std::ptr::null_mut(),
        data_size,
        return_size: OSSL_PARAM_UNMODIFIED,
    }
}

/// A size.
pub const fn size(key: &'static CStr) -> OSSL_PARAM {
    describe(key, OSSL_PARAM_UNSIGNED_INTEGER, size_of::<usize>())
}

/// An unsigned int.
pub const fn uint(key: &'static CStr) -> OSSL_PARAM {
    describe(key, OSSL_PARAM_UNSIGNED_INTEGER, 4)
}

/// A 64-bit number.
pub const fn uint64(key: &'static CStr) -> OSSL_PARAM {
    describe(key, OSSL_PARAM_UNSIGNED_INTEGER, 8)
}

/// An int.
pub const fn int(key: &'static CStr) -> OSSL_PARAM {
    describe(key, OSSL_PARAM_INTEGER, 4)
}

/// Text.
pub const fn text(key: &'static CStr) -> OSSL_PARAM {
    describe(key, OSSL_PARAM_UTF8_STRING, 0)
}

/// Text by its address.
pub const fn text_ptr(key: &'static CStr) -> OSSL_PARAM {
    describe(key, OSSL_PARAM_UTF8_PTR, 0)
}

/// Bytes.
pub const fn octets(key: &'static CStr) -> OSSL_PARAM {
    describe(key, OSSL_PARAM_OCTET_STRING, 0)
}

/// Bytes by their address.
pub const fn octets_ptr(key: &'static CStr) -> OSSL_PARAM {
    describe(key, OSSL_PARAM_OCTET_PTR, 0)
}

/// A number of any size.
pub const fn number(key: &'static CStr) -> OSSL_PARAM {
    describe(key, OSSL_PARAM_UNSIGNED_INTEGER, 0)
}

/// What is given to a function of the host's, by its address.
pub const fn at(
    key: &'static CStr,
    data_type: c_uint,
    data: *mut c_void,
    data_size: usize,
) -> OSSL_PARAM {
    OSSL_PARAM {
        data,
        ..describe(key, data_type, data_size)
    }
}

/// The end of a list.
pub const fn end() -> OSSL_PARAM {
    OSSL_PARAM {
        key: std::ptr::null(),
        data_type: 0,
        data: std::ptr::null_mut(),
        data_size: 0,
        return_size: 0,
    }
}

/// A static list of described parameters, with its end: `described!(NAME: size(c"size"), ...)`.
macro_rules! described {
    ($name:ident: $($entry:expr),* $(,)?) => {
        static $name: $crate::ffi::params::Described<{ 1 $(+ { let _ = &$entry; 1 })* }> =
            $crate::ffi::params::Described([$($entry,)* $crate::ffi::params::end()]);
    };
}
pub(crate) use described;

/// A list that a caller gives, to be read. Null is an empty one.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    first: *const OSSL_PARAM,
    life: PhantomData<&'a OSSL_PARAM>,
}

impl<'a> Given<'a> {
    /// # Safety
    /// `first` is null or a list that ends with a null key, whose data are readable for their sizes during 'a.
    pub unsafe fn new(first: *const OSSL_PARAM) -> Given<'a> {
        Given {
            first,
            life: PhantomData,
        }
    }

    /// As it was given.
    pub fn as_ptr(self) -> *const OSSL_PARAM {
        self.first
    }

    /// None.
    pub const NONE: Given<'static> = Given {
        first: std::ptr::null(),
        life: PhantomData,
    };

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Value<'a>> {
        let mut next = self.first;
        std::iter::from_fn(move || {
            // SAFETY: within the list, by new(): it goes on until a null key.
            unsafe {
                if next.is_null() || (*next).key.is_null() {
                    return None;
                }
                let value = Value {
                    param: &*next,
                    life: PhantomData,
                };
                next = next.add(1);
                Some(value)
            }
        })
    }

    /// The one of this name, if it is there.
    pub fn find(self, key: &CStr) -> Option<Value<'a>> {
        self.iter().find(|value| value.key() == key)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }
}

/// A list of our own, for the host.
#[derive(Default)]
pub struct Own {
    list: Vec<OSSL_PARAM>,
    /// What the list points to.
    data: Vec<Box<[u8]>>,
}

impl Own {
    fn push(&mut self, key: &'static CStr, data_type: c_uint, bytes: &[u8]) {
        let mut bytes: Box<[u8]> = bytes.into();
        if self.list.last().is_some_and(|last| last.key.is_null()) {
            self.list.pop();
        }
        self.list.push(OSSL_PARAM {
            key: key.as_ptr(),
            data_type,
            data: bytes.as_mut_ptr().cast(),
            data_size: bytes.len(),
            return_size: OSSL_PARAM_UNMODIFIED,
        });
        self.list.push(end());
        self.data.push(bytes);
    }

    /// Text.
    pub fn text(&mut self, key: &'static CStr, value: &str) {
        // OpenSSL's own functions look for a zero behind a text.
        self.push(key, OSSL_PARAM_UTF8_STRING, format!("{value}\0").as_bytes());
        let place = self.list.len() - 2;
        self.list[place].data_size -= 1;
    }

    /// Bytes.
    pub fn octets(&mut self, key: &'static CStr, value: &[u8]) {
        self.push(key, OSSL_PARAM_OCTET_STRING, value);
    }

    /// A place for bytes that nobody has yet: their number alone.
    pub fn octets_to_come(&mut self, key: &'static CStr, size: usize) {
        self.push(key, OSSL_PARAM_OCTET_STRING, &[]);
        let place = self.list.len() - 2;
        self.list[place].data = std::ptr::null_mut();
        self.list[place].data_size = size;
    }

    /// A size.
    pub fn size(&mut self, key: &'static CStr, value: usize) {
        self.push(key, OSSL_PARAM_UNSIGNED_INTEGER, &value.to_ne_bytes());
    }

    /// As one that is given.
    pub fn given(&self) -> Given<'_> {
        Given {
            first: if self.list.is_empty() {
                std::ptr::null()
            } else {
                self.list.as_ptr()
            },
            life: PhantomData,
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // A key may be among them.
        for data in &mut self.data {
            zeroize::Zeroize::zeroize(&mut data[..]);
        }
    }
}

/// One parameter that a caller gives.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    param: &'a OSSL_PARAM,
    life: PhantomData<&'a [u8]>,
}

#[cold]
fn wrong(key: &CStr, what: &str) -> Error {
    Error::new(
        Reason::PARAMETER,
        format!("parameter {}: {what}", key.to_string_lossy()),
    )
}

impl<'a> Value<'a> {
    /// Its name.
    pub fn key(&self) -> &'a CStr {
        // SAFETY: not null (iter), and a C string.
        unsafe { CStr::from_ptr(self.param.key) }
    }

    /// Whether it is an address of bytes.
    pub fn by_address(&self) -> bool {
        self.param.data_type == OSSL_PARAM_OCTET_PTR
    }

    fn raw(&self) -> Result<&'a [u8]> {
        if self.param.data_size == 0 {
            return Ok(&[]);
        }
        if self.param.data.is_null() || self.param.data_size > isize::MAX as usize {
            return Err(wrong(self.key(), "no data"));
        }
        // SAFETY: readable for its size, by Given::new().
        Ok(unsafe {
            std::slice::from_raw_parts(self.param.data.cast::<u8>(), self.param.data_size)
        })
    }

    /// A number, whatever its width and sign.
    pub fn integer(&self) -> Result<i128> {
        let raw = self.raw()?;
        match self.param.data_type {
            // What almost all are.
            OSSL_PARAM_UNSIGNED_INTEGER if raw.len() == 4 => {
                Ok(u32::from_ne_bytes([raw[0], raw[1], raw[2], raw[3]]).into())
            }
            OSSL_PARAM_INTEGER | OSSL_PARAM_UNSIGNED_INTEGER => {
                if raw.is_empty() {
                    return Err(wrong(self.key(), "a number without bytes"));
                }
                let mut little = raw.to_vec();
                if cfg!(target_endian = "big") {
                    little.reverse();
                }
                let negative = self.param.data_type == OSSL_PARAM_INTEGER
                    && little.last().is_some_and(|byte| byte & 0x80 != 0);
                let filler = if negative { 0xff } else { 0 };
                let keeps = little.len().min(15);
                if little[keeps..].iter().any(|byte| *byte != filler) {
                    return Err(wrong(self.key(), "a number that is too large"));
                }
                let mut all = [filler; 16];
                all[..keeps].copy_from_slice(&little[..keeps]);
                Ok(i128::from_le_bytes(all))
            }
            OSSL_PARAM_REAL => {
                let bytes: [u8; 8] = raw
                    .try_into()
                    .map_err(|_| wrong(self.key(), "a real number of another width"))?;
                let real = f64::from_ne_bytes(bytes);
                if real.fract() != 0.0 || real.abs() > (1u64 << 53) as f64 {
                    return Err(wrong(self.key(), "not a whole number"));
                }
                Ok(real as i128)
            }
            _ => Err(wrong(self.key(), "not a number")),
        }
    }

    fn fits<T: TryFrom<i128>>(&self) -> Result<T> {
        T::try_from(self.integer()?).map_err(|_| wrong(self.key(), "a number out of range"))
    }

    /// A size.
    pub fn size(&self) -> Result<usize> {
        self.fits()
    }

    /// An unsigned int.
    pub fn uint(&self) -> Result<u32> {
        self.fits()
    }

    /// A 64-bit number.
    pub fn uint64(&self) -> Result<u64> {
        self.fits()
    }

    /// An int.
    pub fn int(&self) -> Result<i32> {
        self.fits()
    }

    /// An unsigned number of any size, big-endian.
    pub fn number(&self) -> Result<Vec<u8>> {
        if self.param.data_type != OSSL_PARAM_UNSIGNED_INTEGER {
            return Err(wrong(self.key(), "not an unsigned number"));
        }
        let mut bytes = self.raw()?.to_vec();
        if cfg!(target_endian = "little") {
            bytes.reverse();
        }
        let zeroes = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.drain(..zeroes);
        Ok(bytes)
    }

    /// Text.
    pub fn text(&self) -> Result<&'a str> {
        let bytes = match self.param.data_type {
            OSSL_PARAM_UTF8_STRING => {
                let raw = self.raw()?;
                // The size may count a terminating zero.
                raw.split(|byte| *byte == 0).next().unwrap_or_default()
            }
            OSSL_PARAM_UTF8_PTR => {
                if self.param.data.is_null() {
                    return Err(wrong(self.key(), "no data"));
                }
                // SAFETY: such a parameter's data is the address of a C string's address.
                unsafe {
                    let text = *self.param.data.cast::<*const c_char>();
                    if text.is_null() {
                        return Err(wrong(self.key(), "no data"));
                    }
                    CStr::from_ptr(text).to_bytes()
                }
            }
            _ => return Err(wrong(self.key(), "not text")),
        };
        std::str::from_utf8(bytes).map_err(|_| wrong(self.key(), "not UTF-8"))
    }

    /// Bytes; of text, too, as OSSL_PARAM_get_octet_string_ptr() has it not but callers do.
    pub fn octets(&self) -> Result<&'a [u8]> {
        match self.param.data_type {
            OSSL_PARAM_OCTET_STRING | OSSL_PARAM_UTF8_STRING => self.raw(),
            OSSL_PARAM_OCTET_PTR => {
                if self.param.data.is_null() || self.param.data_size > isize::MAX as usize {
                    return Err(wrong(self.key(), "no data"));
                }
                // SAFETY: such a parameter's data is the address of the bytes' address.
                unsafe {
                    let bytes = *self.param.data.cast::<*const u8>();
                    match bytes.is_null() {
                        true if self.param.data_size == 0 => Ok(&[]),
                        true => Err(wrong(self.key(), "no data")),
                        false => Ok(std::slice::from_raw_parts(bytes, self.param.data_size)),
                    }
                }
            }
            _ => Err(wrong(self.key(), "not bytes")),
        }
    }

    /// Bytes, or only how many there will be: without data.
    pub fn octets_or_size(&self) -> Result<(Option<&'a [u8]>, usize)> {
        if self.param.data_type == OSSL_PARAM_OCTET_STRING && self.param.data.is_null() {
            return Ok((None, self.param.data_size));
        }
        let bytes = self.octets()?;
        Ok((Some(bytes), bytes.len()))
    }
}

/// A list that a caller wants answered. Null is an empty one.
pub struct Asked<'a> {
    first: *mut OSSL_PARAM,
    life: PhantomData<&'a mut OSSL_PARAM>,
}

impl<'a> Asked<'a> {
    /// # Safety
    /// `first` is null or a list that ends with a null key, whose data are null or writable for their sizes
    /// during 'a.
    pub unsafe fn new(first: *mut OSSL_PARAM) -> Asked<'a> {
        Asked {
            first,
            life: PhantomData,
        }
    }

    /// As it was given.
    pub fn as_mut_ptr(&mut self) -> *mut OSSL_PARAM {
        self.first
    }

    /// Answers each as `f` does; it leaves those that it does not know.
    pub fn answer(&mut self, mut f: impl FnMut(&CStr, Slot<'_>) -> Result<()>) -> Result<()> {
        let mut next = self.first;
        // SAFETY: within the list, by new(): it goes on until a null key; each is borrowed once.
        unsafe {
            while !next.is_null() && !(*next).key.is_null() {
                let key = CStr::from_ptr((*next).key);
                f(key, Slot { param: &mut *next })?;
                next = next.add(1);
            }
        }
        Ok(())
    }
}

/// One parameter to be answered.
pub struct Slot<'a> {
    param: &'a mut OSSL_PARAM,
}

impl Slot<'_> {
    fn key(&self) -> &CStr {
        // SAFETY: not null (answer), and a C string.
        unsafe { CStr::from_ptr(self.param.key) }
    }

    #[cold]
    fn small(&self) -> Error {
        Error::new(
            Reason::OUTPUT_TOO_SMALL,
            format!(
                "parameter {}: {} bytes where {} are needed",
                self.key().to_string_lossy(),
                self.param.data_size,
                self.param.return_size
            ),
        )
    }

    /// Whether text is asked for.
    pub fn is_text(&self) -> bool {
        matches!(
            self.param.data_type,
            OSSL_PARAM_UTF8_STRING | OSSL_PARAM_UTF8_PTR
        )
    }

    /// How much room the caller has made.
    pub fn room(&self) -> usize {
        self.param.data_size
    }

    fn put(&mut self, bytes: &[u8]) {
        // SAFETY: writable for its size, by Asked::new(), which is not less (the callers have looked).
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.param.data.cast(), bytes.len());
        }
    }

    /// A number, in whatever width and sign is asked for.
    pub fn integer(mut self, value: i128) -> Result<()> {
        match (self.param.data_type, u64::try_from(value)) {
            // What almost all are.
            (OSSL_PARAM_UNSIGNED_INTEGER, Ok(size))
                if self.param.data_size == 8 && !self.param.data.is_null() =>
            {
                self.put(&size.to_ne_bytes());
                self.param.return_size = 8;
                Ok(())
            }
            (OSSL_PARAM_INTEGER | OSSL_PARAM_UNSIGNED_INTEGER, _) => {
                let signed = self.param.data_type == OSSL_PARAM_INTEGER;
                let little = value.to_le_bytes();
                let filler = if value < 0 { 0xff } else { 0 };
                // Bytes that say the number; a sign needs its bit.
                let mut needs = 16;
                while needs > 1
                    && little[needs - 1] == filler
                    && (!signed || (little[needs - 2] ^ filler) & 0x80 == 0)
                {
                    needs -= 1;
                }
                if self.param.data.is_null() {
                    self.param.return_size = needs.next_multiple_of(8).max(self.param.data_size);
                    return Ok(());
                }
                if (value < 0 && !signed) || self.param.data_size > 64 {
                    return Err(wrong(self.key(), "the number does not fit"));
                }
                if self.param.data_size < needs {
                    self.param.return_size = needs;
                    return Err(self.small());
                }
                let mut all = [filler; 64];
                all[..16].copy_from_slice(&little);
                let width = self.param.data_size;
                if cfg!(target_endian = "big") {
                    all[..width].reverse();
                }
                self.put(&all[..width]);
                self.param.return_size = width;
                Ok(())
            }
            (OSSL_PARAM_REAL, _) => {
                self.param.return_size = 8;
                if self.param.data.is_null() {
                    return Ok(());
                }
                if self.param.data_size != 8 || value.unsigned_abs() > 1 << 53 {
                    return Err(wrong(self.key(), "the number does not fit"));
                }
                self.put(&(value as f64).to_ne_bytes());
                Ok(())
            }
            _ => Err(wrong(self.key(), "is a number")),
        }
    }

    /// A size.
    pub fn size(self, value: usize) -> Result<()> {
        self.integer(value as i128)
    }

    /// An unsigned number, given big-endian, in as many bytes as there is room for.
    pub fn number(mut self, big: &[u8]) -> Result<()> {
        if self.param.data_type != OSSL_PARAM_UNSIGNED_INTEGER {
            return Err(wrong(self.key(), "is an unsigned number"));
        }
        let zeroes = big.iter().take_while(|byte| **byte == 0).count();
        let bytes = &big[zeroes..];
        self.param.return_size = bytes.len().max(1);
        if self.param.data.is_null() {
            return Ok(());
        }
        if self.param.data_size < self.param.return_size {
            return Err(self.small());
        }
        let mut all = vec![0; self.param.data_size - bytes.len()];
        all.extend_from_slice(bytes);
        if cfg!(target_endian = "little") {
            all.reverse();
        }
        self.put(&all);
        self.param.return_size = all.len();
        Ok(())
    }

    /// Text, by value.
    pub fn text(mut self, value: &str) -> Result<()> {
        if self.param.data_type != OSSL_PARAM_UTF8_STRING {
            return Err(wrong(self.key(), "is text"));
        }
        self.param.return_size = value.len();
        if self.param.data.is_null() {
            return Ok(());
        }
        if self.param.data_size < value.len() {
            return Err(self.small());
        }
        self.put(value.as_bytes());
        if self.param.data_size > value.len() {
            // SAFETY: the byte after the text is within the room.
            unsafe { *self.param.data.cast::<u8>().add(value.len()) = 0 };
        }
        Ok(())
    }

    /// Text that stays where it is, by its address where that is asked for, else by value.
    pub fn text_ptr(self, value: &'static CStr) -> Result<()> {
        if self.param.data_type != OSSL_PARAM_UTF8_PTR {
            return self.text(value.to_str().unwrap_or_default());
        }
        self.param.return_size = value.to_bytes().len();
        if !self.param.data.is_null() {
            // SAFETY: such a parameter's data is the place of an address.
            unsafe { *self.param.data.cast::<*const c_char>() = value.as_ptr() };
        }
        Ok(())
    }

    /// Bytes, by value.
    pub fn octets(mut self, value: &[u8]) -> Result<()> {
        if self.param.data_type != OSSL_PARAM_OCTET_STRING {
            return Err(wrong(self.key(), "is bytes"));
        }
        self.param.return_size = value.len();
        if self.param.data.is_null() {
            return Ok(());
        }
        if self.param.data_size < value.len() {
            return Err(self.small());
        }
        self.put(value);
        Ok(())
    }

    /// Bytes of a context, by value, or by their address where that is asked for: then the host may look at
    /// them as long as it has the context.
    pub fn octets_or_ptr(self, value: &[u8]) -> Result<()> {
        if self.param.data_type != OSSL_PARAM_OCTET_PTR {
            return self.octets(value);
        }
        self.param.return_size = value.len();
        if !self.param.data.is_null() {
            // SAFETY: such a parameter's data is the place of an address.
            unsafe { *self.param.data.cast::<*const u8>() = value.as_ptr() };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(key: &'static CStr, kind: c_uint, data: &mut [u8]) -> OSSL_PARAM {
        OSSL_PARAM {
            key: key.as_ptr(),
            data_type: kind,
            data: data.as_mut_ptr().cast(),
            data_size: data.len(),
            return_size: OSSL_PARAM_UNMODIFIED,
        }
    }

    fn read(kind: c_uint, data: &mut [u8]) -> Result<i128> {
        let list = [param(c"n", kind, data), end()];
        // SAFETY: a list with an end.
        unsafe { Given::new(list.as_ptr()) }
            .find(c"n")
            .unwrap()
            .integer()
    }

    fn write(kind: c_uint, data: &mut [u8], value: i128) -> (Result<()>, usize) {
        let mut list = [param(c"n", kind, data), end()];
        // SAFETY: a list with an end.
        let done = unsafe { Asked::new(list.as_mut_ptr()) }.answer(|_, slot| slot.integer(value));
        (done, list[0].return_size)
    }

    #[test]
    fn numbers_of_every_width_go_round() {
        for width in 1..=20usize {
            for value in [
                0i128,
                1,
                127,
                128,
                255,
                256,
                65535,
                -1,
                -128,
                -129,
                i64::MAX.into(),
            ] {
                for kind in [OSSL_PARAM_INTEGER, OSSL_PARAM_UNSIGNED_INTEGER] {
                    let signed = kind == OSSL_PARAM_INTEGER;
                    let bits = (width * 8).min(100) as u32;
                    let (least, most) = if signed {
                        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
                    } else {
                        (0, (1i128 << bits) - 1)
                    };
                    let mut room = vec![0xaa; width];
                    let (done, size) = write(kind, &mut room, value);
                    if value < least || value > most {
                        assert!(done.is_err(), "{value} in {width}");
                    } else {
                        done.unwrap();
                        assert_eq!(size, width);
                        assert_eq!(read(kind, &mut room).unwrap(), value, "{width}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_number_that_is_too_large_is_refused() {
        let mut large = [0xffu8; 16];
        assert!(read(OSSL_PARAM_UNSIGNED_INTEGER, &mut large).is_err());
        assert_eq!(read(OSSL_PARAM_INTEGER, &mut large).unwrap(), -1);
        assert!(read(OSSL_PARAM_INTEGER, &mut []).is_err());
    }

    #[test]
    fn real_numbers_are_numbers_where_they_are_whole() {
        assert_eq!(
            read(OSSL_PARAM_REAL, &mut 17.0f64.to_ne_bytes()).unwrap(),
            17
        );
        assert!(read(OSSL_PARAM_REAL, &mut 17.5f64.to_ne_bytes()).is_err());
        let mut room = [0; 8];
        write(OSSL_PARAM_REAL, &mut room, 3).0.unwrap();
        assert_eq!(f64::from_ne_bytes(room), 3.0);
    }

    #[test]
    fn a_size_is_told_where_the_room_is_too_small() {
        let mut room = [0u8; 3];
        let mut list = [param(c"t", OSSL_PARAM_OCTET_STRING, &mut room), end()];
        // SAFETY: a list with an end.
        let mut asked = unsafe { Asked::new(list.as_mut_ptr()) };
        assert!(asked.answer(|_, slot| slot.octets(b"four")).is_err());
        assert_eq!(list[0].return_size, 4);
        list[0].data = std::ptr::null_mut();
        // SAFETY: as above.
        let mut asked = unsafe { Asked::new(list.as_mut_ptr()) };
        asked.answer(|_, slot| slot.octets(b"fours")).unwrap();
        assert_eq!(list[0].return_size, 5);
    }

    #[test]
    fn what_nobody_knows_is_left_alone() {
        let mut room = [7u8; 3];
        let mut list = [param(c"t", OSSL_PARAM_OCTET_STRING, &mut room), end()];
        // SAFETY: a list with an end.
        let mut asked = unsafe { Asked::new(list.as_mut_ptr()) };
        asked.answer(|_, _| Ok(())).unwrap();
        assert_eq!(list[0].return_size, OSSL_PARAM_UNMODIFIED);
        assert_eq!(room, [7; 3]);
    }

    #[test]
    fn text_ends_at_its_zero() {
        let mut room = *b"AES\0xyz";
        let list = [param(c"t", OSSL_PARAM_UTF8_STRING, &mut room), end()];
        // SAFETY: a list with an end.
        let value = unsafe { Given::new(list.as_ptr()) }.find(c"t").unwrap();
        assert_eq!(value.text().unwrap(), "AES");
    }
}
