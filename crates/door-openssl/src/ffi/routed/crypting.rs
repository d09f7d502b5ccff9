//! Ciphers that are routed.

use super::*;
use crate::cipher::Way;
use crate::ffi::params::{Given, Own};
use crate::ffi::{Tables, held, numbered};
use zeroize::Zeroize;

type Init = unsafe extern "C" fn(
    *mut c_void,
    *const u8,
    usize,
    *const u8,
    usize,
    *const OSSL_PARAM,
) -> c_int;
type Crypt =
    unsafe extern "C" fn(*mut c_void, *mut u8, *mut usize, usize, *const u8, usize) -> c_int;

/// One side of a cipher.
pub struct Cipher {
    life: Life,
    encrypt_init: Init,
    decrypt_init: Init,
    update: Crypt,
    once: Option<Crypt>,
    finish: Final,
    set_params: SetParams,
    get_params: GetParams,
    /// How both are run.
    way: Way,
    /// Whether a message without an IV of its own begins with the one before (CBC, CFB).
    chained: bool,
}

impl Side for Cipher {
    #[allow(private_interfaces, reason = "of use here alone")]
    fn life(&self) -> &Life {
        &self.life
    }
}

impl Cipher {
    /// The functions of an implementation.
    pub fn of(implementation: &Implementation, way: Way, chained: bool) -> Result<Cipher> {
        // SAFETY: the numbers say the types.
        unsafe {
            Ok(Cipher {
                life: Life {
                    provctx: implementation.provctx(),
                    new: implementation.function(cipher::NEWCTX)?,
                    dup: implementation.function(cipher::DUPCTX)?,
                    free: implementation.function(cipher::FREECTX)?,
                },
                encrypt_init: implementation.function(cipher::ENCRYPT_INIT)?,
                decrypt_init: implementation.function(cipher::DECRYPT_INIT)?,
                update: implementation.function(cipher::UPDATE)?,
                once: implementation.function(cipher::CIPHER).ok(),
                finish: implementation.function(cipher::FINAL)?,
                set_params: implementation.function(cipher::SET_CTX_PARAMS)?,
                get_params: implementation.function(cipher::GET_CTX_PARAMS)?,
                way,
                chained,
            })
        }
    }

    fn init(&self, decrypts: bool) -> Init {
        if decrypts {
            self.decrypt_init
        } else {
            self.encrypt_init
        }
    }
}

/// Their functions, by place.
pub fn functions(place: usize) -> &'static [OSSL_DISPATCH] {
    static ALL: Tables = Tables::new();
    let f = OSSL_DISPATCH::new;
    ALL.get(place, crate::cipher::variants().len(), |place| {
        let ours = crate::ffi::cipher::functions(place).iter();
        let routed = ours.filter_map(|one| {
            Some(match one.function_id {
                // Keys that are objects are never the host's.
                0 | cipher::ENCRYPT_SKEY_INIT | cipher::DECRYPT_SKEY_INIT => return None,
                cipher::NEWCTX => f(cipher::NEWCTX, NEW_CIPHER[place]),
                cipher::ENCRYPT_INIT => f(cipher::ENCRYPT_INIT, encrypt_init as *const c_void),
                cipher::DECRYPT_INIT => f(cipher::DECRYPT_INIT, decrypt_init as *const c_void),
                cipher::UPDATE => f(cipher::UPDATE, cipher_update as *const c_void),
                cipher::FINAL => f(cipher::FINAL, cipher_final as *const c_void),
                cipher::CIPHER => f(cipher::CIPHER, cipher_once as *const c_void),
                cipher::FREECTX => f(cipher::FREECTX, end::<Crypting> as *const c_void),
                cipher::DUPCTX => f(cipher::DUPCTX, cipher_dup as *const c_void),
                cipher::GET_CTX_PARAMS => {
                    f(cipher::GET_CTX_PARAMS, cipher_get_params as *const c_void)
                }
                cipher::SET_CTX_PARAMS => {
                    f(cipher::SET_CTX_PARAMS, cipher_set_params as *const c_void)
                }
                _ => *one,
            })
        });
        routed.collect()
    })
}

/// The longest key (XTS with two of 256 bits), IV and tag that ours can be told later.
const KEY: usize = 64;
const IV: usize = 16;
const TAG: usize = 16;
/// The longest additional data; TLS has 5 or 13 bytes.
pub(super) const AAD: usize = 64;

/// What ours has to be told when it takes a message over.
struct Told {
    key: [u8; KEY],
    key_size: usize,
    iv: [u8; IV],
    iv_size: usize,
    iv_length: Option<usize>,
    padding: Option<usize>,
    tag: [u8; TAG],
    tag_size: Option<usize>,
    tag_given: bool,
    aad: [u8; AAD],
    aad_size: usize,
    /// CCM's: how long the message is.
    length: Option<usize>,
}

impl Told {
    const NOTHING: Told = Told {
        key: [0; KEY],
        key_size: 0,
        iv: [0; IV],
        iv_size: 0,
        iv_length: None,
        padding: None,
        tag: [0; TAG],
        tag_size: None,
        tag_given: false,
        aad: [0; AAD],
        aad_size: 0,
        length: None,
    };

