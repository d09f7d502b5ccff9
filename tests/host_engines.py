"""The engines of this host, and what each offers."""

from __future__ import annotations

import functools

import cryptofd


@functools.cache
def available() -> tuple[str, ...]:
    """The engines that are there."""
    return tuple(engine.name for engine in cryptofd.engines() if engine.available)


@functools.cache
def refusal(engine: str, algorithm: str) -> str | None:
    """Why ``engine`` does not offer ``algorithm``; None if it does."""
    for candidate in cryptofd.explain(algorithm, engine=engine):
        if candidate.engine == engine:
            return None if candidate.offers else candidate.why
    raise AssertionError(f"explain() does not speak of {engine}")
