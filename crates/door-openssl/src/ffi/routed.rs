//! Contexts of what an engine does faster only from some size on: each is the host's own, and where the first piece
//! of a message is long enough, ours takes the message over before it begins. So small work costs what it cost
//! without this provider, but for a comparison.
//!
//! Nothing here may panic: it copies a few bytes and calls functions of both sides, and ours have their own guard.

use super::host::Implementation;
use super::params::{Given, Own};
use super::types::*;
use super::{Tables, give, held, numbered, take};
use crate::cipher::Way;
use crate::context::Provider;
use crate::error::Result;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use zeroize::Zeroize;

type New = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Dup = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type SetParams = unsafe extern "C" fn(*mut c_void, *const OSSL_PARAM) -> c_int;
type GetParams = unsafe extern "C" fn(*mut c_void, *mut OSSL_PARAM) -> c_int;
type Update = unsafe extern "C" fn(*mut c_void, *const u8, usize) -> c_int;
type Final = unsafe extern "C" fn(*mut c_void, *mut u8, *mut usize, usize) -> c_int;
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

/// One side of a digest.
#[derive(Clone, Copy)]
struct Digest {
    provctx: *mut c_void,
    new: New,
    init: SetParams,
    update: Update,
    finish: Final,
    squeeze: Option<Final>,
    dup: Dup,
    free: Free,
    set_params: Option<SetParams>,
    get_params: Option<GetParams>,
}

impl Digest {
    fn of(implementation: &Implementation) -> Result<Digest> {
        // SAFETY: the numbers say the types.
        unsafe {
            Ok(Digest {
                provctx: implementation.provctx(),
                new: implementation.function(digest::NEWCTX)?,
                init: implementation.function(digest::INIT)?,
                update: implementation.function(digest::UPDATE)?,
                finish: implementation.function(digest::FINAL)?,
                squeeze: implementation.function(digest::SQUEEZE).ok(),
                dup: implementation.function(digest::DUPCTX)?,
                free: implementation.function(digest::FREECTX)?,
                set_params: implementation.function(digest::SET_CTX_PARAMS).ok(),
                get_params: implementation.function(digest::GET_CTX_PARAMS).ok(),
            })
        }
    }
}

/// One side of a cipher.
#[derive(Clone, Copy)]
struct Cipher {
    provctx: *mut c_void,
    new: New,
    encrypt_init: Init,
    decrypt_init: Init,
    update: Crypt,
    once: Option<Crypt>,
    finish: Final,
    dup: Dup,
    free: Free,
    set_params: SetParams,
    get_params: GetParams,
}

impl Cipher {
    fn of(implementation: &Implementation) -> Result<Cipher> {
        // SAFETY: the numbers say the types.
        unsafe {
            Ok(Cipher {
                provctx: implementation.provctx(),
                new: implementation.function(cipher::NEWCTX)?,
                encrypt_init: implementation.function(cipher::ENCRYPT_INIT)?,
                decrypt_init: implementation.function(cipher::DECRYPT_INIT)?,
                update: implementation.function(cipher::UPDATE)?,
                once: implementation.function(cipher::CIPHER).ok(),
                finish: implementation.function(cipher::FINAL)?,
                dup: implementation.function(cipher::DUPCTX)?,
                free: implementation.function(cipher::FREECTX)?,
                set_params: implementation.function(cipher::SET_CTX_PARAMS)?,
                get_params: implementation.function(cipher::GET_CTX_PARAMS)?,
            })
        }
    }
}

impl Cipher {
    fn init(&self, decrypts: bool) -> Init {
        if decrypts {
            self.decrypt_init
        } else {
            self.encrypt_init
        }
    }
}

enum Sides {
    Digest {
        theirs: Digest,
        ours: Digest,
    },
    Cipher {
        theirs: Cipher,
        ours: Cipher,
        way: Way,
        /// Whether a message without an IV of its own begins with the one before (CBC, CFB).
        chained: bool,
    },
}

/// Where the work of one algorithm goes.
pub struct Route {
    sides: Sides,
    /// From how many bytes on it is ours.
    pub from: usize,
    /// Keeps the host's functions there.
    #[allow(dead_code, reason = "held")]
    host: Implementation,
}

// SAFETY: constants of providers that are kept, whose functions may be called from every thread.
unsafe impl Send for Route {}
// SAFETY: as above.
unsafe impl Sync for Route {}

