"""A module that cannot be imported: its selection must say so."""

import no_such_module  # type: ignore[import-not-found]

__all__ = ["no_such_module"]