    /// The rest of it.
    fn but_the_key(&self) -> Told {
        Told {
            key: [0; KEY],
            ..*self
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// What a host holds of a cipher.
pub(super) struct Crypting {
    both: Both<Cipher>,
    decrypts: bool,
    /// Whether ours has this key.
    known: bool,
    told: Told,
}

numbered!(NEW_CIPHER, new_cipher);

pub(super) unsafe extern "C" fn new_cipher<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host; the route goes with the provider.
    unsafe {
        let route = of(provctx).ciphers.get(N).and_then(OnceLock::get);
        let made = route.and_then(|route| Both::new(route)).map(|both| {
            Box::new(Crypting {
                both,
                decrypts: false,
                known: false,
                told: Told::NOTHING,
            })
        });
        give(made)
    }
}

pub(super) unsafe extern "C" fn cipher_dup(context: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Crypting>(context);
        let Some(both) = context.both.copy() else {
            return std::ptr::null_mut();
        };
        let mut copy = Box::new(Crypting {
            known: context.known && both.taken,
            both,
            decrypts: context.decrypts,
            told: context.told.but_the_key(),
        });
        // A key goes from heap to heap.
        copy.told.key.copy_from_slice(&context.told.key);
        give(Some(copy))
    }
}

impl Told {
    /// Tells ours all that was said.
    unsafe fn tell(
        &self,
        ours: &Cipher,
        at: *mut c_void,
        decrypts: bool,
        known: bool,
    ) -> Option<()> {
        let good = |done: c_int| (done == 1).then_some(());
        let (nothing, nowhere) = (std::ptr::null(), std::ptr::null_mut());
        // SAFETY: ours' own context, and what the host gave.
        unsafe {
            let init = ours.init(decrypts);
            // Lengths come before what has them.
            let mut params = Own::default();
            if let Some(length) = self.iv_length {
                params.size(c"ivlen", length);
            }
            if let Some(padding) = self.padding {
                params.size(c"padding", padding);
            }
            let params = params.given();
            if !params.is_empty() {
                good(init(at, nothing, 0, nothing, 0, params.as_ptr()))?;
            }
            let mut tag = Own::default();
            match self.tag_size {
                Some(size) if self.tag_given && decrypts => tag.octets(c"tag", &self.tag[..size]),
                Some(size) if ours.way == Way::Message => tag.octets_to_come(c"tag", size),
                _ => {}
            }
            let tag_given = tag.given().as_ptr();
            let part = |bytes: &[u8], there: bool| {
                if there {
                    (bytes.as_ptr(), bytes.len())
                } else {
                    (nothing, 0)
                }
            };
            let key = part(&self.key[..self.key_size], !known);
            let iv = part(&self.iv[..self.iv_size], self.iv_size > 0);
            good(init(at, key.0, key.1, iv.0, iv.1, tag_given))?;
            let mut written = 0;
            if let Some(length) = self.length {
                good((ours.update)(at, nowhere, &mut written, 0, nothing, length))?;
            }
            if self.aad_size > 0 {
                let aad = part(&self.aad[..self.aad_size], true);
                good((ours.update)(at, nowhere, &mut written, 0, aad.0, aad.1))?;
            }
            Some(())
        }
    }
}

impl Crypting {
    /// The host's side, which says how it is run.
    fn side(&self) -> &Cipher {
        &self.both.route().theirs
    }

    /// Remembers what is set, in case that ours has to be told.
    fn hear(&mut self, params: Given<'_>) {
        for value in params.iter() {
            let heard = match value.key().to_bytes() {
                b"padding" => value
                    .size()
                    .map(|padding| self.told.padding = Some(padding)),
                b"ivlen" => value.size().map(|length| {
                    self.told.iv_length = Some(length);
                    if length != self.told.iv_size {
                        // What was given before is gone.
                        self.told.iv_size = 0;
                    }
                }),
                b"tag" => value.octets_or_size().map(|(tag, size)| {
                    self.both.stays |= size > TAG;
                    self.told.tag_size = Some(size);
                    if let (Some(tag), true) = (tag, size <= TAG) {
                        self.told.tag[..size].copy_from_slice(tag);
                        self.told.tag_given = true;
                    }
                }),
                // What it is already.
                b"keylen" => Ok(()),
                _ => {
                    self.both.stays = true;
                    Ok(())
                }
            };
            self.both.stays |= heard.is_err();
        }
    }