impl Route {
    /// Of a digest.
    pub fn digest(ours: &Implementation, host: Implementation, from: usize) -> Result<Route> {
        let (theirs, ours) = (Digest::of(&host)?, Digest::of(ours)?);
        Ok(Route {
            sides: Sides::Digest { theirs, ours },
            from,
            host,
        })
    }

    /// Of a cipher.
    pub fn cipher(
        ours: &Implementation,
        host: Implementation,
        from: usize,
        way: Way,
        chained: bool,
    ) -> Result<Route> {
        let sides = Sides::Cipher {
            theirs: Cipher::of(&host)?,
            ours: Cipher::of(ours)?,
            way,
            chained,
        };
        Ok(Route { sides, from, host })
    }
}

/// The provider, which the host keeps for as long as a context of it lives (provider(7)), and with it its routes.
unsafe fn of<'a>(provctx: *mut c_void) -> &'a Provider {
    // SAFETY: what OSSL_provider_init gave, and has not been torn down.
    unsafe { &*provctx.cast_const().cast::<Provider>() }
}

/// The functions of digests, by place.
pub fn digests(place: usize) -> &'static [OSSL_DISPATCH] {
    static ALL: Tables = Tables::new();
    let f = OSSL_DISPATCH::new;
    ALL.get(place, crate::digest::variants().len(), |place| {
        // What it is and what may be set is said as ever.
        let ours = super::digest::functions(place).iter();
        let routed = ours.filter_map(|one| {
            Some(match one.function_id {
                0 | digest::DIGEST => return None,
                digest::NEWCTX => f(digest::NEWCTX, NEW_DIGEST[place]),
                digest::INIT => f(digest::INIT, digest_init as *const c_void),
                digest::UPDATE => f(digest::UPDATE, digest_update as *const c_void),
                digest::FINAL => f(digest::FINAL, digest_final as *const c_void),
                digest::SQUEEZE => f(digest::SQUEEZE, digest_squeeze as *const c_void),
                digest::FREECTX => f(digest::FREECTX, digest_free as *const c_void),
                digest::DUPCTX => f(digest::DUPCTX, digest_dup as *const c_void),
                digest::SET_CTX_PARAMS => {
                    f(digest::SET_CTX_PARAMS, digest_set_params as *const c_void)
                }
                digest::GET_CTX_PARAMS => {
                    f(digest::GET_CTX_PARAMS, digest_get_params as *const c_void)
                }
                _ => *one,
            })
        });
        routed.collect()
    })
}

/// The functions of ciphers, by place.
pub fn ciphers(place: usize) -> &'static [OSSL_DISPATCH] {
    static ALL: Tables = Tables::new();
    let f = OSSL_DISPATCH::new;
    ALL.get(place, crate::cipher::variants().len(), |place| {
        let ours = super::cipher::functions(place).iter();
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
                cipher::FREECTX => f(cipher::FREECTX, cipher_free as *const c_void),
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

/// What a host holds of a digest. The route goes with the provider, which outlives its contexts (provider(7)).
struct Hashing {
    theirs: *const Digest,
    ours: *const Digest,
    from: usize,
    at_theirs: *mut c_void,
    /// Null until it is needed.
    at_ours: *mut c_void,
    /// Whether this message is ours.
    taken: bool,
    /// Whether it may be: nothing has gone in.
    free: bool,
    /// Whether theirs was told something that ours was not: the host's for good, as that may outlast a message.
    stays: bool,
}

numbered!(NEW_DIGEST, new_digest);

unsafe extern "C" fn new_digest<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host; each side's function takes its own context.
    unsafe {
        let Some(route) = of(provctx).digests.get(N).and_then(OnceLock::get) else {
            return std::ptr::null_mut();
        };
        let Sides::Digest { theirs, ours } = &route.sides else {
            return std::ptr::null_mut();
        };
        let at_theirs = (theirs.new)(theirs.provctx);
        if at_theirs.is_null() {
            return std::ptr::null_mut();
        }
        give(Some(Box::new(Hashing {
            theirs,
            ours,
            from: route.from,
            at_theirs,
            at_ours: std::ptr::null_mut(),
            taken: false,
            free: false,
            stays: false,
        })))
    }
}

unsafe extern "C" fn digest_free(context: *mut c_void) {
    // SAFETY: of the host, for the last time; made by the side's own function.
    unsafe {
        if let Some(context) = take::<Hashing>(context) {
            ((*context.theirs).free)(context.at_theirs);
            if !context.at_ours.is_null() {
                ((*context.ours).free)(context.at_ours);
            }
        }
    }
}

unsafe extern "C" fn digest_dup(context: *mut c_void) -> *mut c_void {
    // SAFETY: of the host; each side copies its own.
    unsafe {
        let context = held::<Hashing>(context);
        let at_theirs = ((*context.theirs).dup)(context.at_theirs);
        if at_theirs.is_null() {
            return std::ptr::null_mut();
        }
        let mut at_ours = std::ptr::null_mut();
        if context.taken {
            at_ours = ((*context.ours).dup)(context.at_ours);
            if at_ours.is_null() {
                ((*context.theirs).free)(at_theirs);
                return std::ptr::null_mut();
            }
        }
        give(Some(Box::new(Hashing {
            at_theirs,
            at_ours,
            ..*context
        })))
    }
}

unsafe extern "C" fn digest_init(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Hashing>(context);
        context.taken = false;
        context.stays |= !Given::new(params).is_empty();
        context.free = !context.stays;
        ((*context.theirs).init)(context.at_theirs, params)
    }
}

