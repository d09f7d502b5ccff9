"""What can be done to keys: rights, usages, wrapping rules; a worker checks them again.

Design section 7; NCR's rules where they hold (KEY_WRAP, KEY_UNWRAP, KEY_DERIVE), its gaps closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cryptofd.broker import rules, terms
from cryptofd.broker.attributes import strange
from cryptofd.broker.audit import Audit
from cryptofd.broker.backend import Backend, from_base64, to_base64
from cryptofd.broker.kek import under
from cryptofd.broker.packets import Packet
from cryptofd.broker.policy import Policy, over, owner_of
from cryptofd.broker.refusal import invalid, refusal, refused
from cryptofd.broker.store import Store, Stored, canonical
from cryptofd.broker.who import Peer

_log = logging.getLogger("cryptofd.broker")

#: Keys of one answer to ListKeys, and about how many bytes: it stays below the cap of a message.
PAGE = 50
_PAGE_BYTES = 49152
_KEY_BYTES = 700
#: Bytes of a wrapped key, a blob, a public key.
_LARGEST = 65536
#: Public keys that are remembered to be right.
_PROVED = 4096
#: Versions of one key: the first byte of a sealed box.
_VERSIONS = 255
#: Seconds until which a key may live: the end of the year 9999.
_LATEST = 253402300799

#: What a worker adds to or completes of the attributes that it is given.
_WORKERS = frozenset({"bits", "fingerprint"})

#: What a wrapped key of our own brings along, authenticated.
_OF_BLOB = frozenset(
    {
        "algorithm",
        "bits",
        "usage",
        "type",
        "iv",
        "tag_size",
        "wrap_template",
        "derive_template",
        "uses",
        "expires",
    }
)

_FORMATS: Mapping[str, tuple[str, frozenset[str]]] = {
    "cryptofd": ("an AEAD or AES key-wrapping key", frozenset({"aead", "wrap"})),
    "kw": ("a key of kw(aes)", frozenset({"kw(aes)"})),
    "kwp": ("a key of kwp(aes)", frozenset({"kwp(aes)"})),
    "rsa-oaep": ("an RSA key", frozenset({"rsa"})),
}


@dataclass
class Caller:
    """A connection: who it is, and what it was narrowed to."""

    peer: Peer
    narrowed: frozenset[tuple[str, str]] | None = None


@dataclass
class Keys:
    """The keys of this broker."""

    store: Store
    policy: Policy
    audit: Audit
    backend: Backend
    #: Ends the sessions on a version of a key.
    end_sessions: Callable[[str], Awaitable[None]]
    now: Callable[[], float] = time.time
    #: By domain and id: rows of whose public key a worker of that domain said that it is the key's.
    _proved: dict[tuple[str, str], tuple[dict[str, Any], bytes, bytes]] = field(
        default_factory=dict
    )
    _making: Counter[str] = field(default_factory=Counter)

    # Finding

    def name(self, caller: Caller, reference: str) -> tuple[str, str]:
        """Owner and label of a reference."""
        text = reference.removeprefix("cryptofd:")
        owner, slash, label = text.rpartition("/")
        return (owner_of(owner) if slash else caller.peer.owner), rules.label(label)

    def find(
        self, caller: Caller, reference: str, right: str = "use", version: int | None = None
    ) -> Stored:
        """The key, if the caller has ``right`` on it. ENOKEY if it may not even know of it."""
        owner, label = self.name(caller, reference)
        rights = self.policy.rights(caller.peer, owner, label)
        stored = self.store.find(owner, label, version)
        hidden = caller.narrowed is not None and (owner, label) not in caller.narrowed
        if stored is None or hidden or not rights:
            which = "" if version is None else f" version {version}"
            raise refusal(
                errno.ENOKEY,
                f"there is no key cryptofd:{owner.removeprefix('uid:')}/{label}{which} "
                f"for {caller.peer}; cryptofd key list shows what is",
            )
        if caller.narrowed is not None and right != "use":
            raise refused(
                f"this connection was narrowed: {stored.name} may only be used through it"
            )
        self.policy.require(caller.peer, key=(owner, label), right=right)
        return stored

    def _own(self, caller: Caller, reference: str) -> tuple[str, str]:
        """Owner and label for a new key."""
        if caller.narrowed is not None:
            raise refused("this connection was narrowed to keys that are: it makes none")
        owner, label = self.name(caller, reference)
        self.policy.require(caller.peer, key=(owner, label), right="manage")
        return owner, label

    def check_time(self, stored: Stored) -> None:
        """EKEYEXPIRED for a key whose time is over."""
        expires = stored.attributes.get("expires")
        if expires is not None and self.now() >= expires:
            raise refusal(
                errno.EKEYEXPIRED,
                f"{stored.name} expired at {time.strftime('%F %T', time.gmtime(expires))} UTC; "
                "make a new one",
            )

    def may(self, stored: Stored, usage: str) -> None:
        """EPERM if the key does not do ``usage``, EKEYREVOKED if this version no longer does."""
        if usage not in stored.attributes["usage"]:
            raise refused(
                f"{stored.name} may not {usage}, but {', '.join(stored.attributes['usage'])}; "
                "usage is fixed when a key is made"
            )
        if not stored.current and usage not in rules.OLD_VERSION:
            raise refusal(
                errno.EKEYREVOKED,
                f"{stored.name} version {stored.version} is old: it may decrypt, verify and "
                "unwrap; leave the version out for the newest",
            )

    # Making

    async def generate(self, caller: Caller, **asked: Any) -> Stored:
        """A new key or pair."""
        return await self._make(caller, asked, origin="generated")

    async def import_key(self, caller: Caller, fd: int, **asked: Any) -> Stored:
        """A key whose bytes a worker reads from ``fd``."""
        return await self._make(caller, asked, origin="imported", fd=fd)

    async def _make(
        self, caller: Caller, asked: dict[str, Any], *, origin: str, fd: int | None = None
    ) -> Stored:
        owner, label = self._own(caller, asked["label"])
        algorithm = asked["algorithm"]
        made = self._repeated(owner, label, algorithm, asked.get("token"))
        if made is not None:
            return made
        attributes = self.attributes(
            owner,
            label,
            algorithm,
            bits=asked.get("bits"),
            usage=asked.get("usage"),
            origin=origin,
            exportable=asked["exportable"],
            wrappable=asked["wrappable"],
            expires=asked.get("expires"),
            uses=asked.get("uses"),
            tag_size=asked.get("tag_size"),
            wrap_template=asked.get("wrap_template"),
            derive_template=asked.get("derive_template"),
        )
        bits = None if origin == "imported" else attributes["bits"]
        self.policy.require(caller.peer, algorithm=algorithm, bits=bits)
        with self._room(caller, owner, label):
            op = "generate" if fd is None else "import"
            answer = await self.backend.ask(
                owner,
                op,
                () if fd is None else (fd,),
                token=_worker_token(owner, asked.get("token")),
                attributes=without_unknown(attributes),
            )
            # What is imported may be the public half alone.
            half = frozenset({"type"}) if fd is not None and attributes["type"] == "pair" else ()
            stored = made_by_worker(answer, attributes, asked.get("token"), frozenset(half))
            # An imported key has the size that it has: judged when it is known.
            self.policy.require(caller.peer, algorithm=algorithm, bits=stored.attributes["bits"])
            return self._keep(caller, op, stored)

    def attributes(
        self,
        owner: str,
        label: str,
        algorithm: str,
        *,
        bits: int | None,
        usage: Iterable[str] | None,
        origin: str,
        exportable: bool = False,
        wrappable: bool = False,
        expires: int | None = None,
        uses: int | None = None,
        tag_size: int | None = None,
        wrap_template: Any = None,
        derive_template: Any = None,
        lasting: str = "stored",
    ) -> dict[str, Any]:
        """The attributes of a new key, checked; a worker completes bits and fingerprint."""
        of = rules.family(algorithm)
        right = rules.usage_of(algorithm, usage)
        if expires is not None and not self.now() < expires <= _LATEST:
            raise invalid(f"{expires} is not a second between now and the year 9999")
        if uses is not None and not 0 < uses < 1 << 53:
            raise invalid("a use limit is 1 or more")
        if tag_size is not None and (of.kind != "aead" or tag_size not in of.tags):
            sizes = ", ".join(map(str, of.tags)) if of.kind == "aead" else "none"
            raise invalid(f"{algorithm} has no tag of {tag_size} bytes for a key; of {sizes}")
        return {
            "id": uuid.uuid4().hex,
            "label": label,
            "owner": owner,
            "algorithm": algorithm,
            "type": "pair" if of.pair else "secret",
            "bits": 0 if origin == "imported" and bits is None else rules.bits_of(algorithm, bits),
            "usage": list(right.usage),
            "exportable": exportable,
            "wrappable": wrappable,
            "trusted": False,
            "wrap_template": self._template(wrap_template, right.usage, "unwrap"),
            "derive_template": self._template(derive_template, right.usage, "derive"),
            "created": int(self.now()),
            "expires": expires,
            "uses": uses,
            "iv": right.iv,
            "tag_size": of.tag if tag_size is None else tag_size,
            "version": 1,
            "fingerprint": "",
            "origin": origin,
            "class": lasting,
        }

    def _template(self, given: Any, usage: Iterable[str], needs: str) -> dict[str, Any] | None:
        """A template, complete: algorithm, bits and usage of what comes out of the key."""
        if given is None:
            return None
        if needs not in usage:
            raise invalid(f"a template is for keys that {needs}")
        right = rules.usage_of(given.algorithm, given.usage or None)
        bits = rules.bits_of(given.algorithm, given.bits)
        if needs == "derive" and bits < rules.DERIVED_BITS:
            raise invalid(f"a derived key has at least {rules.DERIVED_BITS} bits")
        return {"algorithm": given.algorithm, "bits": bits, "usage": list(right.usage)}

    async def rotate(self, caller: Caller, reference: str, token: str | None) -> Stored:
        """A new version; the old one only decrypts, verifies and unwraps from now on."""
        old = self.find(caller, reference, "manage")
        made = self._repeated(old.owner, old.label, old.attributes["algorithm"], token)
        if made is not None:
            return made
        self.check_time(old)
        if old.version >= _VERSIONS:
            raise refusal(errno.EDQUOT, f"{old.name} has {_VERSIONS} versions; make a new key")
        algorithm = old.attributes["algorithm"]
        self.policy.require(caller.peer, algorithm=algorithm, bits=old.attributes["bits"])
        attributes = {
            **old.attributes,
            "id": uuid.uuid4().hex,
            "version": old.version + 1,
            "created": int(self.now()),
            "origin": "generated",
            "fingerprint": "",
            # Trust was given to a key, not to a name.
            "trusted": False,
        }
        with self._room(caller, old.owner, None):
            answer = await self.backend.ask(
                old.owner,
                "generate",
                token=_worker_token(old.owner, token),
                attributes=without_unknown(attributes),
            )
            stored = made_by_worker(answer, attributes, token)
            if self.store.find(old.owner, old.label) is not self.store.get(old.id):
                raise refusal(errno.EAGAIN, f"{old.name} was changed meanwhile; try again")
            return self._keep(caller, "rotate", stored, replaces=old)

    async def unwrap(
        self,
        caller: Caller,
        *,
        label: str,
        wrapped: str,
        by: str,
        format: str,
        algorithm: str | None,
        usage: list[str] | None,
        token: str | None,
    ) -> Stored:
        """Keep a key that came wrapped. Never exportable, never trusted."""
        owner, label = self._own(caller, label)
        data = from_base64(wrapped, "the wrapped key", _LARGEST)
        kek = self.find(caller, by, "use")
        self._wraps(kek, format, "unwrap")
        made = self._repeated(owner, label, algorithm, token)
        if made is not None:
            return made
        template = kek.attributes.get("wrap_template")
        if format == "cryptofd":
            # The blob says what it is; what the caller names must be what it says.
            named = algorithm or (template or {}).get("algorithm") or kek.attributes["algorithm"]
            bits = None
        else:
            if template is None:
                raise refused(
                    f"{kek.name} has no wrap template: what {format} brings has no attributes of "
                    "its own; give the template when the unwrapping key is made"
                )
            named, bits = template["algorithm"], template["bits"]
        if template is not None:
            if algorithm is not None and algorithm != template["algorithm"]:
                raise refused(
                    f"{kek.name} unwraps keys of {template['algorithm']} only, not of {algorithm}"
                )
            _narrower(usage, template["usage"], kek.name)
            usage = template["usage"] if usage is None else usage
        attributes = self.attributes(
            owner,
            label,
            named,
            bits=bits,
            # Of what algorithm it is, the blob says: the worker checks the usage against that.
            usage=None if named != algorithm and template is None else usage,
            origin="unwrapped",
            wrappable=True,
        )
        # What is left out, the worker takes from the blob or from the template.
        free = frozenset({"created", "wrappable"})
        asked = without_unknown(attributes, "type", "iv", "tag_size")
        if format == "cryptofd":
            free |= _OF_BLOB
            asked = without_unknown(asked, *_OF_BLOB)
            named_too = {
                "algorithm": algorithm,
                "usage": None if usage is None else sorted(set(usage)),
            }
            asked |= {name: value for name, value in named_too.items() if value is not None}
        with self._room(caller, owner, label):
            self._spend(kek)
            answer = await self.backend.ask(
                self.policy.domain(caller.peer),
                "unwrap",
                token=_worker_token(owner, token),
                attributes=asked,
                wrapped=to_base64(data),
                by=_material(kek),
                format=format,
            )
            stored = made_by_worker(answer, attributes, token, free=free)
            self._as_unwrapped(stored, algorithm, usage, kek)
            self.policy.require(
                caller.peer,
                algorithm=stored.attributes["algorithm"],
                bits=stored.attributes["bits"],
            )
            return self._keep(caller, "unwrap", stored, by=kek.name)

    def _as_unwrapped(
        self, stored: Stored, algorithm: str | None, usage: list[str] | None, kek: Stored
    ) -> None:
        got = stored.attributes
        if algorithm is not None and got["algorithm"] != algorithm:
            raise refusal(
                errno.EBADMSG, f"the wrapped key is of {got['algorithm']}, not of {algorithm}"
            )
        rules.usage_of(got["algorithm"], got["usage"])
        if usage is not None and not set(got["usage"]) <= set(usage):
            raise refusal(errno.EIO, "the worker widened the usage of an unwrapped key")
        if rules.strength(got["algorithm"], got["bits"]) > _strength(kek):
            raise refused(f"{kek.name} is weaker than what it unwraps")

    async def derive(
        self,
        caller: Caller,
        *,
        label: str,
        base: str,
        how: str,
        algorithm: str | None,
        bits: int | None,
        usage: list[str] | None,
        peer: str | None,
        salt: str | None,
        info: str | None,
        exportable: bool,
        token: str | None,
    ) -> Stored:
        """A key out of another, as the other's template says."""
        owner, label = self._own(caller, label)
        source = self.find(caller, base, "use")
        self.may(source, "derive")
        self.check_time(source)
        _how(source, how, peer)
        template = source.attributes.get("derive_template")
        if template is None:
            raise refused(
                f"{source.name} has no derive template: what comes out of it must be fixed "
                "when it is made"
            )
        if algorithm is not None and algorithm != template["algorithm"]:
            raise refused(
                f"{source.name} derives keys of {template['algorithm']} only, not of {algorithm}"
            )
        if bits is not None and bits != template["bits"]:
            # A shorter one would be a part of the longer: easier to search, and it gives it away.
            raise refused(f"{source.name} derives keys of {template['bits']} bits only, not {bits}")
        _narrower(usage, template["usage"], source.name)
        if exportable and not source.attributes["exportable"]:
            raise refused(f"{source.name} is not exportable: neither is what is derived from it")
        if exportable:
            # Its bytes leave: who may only use the base gets keys out of it, and no bytes.
            self.find(caller, base, "manage")
        made = self._repeated(owner, label, template["algorithm"], token)
        if made is not None:
            return made
        attributes = self.attributes(
            owner,
            label,
            template["algorithm"],
            bits=template["bits"],
            usage=template["usage"] if usage is None else usage,
            origin="derived",
            exportable=exportable,
            wrappable=bool(source.attributes["wrappable"]),
            expires=source.attributes["expires"],
        )
        self.policy.require(caller.peer, algorithm=template["algorithm"], bits=template["bits"])
        more: dict[str, Any] = {
            name: to_base64(from_base64(value, name, _LARGEST))
            for name, value in (("peer", peer), ("salt", salt), ("info", info))
            if value is not None
        }
        with self._room(caller, owner, label):
            self._spend(source)
            answer = await self.backend.ask(
                self.policy.domain(caller.peer),
                "derive",
                token=_worker_token(owner, token),
                attributes=without_unknown(attributes),
                base=_material(source),
                how=how,
                bits=template["bits"],
                **more,
            )
            return self._keep(
                caller, "derive", made_by_worker(answer, attributes, token), by=source.name
            )

    # Taking out

    async def export(self, caller: Caller, reference: str, version: int | None) -> int:
        """The reading end of a pipe with the key; the bytes come from a worker."""
        stored = self.find(caller, reference, "manage", version)
        if not stored.attributes["exportable"]:
            raise refused(
                f"{stored.name} is not exportable; wrap it, or make an exportable key at first"
            )
        self.check_time(stored)
        self._log(caller, "export", stored)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            await self.backend.ask(
                self.policy.domain(caller.peer), "export", (writing,), **_material(stored)
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return reading

    async def wrap(self, caller: Caller, reference: str, by: str, format: str) -> bytes:
        """A key under another one."""
        stored = self.find(caller, reference, "manage")
        kek = self.find(caller, by, "use")
        self._wraps(kek, format, "wrap")
        self.check_time(stored)
        if not stored.attributes["wrappable"]:
            raise refused(f"{stored.name} is not wrappable; that is said when a key is made")
        if stored.attributes["uses"] is not None:
            raise refused(f"{stored.name} has a use limit: a copy of it would count anew")
        if stored.id == kek.id:
            raise refused(f"{kek.name} cannot wrap itself")
        if not stored.attributes["exportable"] and not kek.attributes["trusted"]:
            raise refused(
                f"{stored.name} is not exportable, and {kek.name} is not trusted: whoever knows "
                "the wrapping key would have it; an administrator may trust it (cryptofd key trust)"
            )
        if _strength(kek) < _strength(stored):
            raise refused(
                f"{kek.name} has {_strength(kek)} bits of security, {stored.name} "
                f"{_strength(stored)}: never a weaker key over a stronger one"
            )
        if format != "cryptofd" and not stored.attributes["exportable"]:
            _keeps_attributes(stored, kek)
        if format in ("kw", "rsa-oaep") and stored.attributes["type"] != "secret":
            raise invalid(f"{format} wraps secret keys only; kwp and cryptofd wrap pairs too")
        self._spend(kek)
        self._log(caller, "wrap", stored, by=kek.name)
        answer = await self.backend.ask(
            self.policy.domain(caller.peer),
            "wrap",
            key=_material(stored),
            by=_material(kek),
            format=format,
        )
        return _bytes(answer, "wrapped")

    def _wraps(self, kek: Stored, format: str, usage: str) -> None:
        if format not in _FORMATS:
            raise invalid(
                f"no wrapping format is called {format[:64]!r}; {', '.join(_FORMATS)} are"
            )
        self.may(kek, usage)
        self.check_time(kek)
        needs, kinds = _FORMATS[format]
        algorithm = kek.attributes["algorithm"]
        if algorithm not in kinds and rules.family(algorithm).kind not in kinds:
            raise invalid(f"{format} needs {needs}; {kek.name} is of {algorithm}")

    # Changing

    async def delete(self, caller: Caller, reference: str, version: int | None) -> None:
        """Delete a key with all its versions, or one of them; sessions on them end."""
        found = self.find(caller, reference, "manage", version)
        gone = [found] if version is not None else self.store.versions(found.owner, found.label)
        self._log(caller, "delete", found, versions=[one.version for one in gone])
        self.store.delete(*gone)
        for one in gone:
            await self.end_sessions(one.id)

    async def trust(self, caller: Caller, reference: str, trusted: bool) -> Stored:
        """Let a key wrap what is not exportable, or no longer."""
        stored = self.find(caller, reference, "use")
        if caller.narrowed is not None or not self.policy.admin(caller.peer):
            raise refused(f"only an administrator trusts keys; {caller.peer} is none")
        if trusted and not rules.WRAPPING & set(stored.attributes["usage"]):
            raise invalid(f"{stored.name} wraps nothing: there is nothing to trust it with")
        if trusted and stored.attributes["exportable"]:
            raise refused(
                f"{stored.name} is exportable: whoever exported it could read all that it wraps"
            )
        (changed,) = await self._rewrapped(caller, "trust", [stored], trusted=trusted)
        return changed

    async def change(
        self, caller: Caller, reference: str, label: str | None, expires: int | None
    ) -> Stored:
        """Another label, or an earlier end."""
        stored = self.find(caller, reference, "manage")
        new: dict[str, Any] = {}
        which = [stored]
        if label is not None:
            owner, text = self._own(caller, label)
            if owner != stored.owner:
                raise refused(f"{stored.name} does not change its owner")
            if text != stored.label:
                if self.store.find(owner, text) is not None:
                    raise _taken(owner, text)
                new["label"] = text
                which = self.store.versions(stored.owner, stored.label)
        if expires is not None:
            before = stored.attributes["expires"]
            if before is not None and expires > before:
                raise refused(f"{stored.name} may only end earlier than it does; rotate it instead")
            if not 0 <= expires <= _LATEST:
                raise invalid(f"{expires} is no second before the year 9999")
            new["expires"] = expires
            which = self.store.versions(stored.owner, stored.label)
        if not new:
            return stored
        changed = await self._rewrapped(caller, "change", which, **new)
        if "expires" in new and new["expires"] <= self.now():
            for one in changed:
                await self.end_sessions(one.id)
        return changed[0]

    async def _rewrapped(
        self, caller: Caller, event: str, which: list[Stored], **new: Any
    ) -> list[Stored]:
        changes = []
        for one in which:
            attributes = {**one.attributes, **new}
            if "expires" in new and one.attributes["expires"] is not None:
                attributes["expires"] = min(new["expires"], one.attributes["expires"])
            answer = await self.backend.ask(
                one.owner, "rewrap", **_material(one), new_attributes=attributes
            )
            changes.append((one, replace(one, attributes=attributes, blob=_bytes(answer, "blob"))))
        for one, new_one in changes:
            present = self.store.get(one.id)
            if present is None or present.attributes != one.attributes:
                raise refusal(errno.EAGAIN, f"{one.name} was changed meanwhile; try again")
            if new_one.label != one.label and self.store.find(new_one.owner, new_one.label):
                raise _taken(new_one.owner, new_one.label)
        # What was spent while we waited stays spent.
        changes = [
            (present, replace(new_one, spent=present.spent, current=present.current))
            for one, new_one in changes
            if (present := self.store.get(one.id)) is not None
        ]
        self._log(caller, event, which[0], **new)
        self.store.change(*changes)
        found = [self.store.get(one.id) for one in which]
        return [one for one in found if one is not None]

    async def rewrap_all(self, newest: int) -> int:
        """Bring every blob under the newest key-encryption key; how many were under another.

        Each row is one transaction: whoever dies between two goes on here.
        """
        count = 0
        failed: dict[str, OSError] = {}
        for one in list(self.store):
            if under(one.blob) == newest or one.owner in failed:
                continue
            try:
                answer = await self.backend.ask(one.owner, "rewrap", **_material(one))
                blob = _bytes(answer, "blob")
                if under(blob) != newest:
                    raise refusal(errno.EIO, f"the worker did not rewrap {one.name}")
            except OSError as error:
                # One domain's worker does not keep others under an old key.
                _log.error("bringing %s under the newest key: %s", one.name, error.strerror)
                failed[one.owner] = error
                continue
            present = self.store.get(one.id)
            if present is not None and present.blob == one.blob:
                self.store.change((present, replace(present, blob=blob)))
                count += 1
            await asyncio.sleep(0)
        if failed:
            raise next(iter(failed.values()))
        return count

    # Telling

    async def info(self, caller: Caller, reference: str, version: int | None) -> terms.Key:
        """What may be told of a key. EBADMSG if its public key is not the key's."""
        stored = self.find(caller, reference, "use", version)
        await self._prove(caller, stored)
        return self.describe(stored)

    async def listed(self, caller: Caller, all_of_them: bool, after: str | None) -> list[terms.Key]:
        """Keys that the caller may use, in order of their ids. One whose public key is not the
        key's, or cannot be proved to be, is listed without it."""
        found: list[terms.Key] = []
        for one in self._listed(caller, all_of_them, after):
            try:
                await self._prove(caller, one)
            except OSError as error:
                _log.error("%s", error.strerror)
                found.append(self.describe(replace(one, public=None)))
            else:
                found.append(self.describe(one))
        return found

    async def _prove(self, caller: Caller, one: Stored) -> None:
        """EBADMSG unless the public key that is kept beside a pair is the pair's.

        Whoever can write the store could put his own there, for others to encrypt to. The worker
        authenticates the attributes and says what the pair's public key is; its domain is the
        caller's, so that nobody is told what another domain's worker made up.
        """
        if one.public is None:
            return
        domain = self.policy.domain(caller.peer)
        row = (one.attributes, one.blob, one.public)
        if self._proved.get((domain, one.id)) == row:
            return
        forged = refusal(
            errno.EBADMSG,
            f"the public key that the store has for {one.name} version {one.version} is not that "
            "key's: the store was changed; restore it from a backup",
        )
        if hashlib.sha256(one.public).hexdigest() != one.attributes["fingerprint"]:
            raise forged
        answer = await self.backend.ask(domain, "public", **_material(one))
        if _bytes(answer, "public") != one.public:
            raise forged
        if len(self._proved) >= _PROVED:
            self._proved.clear()
        self._proved[(domain, one.id)] = row

    def _listed(self, caller: Caller, all_of_them: bool, after: str | None) -> list[Stored]:
        found: list[Stored] = []
        size = 0
        for one in self.store:
            if after is not None and one.id <= after:
                continue
            if not all_of_them and one.owner != caller.peer.owner and caller.narrowed is None:
                continue
            if caller.narrowed is not None and (one.owner, one.label) not in caller.narrowed:
                continue
            if not self.policy.rights(caller.peer, one.owner, one.label):
                continue
            size += _KEY_BYTES + 4 * len(one.public or b"") // 3
            if found and size > _PAGE_BYTES:
                break
            found.append(one)
            if len(found) >= PAGE:
                break
        return found

    def describe(self, one: Stored) -> terms.Key:
        """As the interface tells it."""
        got = one.attributes
        return terms.Key(
            id=one.id,
            label=one.label,
            owner=one.owner,
            algorithm=got["algorithm"],
            type=got["type"],
            bits=got["bits"],
            usage=list(got["usage"]),
            exportable=got["exportable"],
            wrappable=got["wrappable"],
            trusted=got["trusted"],
            created=got["created"],
            expires=got["expires"],
            uses=got["uses"],
            uses_left=None if got["uses"] is None else max(0, got["uses"] - one.spent),
            iv=got["iv"],
            tag_size=got["tag_size"],
            version=one.version,
            current=one.current,
            fingerprint=got["fingerprint"],
            origin=got["origin"],
            wrap_template=_told(got["wrap_template"]),
            derive_template=_told(got["derive_template"]),
            public=None if one.public is None else to_base64(one.public),
        )

    # Inside

    def _repeated(
        self, owner: str, label: str, algorithm: str | None, token: str | None
    ) -> Stored | None:
        """What the same call made before."""
        if token is None:
            return None
        if not 8 <= len(token) <= 64 or not token.isascii() or not token.isprintable():
            raise invalid("a token is 8 to 64 printable characters")
        made = self.store.made_by(owner, token)
        if made is None:
            return None
        if made.label != label or algorithm not in (None, made.attributes["algorithm"]):
            raise invalid(f"the token made another key: {made.name}")
        return made

    @contextlib.contextmanager
    def _room(self, caller: Caller, owner: str, label: str | None) -> Any:
        """Within the policy's number of keys while one is made, and the label free."""
        if label is not None and self.store.find(owner, label) is not None:
            raise _taken(owner, label)
        limit = self.policy.numbers(caller.peer).keys_max
        if self.store.count(owner) + self._making[owner] >= limit:
            raise over("keys", limit, "delete some (cryptofd key delete)")
        self._making[owner] += 1
        try:
            yield
        finally:
            self._making[owner] -= 1
            if not self._making[owner]:
                del self._making[owner]

    def _spend(self, stored: Stored) -> None:
        """One use of a key that counts them, before it is used."""
        if stored.attributes["uses"] is not None and not self.store.lease(stored.id, 1):
            raise spent(stored)

    def _keep(
        self,
        caller: Caller,
        event: str,
        stored: Stored,
        *,
        replaces: Stored | None = None,
        **more: Any,
    ) -> Stored:
        self._log(caller, event, stored, **more)
        return self.store.add(stored, replaces=replaces)

    def _log(self, caller: Caller, event: str, stored: Stored, **more: Any) -> None:
        self.audit.write(
            event,
            uid=caller.peer.uid,
            pid=caller.peer.pid,
            key=stored.name,
            id=stored.id,
            version=stored.version,
            algorithm=stored.attributes["algorithm"],
            **more,
        )


def spent(stored: Stored) -> OSError:
    """EDQUOT: no use is left."""
    return refusal(
        errno.EDQUOT,
        f"{stored.name} allowed {stored.attributes['uses']} uses and all are spent; rotate it",
    )


def _taken(owner: str, label: str) -> OSError:
    return refusal(
        errno.EEXIST,
        f"cryptofd:{owner.removeprefix('uid:')}/{label} exists; "
        "choose another label, delete or rotate it",
    )


def _told(template: Mapping[str, Any] | None) -> terms.Template | None:
    if template is None:
        return None
    return terms.Template(template["algorithm"], template["bits"], list(template["usage"]))


def _strength(stored: Stored) -> int:
    return rules.strength(stored.attributes["algorithm"], stored.attributes["bits"])


def _narrower(asked: Iterable[str] | None, allowed: Iterable[str], name: str) -> None:
    if asked is not None and (beyond := set(asked) - set(allowed)):
        raise refused(
            f"the template of {name} does not give {', '.join(sorted(beyond))}, "
            f"but {', '.join(sorted(allowed))}"
        )


def _keeps_attributes(stored: Stored, kek: Stored) -> None:
    """EPERM if a format without attributes would bring back more than what went in."""
    if stored.attributes["expires"] is not None:
        raise refused(
            f"{stored.name} has an end, which only the format cryptofd brings along with a key"
        )
    template = kek.attributes["wrap_template"]
    if template is None:
        return
    same = template["algorithm"] == stored.attributes["algorithm"]
    if not same or not set(template["usage"]) <= set(stored.attributes["usage"]):
        raise refused(
            f"by the template of {kek.name} {stored.name} would come back as a key of "
            f"{template['algorithm']} that may {', '.join(template['usage'])}, which it is not; "
            "the format cryptofd keeps attributes"
        )


def _how(base: Stored, how: str, peer: str | None) -> None:
    """EINVAL if a key of this algorithm cannot be derived from so."""
    algorithm = base.attributes["algorithm"]
    fits = {"ecdh": algorithm.startswith("ecdh-"), "x25519": algorithm == "x25519"}.get(
        how, how == algorithm and rules.family(how).kind == "kdf" if "(" in how else False
    )
    if not fits:
        raise invalid(f"{base.name} is of {algorithm}: {how[:64]!r} does not derive from it")
    if (how in ("ecdh", "x25519")) != (peer is not None):
        raise invalid("ecdh and x25519 need the peer's public key (DER); a KDF takes none")


def _worker_token(owner: str, token: str | None) -> str:
    """Stable for a client's token, and nobody else's."""
    if token is None:
        return uuid.uuid4().hex
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{owner} {token}").hex


def _material(stored: Stored) -> dict[str, Any]:
    return {"attributes": stored.attributes, "blob": to_base64(stored.blob)}


def without_unknown(attributes: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """Attributes for a worker, without those that it completes."""
    asked = {name: value for name, value in attributes.items() if name not in without}
    for name in _WORKERS:
        if not asked.get(name):
            asked.pop(name, None)
    return asked


def _bytes(answer: Packet, name: str) -> bytes:
    try:
        data = from_base64(answer.text(name), name, _LARGEST)
    except OSError:
        raise refusal(errno.EIO, f"the worker's {name!r} is no base64") from None
    if not data:
        raise refusal(errno.EIO, f"the worker's {name!r} is empty")
    return data


def made_by_worker(
    answer: Packet, asked: dict[str, Any], token: str | None, free: frozenset[str] = frozenset()
) -> Stored:
    """What a worker made, if it is what was asked for."""
    got = answer.object("attributes")
    if set(got) != set(asked):
        raise refusal(errno.EIO, "the worker changed which attributes there are")
    if (name := strange(got)) is not None:
        raise refusal(errno.EIO, f"the worker's attribute {name[:64]!r} is none")
    for name, value in asked.items():
        # As it is written: to Python 1 is True.
        if name not in _WORKERS | free and canonical({"": got[name]}) != canonical({"": value}):
            raise refusal(errno.EIO, f"the worker changed the attribute {name!r}")
    if asked["bits"] and "bits" not in free and got["bits"] != asked["bits"]:
        raise refusal(errno.EIO, "the worker made a key of another size")
    public = None
    if answer.fields.get("public") is not None:
        public = _bytes(answer, "public")
    of = rules.family(got["algorithm"])
    if (got["type"] != "secret") != of.pair:
        raise refusal(errno.EIO, f"the worker's key of {of.name} is a {got['type']}")
    if not of.pair and of.bits is not None and got["bits"] not in of.bits:
        raise refusal(errno.EIO, f"the worker's key of {of.name} has {got['bits']} bits")
    if (got["type"] == "secret") != (public is None):
        raise refusal(errno.EIO, "the worker made a pair without its public key")
    if public is not None and hashlib.sha256(public).hexdigest() != got["fingerprint"]:
        raise refusal(errno.EIO, "the worker's public key is not of its fingerprint")
    return Stored(got["id"], got, _bytes(answer, "blob"), public, token=token)
