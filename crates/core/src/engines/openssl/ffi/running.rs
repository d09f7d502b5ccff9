//! What hashes and MACs have in common: a running state in a context, and contexts that serve again.

use crate::engine::{Digest, Hashing};
use crate::engines::openssl::pool::Pool;
use crate::error::{Error, Result};
use crate::sys::buffer::Input;
use std::sync::Arc;

/// One kind of context: EVP_MD's or EVP_MAC's.
pub(super) trait Running: Send + Sync + 'static {
    /// An owned context, freed when it is dropped.
    type Context: Send + Sync;

    /// Whether the context of a running state serves again after it. Not where OpenSSL would leave a
    /// key behind: a copied HMAC that is given its key again does.
    const AGAIN: bool;

    /// A context at the (keyed) beginning.
    fn fresh(&self) -> Result<Self::Context>;

    /// Back to the (keyed) beginning.
    fn begin(&self, context: &mut Self::Context) -> Result<()>;

    /// Takes more input.
    fn update(&self, context: &mut Self::Context, data: Input<'_>) -> Result<()>;

    /// The digest. What follows is begin() or the end.
    fn finish(&self, context: &mut Self::Context, out: &mut [u8]) -> Result<()>;

    /// An independent copy; `pool` may have a context for it.
    fn copy(&self, context: &Self::Context, pool: &Pool<Self::Context>) -> Result<Self::Context>;
}

struct Shared<R: Running> {
    how: R,
    /// Contexts that have forgotten what they took: at the beginning, all of them.
    pool: Pool<R::Context>,
}

impl<R: Running> Shared<R> {
    fn take(&self) -> Result<R::Context> {
        self.pool.take(|| self.how.fresh())
    }

    /// Keeps a context for the next; one that cannot begin again is dropped.
    fn give(&self, mut context: R::Context) {
        if self.how.begin(&mut context).is_ok() {
            self.pool.give(context);
        }
    }
}

/// A hash or MAC that is ready to begin.
pub(super) struct Ready<R: Running>(Arc<Shared<R>>);

impl<R: Running> Ready<R> {
    /// Makes a first context, so what OpenSSL refuses is known now.
    pub fn new(how: R) -> Result<Ready<R>> {
        let shared = Shared {
            how,
            pool: Pool::new(),
        };
        let first = shared.how.fresh()?;
        shared.pool.give(first);
        Ok(Ready(Arc::new(shared)))
    }
}

impl<R: Running> Hashing for Ready<R> {
    fn begin(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(State {
            context: Some(self.0.take()?),
            shared: self.0.clone(),
        }))
    }

    fn once(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        let shared = &*self.0;
        let mut context = shared.take()?;
        shared.how.update(&mut context, data)?;
        shared.how.finish(&mut context, out)?;
        shared.give(context);
        Ok(())
    }
}

struct State<R: Running> {
    /// None only while it is dropped.
    context: Option<R::Context>,
    shared: Arc<Shared<R>>,
}

impl<R: Running> State<R> {
    fn parts(&mut self) -> Result<(&R, &mut R::Context)> {
        let context = self.context.as_mut().ok_or_else(Error::closed)?;
        Ok((&self.shared.how, context))
    }
}

impl<R: Running> Digest for State<R> {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        let (how, context) = self.parts()?;
        how.update(context, data)
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        let (how, context) = self.parts()?;
        how.finish(context, out)
    }

    fn fork(&self) -> Result<Box<dyn Digest>> {
        let shared = &self.shared;
        let context = self.context.as_ref().ok_or_else(Error::closed)?;
        Ok(Box::new(State {
            context: Some(shared.how.copy(context, &shared.pool)?),
            shared: shared.clone(),
        }))
    }

    fn reset(&mut self) -> Result<()> {
        let (how, context) = self.parts()?;
        how.begin(context)
    }
}

impl<R: Running> Drop for State<R> {
    fn drop(&mut self) {
        if let Some(context) = self.context.take().filter(|_| R::AGAIN) {
            self.shared.give(context);
        }
    }
}