unsafe extern "C" fn digest_update(context: *mut c_void, data: *const u8, length: usize) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Hashing>(context);
        if context.free && length > 0 {
            context.free = false;
            if length >= context.from {
                let ours = &*context.ours;
                if context.at_ours.is_null() {
                    context.at_ours = (ours.new)(ours.provctx);
                }
                let provider = of(ours.provctx);
                context.taken = !context.at_ours.is_null()
                    && provider
                        .core()
                        .forgetting(|| (ours.init)(context.at_ours, std::ptr::null()) == 1);
            }
        }
        if context.taken {
            ((*context.ours).update)(context.at_ours, data, length)
        } else {
            ((*context.theirs).update)(context.at_theirs, data, length)
        }
    }
}

unsafe extern "C" fn digest_final(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Hashing>(context);
        if context.taken {
            ((*context.ours).finish)(context.at_ours, out, written, room)
        } else {
            ((*context.theirs).finish)(context.at_theirs, out, written, room)
        }
    }
}

unsafe extern "C" fn digest_squeeze(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Hashing>(context);
        let (side, at) = if context.taken {
            (&*context.ours, context.at_ours)
        } else {
            (&*context.theirs, context.at_theirs)
        };
        // A host that knows how to squeeze has a provider that does.
        side.squeeze
            .map_or(0, |squeeze| squeeze(at, out, written, room))
    }
}

unsafe extern "C" fn digest_set_params(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Hashing>(context);
        if context.taken {
            let set = (*context.ours).set_params;
            if set.is_some_and(|set| set(context.at_ours, params) != 1) {
                return 0;
            }
        } else {
            context.free = false;
            context.stays |= !Given::new(params).is_empty();
        }
        let set = (*context.theirs).set_params;
        set.map_or(1, |set| set(context.at_theirs, params))
    }
}

unsafe extern "C" fn digest_get_params(context: *mut c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Hashing>(context);
        let (side, at) = if context.taken {
            (&*context.ours, context.at_ours)
        } else {
            (&*context.theirs, context.at_theirs)
        };
        side.get_params.map_or(1, |get| get(at, params))
    }
}

/// The longest key (XTS with two of 256 bits), IV and tag that ours can be told later.
const KEY: usize = 64;
const IV: usize = 16;
const TAG: usize = 16;
/// The longest additional data; TLS has 5 or 13 bytes.
const AAD: usize = 64;

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
}

impl Drop for Told {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// What a host holds of a cipher.
struct Crypting {
    theirs: *const Cipher,
    ours: *const Cipher,
    from: usize,
    way: Way,
    chained: bool,
    at_theirs: *mut c_void,
    at_ours: *mut c_void,
    decrypts: bool,
    /// Whether this message is ours.
    taken: bool,
    /// Whether it may be: nothing of it has gone in.
    free: bool,
    /// Whether something was set that ours would have to be told and is not: the host's for good.
    stays: bool,
    /// Whether ours has this key.
    known: bool,
    told: Told,
}

numbered!(NEW_CIPHER, new_cipher);

unsafe extern "C" fn new_cipher<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host; each side's function takes its own context.
    unsafe {
        let Some(route) = of(provctx).ciphers.get(N).and_then(OnceLock::get) else {
            return std::ptr::null_mut();
        };
        let Sides::Cipher {
            theirs,
            ours,
            way,
            chained,
        } = &route.sides
        else {
            return std::ptr::null_mut();
        };
        let at_theirs = (theirs.new)(theirs.provctx);
        if at_theirs.is_null() {
            return std::ptr::null_mut();
        }
        give(Some(Box::new(Crypting {
            theirs,
            ours,
            from: route.from,
            way: *way,
            chained: *chained,
            at_theirs,
            at_ours: std::ptr::null_mut(),
            decrypts: false,
            taken: false,
            free: false,
            stays: false,
            known: false,
            told: Told::NOTHING,
        })))
    }
}