    unsafe fn init(
        &mut self,
        decrypts: bool,
        key: (*const u8, usize),
        iv: (*const u8, usize),
        params: *const OSSL_PARAM,
    ) -> c_int {
        // SAFETY: of the host, whose private memory keys and IVs are.
        unsafe {
            self.decrypts = decrypts;
            let given = !iv.0.is_null();
            // Without an IV a counter goes on where the message before ended: if that was ours, so is this.
            let goes_on =
                !given && self.both.taken && !self.side().chained && self.side().way != Way::Blocks;
            self.both.taken = goes_on;
            if !given && (self.told.aad_size > 0 || self.told.length.is_some()) {
                // A message that has begun goes on.
                self.spend();
            }
            self.told.aad_size = 0;
            self.told.length = None;
            if !key.0.is_null() {
                self.known = false;
                self.told.key_size = key.1;
                self.both.stays |= key.1 > KEY;
                if key.1 <= KEY {
                    std::ptr::copy_nonoverlapping(key.0, self.told.key.as_mut_ptr(), key.1);
                }
            }
            if given {
                self.told.iv_size = iv.1;
                self.both.stays |= iv.1 > IV;
                if iv.1 <= IV {
                    std::ptr::copy_nonoverlapping(iv.0, self.told.iv.as_mut_ptr(), iv.1);
                }
            }
            if !params.is_null() {
                self.hear(Given::new(params));
            }
            let needs_none = self.side().way == Way::Blocks && !self.side().chained;
            let has_iv = needs_none || self.told.iv_size > 0;
            self.both.free = has_iv && !goes_on;
            let theirs = self.side().init(decrypts);
            let done = theirs(self.both.at_theirs, key.0, key.1, iv.0, iv.1, params);
            if done != 1 || !goes_on {
                return done;
            }
            let ours = self.both.route().ours.init(decrypts);
            let done = ours(self.both.at_ours, key.0, key.1, iv.0, iv.1, params);
            self.known |= done == 1 && !key.0.is_null();
            done
        }
    }

    /// The side whose the next piece is, and its context.
    unsafe fn whose(
        &mut self,
        out: *mut u8,
        data: *const u8,
        length: usize,
    ) -> (&Cipher, *mut c_void) {
        if self.both.free {
            // SAFETY: of the host.
            unsafe { self.decide(out, data, length) };
        }
        self.both.now()
    }

    /// Decides whose a message is that has not begun.
    unsafe fn decide(&mut self, out: *mut u8, data: *const u8, length: usize) {
        // SAFETY: of the host.
        unsafe {
            if out.is_null() {
                if data.is_null() {
                    self.told.length = (self.side().way == Way::Message).then_some(length);
                } else if length <= AAD - self.told.aad_size {
                    let at = self.told.aad.as_mut_ptr().add(self.told.aad_size);
                    std::ptr::copy_nonoverlapping(data, at, length);
                    self.told.aad_size += length;
                } else {
                    self.spend();
                }
                return;
            }
            if length == 0 {
                return;
            }
            if length >= self.both.route().from
                && !data.is_null()
                && !self.both.stays
                && self.told.key_size > 0
            {
                let (told, decrypts, known) = (&self.told, self.decrypts, self.known);
                let both = &mut self.both;
                both.take(|ours, at| told.tell(ours, at, decrypts, known).is_some());
                self.known |= both.taken;
                both.stays |= !both.taken;
            }
            self.spend();
        }
    }

    /// The message has begun: its tag and IV are spent. The next one has others, or begins with what is left of
    /// this one.
    fn spend(&mut self) {
        self.both.free = false;
        self.told.tag_given = false;
        if !self.side().chained {
            self.told.iv_size = 0;
        }
    }
}

pub(super) unsafe extern "C" fn encrypt_init(
    context: *mut c_void,
    key: *const u8,
    key_length: usize,
    iv: *const u8,
    iv_length: usize,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe { held::<Crypting>(context).init(false, (key, key_length), (iv, iv_length), params) }
}

pub(super) unsafe extern "C" fn decrypt_init(
    context: *mut c_void,
    key: *const u8,
    key_length: usize,
    iv: *const u8,
    iv_length: usize,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe { held::<Crypting>(context).init(true, (key, key_length), (iv, iv_length), params) }
}

pub(super) unsafe extern "C" fn cipher_update(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let (side, at) = held::<Crypting>(context).whose(out, data, length);
        (side.update)(at, out, written, room, data, length)
    }
}

pub(super) unsafe extern "C" fn cipher_once(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let (side, at) = held::<Crypting>(context).whose(out, data, length);
        side.once
            .map_or(0, |once| once(at, out, written, room, data, length))
    }
}

pub(super) unsafe extern "C" fn cipher_final(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Crypting>(context);
        context.spend();
        let (side, at) = context.both.now();
        (side.finish)(at, out, written, room)
    }
}

pub(super) unsafe extern "C" fn cipher_set_params(
    context: *mut c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Crypting>(context);
        context.hear(Given::new(params));
        // Theirs hears all: the next message may be its own, and its tag may come before its IV.
        let done = (context.side().set_params)(context.both.at_theirs, params);
        if done != 1 || !context.both.taken {
            return done;
        }
        (context.both.route().ours.set_params)(context.both.at_ours, params)
    }
}

pub(super) unsafe extern "C" fn cipher_get_params(
    context: *mut c_void,
    params: *mut OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Crypting>(context);
        if !context.both.taken {
            // Whoever has an address may write there (EVP_CIPHER_CTX_iv_noconst()), and ours would not hear of it.
            let mut asked = Given::new(params).iter();
            context.both.stays |= asked.any(|value| value.by_address());
        }
        let (side, at) = context.both.now();
        (side.get_params)(at, params)
    }
}
