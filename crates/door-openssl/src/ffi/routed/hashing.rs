//! Digests that are routed.

use super::*;
use crate::ffi::params::Given;
use crate::ffi::{Tables, held, numbered};

type Update = unsafe extern "C" fn(*mut c_void, *const u8, usize) -> c_int;

/// One side of a digest.
pub struct Digest {
    life: Life,
    init: SetParams,
    update: Update,
    finish: Final,
    squeeze: Option<Final>,
    set_params: Option<SetParams>,
    get_params: Option<GetParams>,
}

impl Side for Digest {
    #[allow(private_interfaces, reason = "of use here alone")]
    fn life(&self) -> &Life {
        &self.life
    }
}

impl Digest {
    /// The functions of an implementation.
    pub fn of(implementation: &Implementation) -> Result<Digest> {
        // SAFETY: the numbers say the types.
        unsafe {
            Ok(Digest {
                life: Life {
                    provctx: implementation.provctx(),
                    new: implementation.function(digest::NEWCTX)?,
                    dup: implementation.function(digest::DUPCTX)?,
                    free: implementation.function(digest::FREECTX)?,
                },
                init: implementation.function(digest::INIT)?,
                update: implementation.function(digest::UPDATE)?,
                finish: implementation.function(digest::FINAL)?,
                squeeze: implementation.function(digest::SQUEEZE).ok(),
                set_params: implementation.function(digest::SET_CTX_PARAMS).ok(),
                get_params: implementation.function(digest::GET_CTX_PARAMS).ok(),
            })
        }
    }
}

/// Their functions, by place.
pub fn functions(place: usize) -> &'static [OSSL_DISPATCH] {
    static ALL: Tables = Tables::new();
    let f = OSSL_DISPATCH::new;
    ALL.get(place, crate::digest::variants().len(), |place| {
        // What it is and what may be set is said as ever.
        let ours = crate::ffi::digest::functions(place).iter();
        let routed = ours.filter_map(|one| {
            Some(match one.function_id {
                0 | digest::DIGEST => return None,
                digest::NEWCTX => f(digest::NEWCTX, NEW_DIGEST[place]),
                digest::INIT => f(digest::INIT, digest_init as *const c_void),
                digest::UPDATE => f(digest::UPDATE, digest_update as *const c_void),
                digest::FINAL => f(digest::FINAL, digest_final as *const c_void),
                digest::SQUEEZE => f(digest::SQUEEZE, digest_squeeze as *const c_void),
                digest::FREECTX => f(digest::FREECTX, end::<Both<Digest>> as *const c_void),
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

numbered!(NEW_DIGEST, new_digest);

pub(super) unsafe extern "C" fn new_digest<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host; the route goes with the provider.
    unsafe {
        let route = of(provctx).digests.get(N).and_then(OnceLock::get);
        give(route.and_then(|route| Both::new(route)).map(Box::new))
    }
}

pub(super) unsafe extern "C" fn digest_dup(context: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    unsafe { give(held::<Both<Digest>>(context).copy().map(Box::new)) }
}

pub(super) unsafe extern "C" fn digest_init(
    context: *mut c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Both<Digest>>(context);
        context.taken = false;
        context.stays |= !Given::new(params).is_empty();
        context.free = !context.stays;
        (context.route().theirs.init)(context.at_theirs, params)
    }
}

pub(super) unsafe extern "C" fn digest_update(
    context: *mut c_void,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Both<Digest>>(context);
        if context.free && length > 0 {
            context.free = false;
            if length >= context.route().from {
                context.take(|ours, at| (ours.init)(at, std::ptr::null()) == 1);
            }
        }
        let (side, at) = context.now();
        (side.update)(at, data, length)
    }
}

pub(super) unsafe extern "C" fn digest_final(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let (side, at) = held::<Both<Digest>>(context).now();
        (side.finish)(at, out, written, room)
    }
}

pub(super) unsafe extern "C" fn digest_squeeze(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let (side, at) = held::<Both<Digest>>(context).now();
        // A host that knows how to squeeze has a provider that does.
        side.squeeze
            .map_or(0, |squeeze| squeeze(at, out, written, room))
    }
}

pub(super) unsafe extern "C" fn digest_set_params(
    context: *mut c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Both<Digest>>(context);
        if context.taken {
            let set = context.route().ours.set_params;
            if set.is_some_and(|set| set(context.at_ours, params) != 1) {
                return 0;
            }
        } else {
            context.free = false;
            context.stays |= !Given::new(params).is_empty();
        }
        let set = context.route().theirs.set_params;
        set.map_or(1, |set| set(context.at_theirs, params))
    }
}

pub(super) unsafe extern "C" fn digest_get_params(
    context: *mut c_void,
    params: *mut OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let (side, at) = held::<Both<Digest>>(context).now();
        side.get_params.map_or(1, |get| get(at, params))
    }
}