unsafe extern "C" fn cipher_free(context: *mut c_void) {
    // SAFETY: of the host, for the last time; made by the side's own function.
    unsafe {
        if let Some(context) = take::<Crypting>(context) {
            ((*context.theirs).free)(context.at_theirs);
            if !context.at_ours.is_null() {
                ((*context.ours).free)(context.at_ours);
            }
        }
    }
}

unsafe extern "C" fn cipher_dup(context: *mut c_void) -> *mut c_void {
    // SAFETY: of the host; each side copies its own.
    unsafe {
        let context = held::<Crypting>(context);
        let at_theirs = ((*context.theirs).dup)(context.at_theirs);
        if at_theirs.is_null() {
            return std::ptr::null_mut();
        }
        let mut at_ours = std::ptr::null_mut();
        if context.taken {
            at_ours = ((*context.ours).dup)(context.at_ours);
            if at_ours.is_null() {
                ((*context.theirs).free)(at_theirs);
                return std::ptr::null_mut();
            }
        }
        let mut copy = Box::new(Crypting {
            at_theirs,
            at_ours,
            known: context.known && context.taken,
            told: Told {
                key: [0; KEY],
                ..context.told
            },
            ..*context
        });
        // A key goes from heap to heap.
        copy.told.key.copy_from_slice(&context.told.key);
        give(Some(copy))
    }
}

