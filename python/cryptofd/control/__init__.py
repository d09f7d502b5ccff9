"""What the kernel's cryptography is made of on this host, and which driver it prefers.

Reading needs no privilege. Which driver is hardware is judged in one place, the engine ``kernel``;
this is its list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from errno import ENOENT

from cryptofd import _core
from cryptofd.control import netlink
from cryptofd.errors import CryptoFDError

__all__ = ["Driver", "drivers", "instantiate", "prefer"]


@dataclass(frozen=True)
class Driver:
    """One implementation that the kernel has registered.

    ``algorithm``: what it computes. ``name``: its own name. ``module``: where it comes from,
    ``kernel`` if it is built in. ``priority``: the highest serves who asks for the algorithm.
    ``kind``: skcipher, shash, ahash, aead, rng and so on. ``hardware``: it works off the CPU.
    ``selftest``: it passed the kernel's own test. ``internal``: only other drivers may use it.
    Sizes are bytes, and 0 where there is none; ``digest_size`` is an AEAD's largest tag.
    """

    algorithm: str
    name: str
    module: str
    priority: int
    kind: str
    flags: int
    hardware: bool
    selftest: bool
    internal: bool
    block_size: int
    min_key_size: int
    max_key_size: int
    iv_size: int
    digest_size: int
    seed_size: int


def drivers() -> list[Driver]:
    """Every registered driver, by NETLINK_CRYPTO or from /proc/crypto where that is all there is.

    A template such as ``gcm(aes)`` is listed once somebody has asked for it.
    """
    return [Driver(**values) for values in json.loads(_core.drivers())]


def prefer(driver: str, priority: int | None = None) -> int:
    """Gives a driver a priority, by default one above all others of its algorithm; returns it.

    New sessions by the algorithm's name get the driver with the highest. Needs root (CAP_NET_ADMIN
    in the first user namespace): Refused (EPERM) otherwise. ENOENT where there is no such driver.
    """
    every = drivers()
    algorithm = next((d.algorithm for d in every if d.name == driver), None)
    if algorithm is None:
        raise CryptoFDError(
            ENOENT,
            f"no driver {driver!r}; cryptofd.control.drivers() lists those there are",
        )
    if priority is None:
        rivals = [d.priority for d in every if d.algorithm == algorithm and d.name != driver]
        priority = max(rivals, default=0) + 1
    netlink.set_priority(algorithm, driver, priority)
    return priority


def instantiate(name: str) -> None:
    """Makes the kernel build and register ``name``, as ``gcm(aes)`` or ``cbc(aes-generic)``. Root.

    Harmless where it is registered already.
    """
    netlink.instantiate(name)