impl Crypting {
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
                    self.stays |= size > TAG;
                    self.told.tag_size = Some(size);
                    if let (Some(tag), true) = (tag, size <= TAG) {
                        self.told.tag[..size].copy_from_slice(tag);
                        self.told.tag_given = true;
                    }
                }),
                // What it is already.
                b"keylen" => Ok(()),
                _ => {
                    self.stays = true;
                    Ok(())
                }
            };
            self.stays |= heard.is_err();
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
            let goes_on = !given && self.taken && !self.chained && self.way != Way::Blocks;
            self.taken = goes_on;
            if !given && (self.told.aad_size > 0 || self.told.length.is_some()) {
                // A message that has begun goes on.
                self.spend();
            }
            self.told.aad_size = 0;
            self.told.length = None;
            if !key.0.is_null() {
                self.known = false;
                self.told.key_size = key.1;
                self.stays |= key.1 > KEY;
                if key.1 <= KEY {
                    std::ptr::copy_nonoverlapping(key.0, self.told.key.as_mut_ptr(), key.1);
                }
            }
            if given {
                self.told.iv_size = iv.1;
                self.stays |= iv.1 > IV;
                if iv.1 <= IV {
                    std::ptr::copy_nonoverlapping(iv.0, self.told.iv.as_mut_ptr(), iv.1);
                }
            }
            if !params.is_null() {
                self.hear(Given::new(params));
            }
            let needs_none = self.way == Way::Blocks && !self.chained;
            let has_iv = needs_none || self.told.iv_size > 0;
            self.free = has_iv && !goes_on;
            let theirs = (*self.theirs).init(decrypts);
            let done = theirs(self.at_theirs, key.0, key.1, iv.0, iv.1, params);
            if done != 1 || !goes_on {
                return done;
            }
            let ours = (*self.ours).init(decrypts);
            let done = ours(self.at_ours, key.0, key.1, iv.0, iv.1, params);
            self.known |= done == 1 && !key.0.is_null();
            done
        }
    }

    /// Makes the message ours, which has not begun. If that fails it stays the host's.
    #[cold]
    unsafe fn take_over(&mut self) -> bool {
        // SAFETY: ours' own context and provider, and what the host gave.
        unsafe {
            let provider = of((*self.ours).provctx);
            provider.core().forgetting(|| self.tell().is_some())
        }
    }

    /// Tells ours all that was said.
    unsafe fn tell(&mut self) -> Option<()> {
        let good = |done: c_int| (done == 1).then_some(());
        let (nothing, nowhere) = (std::ptr::null(), std::ptr::null_mut());
        // SAFETY: as above.
        unsafe {
            let (ours, told) = (&*self.ours, &self.told);
            let init = ours.init(self.decrypts);
            if self.at_ours.is_null() {
                self.at_ours = (ours.new)(ours.provctx);
                if self.at_ours.is_null() {
                    return None;
                }
            }
            // Lengths come before what has them.
            let mut params = Own::default();
            if let Some(length) = told.iv_length {
                params.size(c"ivlen", length);
            }
            if let Some(padding) = told.padding {
                params.size(c"padding", padding);
            }
            let params = params.given();
            if !params.is_empty() {
                good(init(self.at_ours, nothing, 0, nothing, 0, params.as_ptr()))?;
            }
            let mut tag = Own::default();
            match told.tag_size {
                Some(size) if told.tag_given && self.decrypts => {
                    tag.octets(c"tag", &told.tag[..size])
                }
                Some(size) if self.way == Way::Message => tag.octets_to_come(c"tag", size),
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
            let key = part(&told.key[..told.key_size], !self.known);
            let iv = part(&told.iv[..told.iv_size], told.iv_size > 0);
            good(init(self.at_ours, key.0, key.1, iv.0, iv.1, tag_given))?;
            self.known = true;
            let mut written = 0;
            if let Some(length) = told.length {
                good((ours.update)(
                    self.at_ours,
                    nowhere,
                    &mut written,
                    0,
                    nothing,
                    length,
                ))?;
            }
            if told.aad_size > 0 {
                let aad = part(&told.aad[..told.aad_size], true);
                good((ours.update)(
                    self.at_ours,
                    nowhere,
                    &mut written,
                    0,
                    aad.0,
                    aad.1,
                ))?;
            }
            Some(())
        }
    }

    /// Whose the next piece is.
    unsafe fn decide(&mut self, out: *mut u8, data: *const u8, length: usize) {
        // SAFETY: of the host.
        unsafe {
            if out.is_null() {
                if data.is_null() {
                    self.told.length = (self.way == Way::Message).then_some(length);
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
            if length >= self.from && !data.is_null() && !self.stays && self.told.key_size > 0 {
                self.taken = self.take_over();
                self.stays |= !self.taken;
            }
            self.spend();
        }
    }

    /// The message has begun: its tag and IV are spent. The next one has others, or begins with what is left of
    /// this one.
    fn spend(&mut self) {
        self.free = false;
        self.told.tag_given = false;
        if !self.chained {
            self.told.iv_size = 0;
        }
    }
}

unsafe extern "C" fn encrypt_init(
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

unsafe extern "C" fn decrypt_init(
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

unsafe extern "C" fn cipher_update(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Crypting>(context);
        if context.free {
            context.decide(out, data, length);
        }
        if context.taken {
            ((*context.ours).update)(context.at_ours, out, written, room, data, length)
        } else {
            ((*context.theirs).update)(context.at_theirs, out, written, room, data, length)
        }
    }
}

unsafe extern "C" fn cipher_once(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Crypting>(context);
        if context.free {
            context.decide(out, data, length);
        }
        let (side, at) = if context.taken {
            (&*context.ours, context.at_ours)
        } else {
            (&*context.theirs, context.at_theirs)
        };
        side.once
            .map_or(0, |once| once(at, out, written, room, data, length))
    }
}

unsafe extern "C" fn cipher_final(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Crypting>(context);
        context.spend();
        if context.taken {
            ((*context.ours).finish)(context.at_ours, out, written, room)
        } else {
            ((*context.theirs).finish)(context.at_theirs, out, written, room)
        }
    }
}

unsafe extern "C" fn cipher_set_params(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Crypting>(context);
        context.hear(Given::new(params));
        // Theirs hears all: the next message may be its own, and its tag may come before its IV.
        let done = ((*context.theirs).set_params)(context.at_theirs, params);
        if done != 1 || !context.taken {
            return done;
        }
        ((*context.ours).set_params)(context.at_ours, params)
    }
}

unsafe extern "C" fn cipher_get_params(context: *mut c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Crypting>(context);
        if context.taken {
            return ((*context.ours).get_params)(context.at_ours, params);
        }
        // Whoever has an address may write there (EVP_CIPHER_CTX_iv_noconst()), and ours would not hear of it.
        let mut asked = Given::new(params).iter();
        context.stays |= asked.any(|value| value.by_address());
        ((*context.theirs).get_params)(context.at_theirs, params)
    }
}

#[cfg(test)]
mod tests;
