"""The broker's keys: made, brought, listed, wrapped, rotated and deleted; never shown.

LABEL is a key of yours, OWNER/LABEL one that OWNER shares. Programs use it as cryptofd:LABEL.
"""

from __future__ import annotations

import argparse
import datetime
from typing import TYPE_CHECKING, Any

from cryptofd.cli.options import add_json, hexadecimal
from cryptofd.cli.output import plain, print_json, print_table

if TYPE_CHECKING:
    from cryptofd.broker.client import Connection, Key

COLUMNS = ("label", "owner", "algorithm", "bits", "version", "usage", "may", "expires", "uses left")


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, about: str, *, label: bool = True) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        if label:
            sub.add_argument("label", metavar="LABEL")
        return sub

    made = [verb("generate", "a fresh key, made where it stays"), verb("import", "a key you hold")]
    for sub in made:
        sub.add_argument("-a", "--algorithm", required=True, metavar="ALG")
        sub.add_argument("--usage", type=_words, metavar="WORD,…", help="default: the algorithm's")
        sub.add_argument("--exportable", action="store_true", help="its bytes may leave")
        sub.add_argument("--wrappable", action="store_true", help="it may leave wrapped")
        sub.add_argument("--expires", type=_moment, metavar="DATE|DAYSd", help="when it ends")
        sub.add_argument("--uses", type=int, metavar="N", help="most operations")
        sub.add_argument("--tag-size", type=int, metavar="BYTES", help="of an AEAD")
        sub.add_argument(
            "--derives", type=_template, metavar="ALG[:BITS[:USAGE,…]]", dest="derive_template",
            help="what may be derived from it",
        )  # fmt: skip
        sub.add_argument(
            "--unwraps", type=_template, metavar="ALG[:BITS[:USAGE,…]]", dest="wrap_template",
            help="what a key is that it unwraps",
        )  # fmt: skip
        add_json(sub)
    made[0].add_argument("--bits", type=int, metavar="N", help="default: the algorithm's best")
    made[1].add_argument(
        "--from", dest="source", required=True, metavar="KEY",
        help="file:PATH, env:NAME or fd:N; of a pair: PKCS#8 or SubjectPublicKeyInfo, DER or PEM",
    )  # fmt: skip
    export = verb("export", "the bytes of an exportable key, into a file that only you can read")
    export.add_argument("-o", "--output", required=True, metavar="FILE")
    export.add_argument("-f", "--force", action="store_true", help="replace what is there")
    wrap = verb("wrap", "a key, encrypted under another one")
    wrap.add_argument("-o", "--output", required=True, metavar="FILE")
    wrap.add_argument("-f", "--force", action="store_true", help="replace what is there")
    unwrap = verb("unwrap", "keep a wrapped key")
    unwrap.add_argument("file", metavar="FILE")
    unwrap.add_argument("-a", "--algorithm", metavar="ALG")
    unwrap.add_argument("--usage", type=_words, metavar="WORD,…")
    for sub in (wrap, unwrap):
        sub.add_argument("--by", required=True, metavar="LABEL", help="the wrapping key")
        sub.add_argument(
            "--format", default="cryptofd", choices=["cryptofd", "kw", "kwp", "rsa-oaep"]
        )
    derive = verb("derive", "a key from another one, or from yours and a peer's public key")
    derive.add_argument("--base", required=True, metavar="LABEL", help="the key to derive from")
    derive.add_argument("--how", metavar="ALG", help="default: the base's algorithm")
    derive.add_argument("--peer", metavar="FILE", help="the peer's public key, PEM or DER")
    derive.add_argument("--salt", type=hexadecimal, metavar="HEX")
    derive.add_argument("--info", metavar="TEXT", help="what the key is for")
    derive.add_argument("-a", "--algorithm", metavar="ALG", help="as the base's template has it")
    derive.add_argument("--bits", type=int, metavar="N")
    derive.add_argument("--usage", type=_words, metavar="WORD,…")
    derive.add_argument("--exportable", action="store_true", help="if the base is")
    add_json(derive)
    public = verb("public", "the public half of a pair (SubjectPublicKeyInfo)")
    public.add_argument("--der", action="store_true", help="DER, not PEM")
    public.add_argument("--version", type=int, metavar="N", help="of this version")
    public.add_argument("-o", "--output", default="-", metavar="FILE", help="default: a pipe")
    public.add_argument("-f", "--force", action="store_true", help="replace what is there")
    reference = verb("reference", "a PEM file with the key's name, for OpenSSL's programs")
    reference.add_argument("-o", "--output", default="-", metavar="FILE", help="default: a pipe")
    reference.add_argument("-f", "--force", action="store_true", help="replace what is there")
    change = verb("change", "another label, or an earlier end")
    change.add_argument("--label", dest="new_label", metavar="NEW")
    change.add_argument("--expires", type=_moment, metavar="DATE|DAYSd")
    add_json(change)
    listed = verb("list", "the keys that you may use", label=False)
    listed.add_argument("--all", action="store_true", help="everybody's, for an administrator")
    add_json(listed)
    add_json(verb("show", "what may be told of a key"))
    delete = verb("delete", "delete a key; its sessions end")
    delete.add_argument("--version", type=int, metavar="N", help="only this old version")
    verb("rotate", "a new version; old ones only decrypt, verify and unwrap")
    trust = verb("trust", "let it wrap keys that are not exportable (administrators)")
    trust.add_argument("--no", action="store_true", help="no longer")


def _words(text: str) -> set[str]:
    return {word for word in text.split(",") if word}


def _template(text: str) -> dict[str, Any]:
    """gcm(aes):256:encrypt,decrypt"""
    algorithm, *more = text.split(":")
    try:
        bits = int(more[0]) if more and more[0] else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: ALG:BITS:USAGE,…") from None
    usage = sorted(_words(more[1])) if more[1:] else None
    return {"algorithm": algorithm, "bits": bits, "usage": usage}


def _moment(text: str) -> int:
    """A date (2027-01-31), a time in ISO 8601, or days from now (90d), in Unix seconds."""
    now = datetime.datetime.now().astimezone()
    try:
        if text.endswith("d"):
            moment = now + datetime.timedelta(days=float(text[:-1]))
        else:
            moment = datetime.datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: a date (2027-01-31) or days (90d)") from None
    if moment <= now:
        raise argparse.ArgumentTypeError(f"{text!r} is in the past")
    return int(moment.timestamp())


def run(options: argparse.Namespace) -> int:
    import cryptofd

    with cryptofd.connect() as broker:
        return _VERBS[options.verb](broker, options) or 0


def _row(key: Key) -> tuple[Any, ...]:
    may = [word for word in ("exportable", "wrappable", "trusted") if getattr(key, word)]
    expires = key.expires and datetime.datetime.fromtimestamp(key.expires).astimezone()
    return (
        key.label, key.owner, key.algorithm, key.bits, key.version, ",".join(key.usage),
        ",".join(may), expires and expires.isoformat(" ", "minutes"), key.uses_left,
    )  # fmt: skip


def _tell(key: Key, options: argparse.Namespace) -> None:
    if getattr(options, "json", False):
        print_json(plain(key))
    else:
        print(f"{key.reference}: {key.algorithm}, {key.bits} bits, {', '.join(key.usage)}")


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    from cryptofd.broker.terms import KeyOptions

    return {name: getattr(options, name) for name in KeyOptions.__annotations__}


def _generate(broker: Connection, options: argparse.Namespace) -> None:
    asked = _asked(options)
    _tell(
        broker.keys.generate(options.label, options.algorithm, bits=options.bits, **asked), options
    )


def _import(broker: Connection, options: argparse.Namespace) -> None:
    from cryptofd.cli.keys import bytes_of

    key = bytes_of(options.source, "to import a key is to bring its bytes")
    _tell(broker.keys.import_key(options.label, options.algorithm, key, **_asked(options)), options)


def _write(options: argparse.Namespace, data: bytes) -> None:
    from cryptofd.cli.files import made

    with made(options.output, options.force) as file:
        file.write(data)


def _export(broker: Connection, options: argparse.Namespace) -> None:
    _write(options, broker.keys.export(options.label))


def _wrap(broker: Connection, options: argparse.Namespace) -> None:
    _write(options, broker.keys.wrap(options.label, by=options.by, format=options.format))


def _unwrap(broker: Connection, options: argparse.Namespace) -> None:
    from pathlib import Path

    wrapped = Path(options.file).read_bytes()
    key = broker.keys.unwrap(
        options.label, wrapped, by=options.by, format=options.format,
        algorithm=options.algorithm, usage=options.usage,
    )  # fmt: skip
    _tell(key, options)


def _derive(broker: Connection, options: argparse.Namespace) -> None:
    from pathlib import Path

    from cryptofd.pem import der

    peer = None if options.peer is None else der(Path(options.peer).read_bytes())
    key = broker.keys.derive(
        options.label, base=options.base, how=options.how, peer=peer, algorithm=options.algorithm,
        bits=options.bits, usage=options.usage, salt=options.salt,
        info=None if options.info is None else options.info.encode(), exportable=options.exportable,
    )  # fmt: skip
    _tell(key, options)


def _pem(label: str, der: bytes) -> bytes:
    import base64
    import textwrap

    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def _pair(broker: Connection, options: argparse.Namespace) -> tuple[Key, bytes]:
    """A pair, and its public half."""
    import base64
    import errno

    from cryptofd.errors import InvalidArgument

    key = broker.keys.info(options.label, version=getattr(options, "version", None))
    if key.public is None:
        raise InvalidArgument(
            errno.EINVAL, f"{key.reference} is of {key.algorithm}: it has no public half"
        )
    return key, base64.b64decode(key.public)


def _public(broker: Connection, options: argparse.Namespace) -> None:
    _, public = _pair(broker, options)
    _write(options, public if options.der else _pem("PUBLIC KEY", public))


def _reference(broker: Connection, options: argparse.Namespace) -> None:
    """``SEQUENCE { type UTF8String, uri UTF8String }``, as crates/door-openssl reads it."""
    from urllib.parse import quote

    import cryptofd

    key, _ = _pair(broker, options)
    algorithm = next(one for one in cryptofd.algorithms() if one.name == key.algorithm)
    uri = f"cryptofd:{quote(key.owner, safe=':')}/{quote(key.label, safe='')}"
    texts = [text.encode() for text in (algorithm.names["openssl"] or "", uri)]
    inner = b"".join(b"\x0c" + _length(text) + text for text in texts)
    _write(options, _pem("CRYPTOFD KEY REFERENCE", b"\x30" + _length(inner) + inner))


def _length(content: bytes) -> bytes:
    """Of an element of DER."""
    size = len(content)
    if size < 128:
        return bytes([size])
    return bytes([0x81, size]) if size < 256 else bytes([0x82, *size.to_bytes(2)])


def _change(broker: Connection, options: argparse.Namespace) -> None:
    key = broker.keys.change(options.label, new_label=options.new_label, expires=options.expires)
    _tell(key, options)


def _list(broker: Connection, options: argparse.Namespace) -> None:
    keys = broker.keys.list(all=options.all)
    keys.sort(key=lambda key: (key.owner, key.label, key.version))
    if options.json:
        print_json(plain(keys))
    else:
        print_table(COLUMNS, map(_row, keys))


def _show(broker: Connection, options: argparse.Namespace) -> None:
    key = broker.keys.info(options.label)
    if options.json:
        print_json(plain(key))
    else:
        values = plain(key)
        print_table(("what", "value"), ((n, v) for n, v in values.items() if v is not None))


def _delete(broker: Connection, options: argparse.Namespace) -> None:
    broker.keys.delete(options.label, version=options.version)


def _rotate(broker: Connection, options: argparse.Namespace) -> None:
    key = broker.keys.rotate(options.label)
    print(f"{key.reference} has version {key.version}")


def _trust(broker: Connection, options: argparse.Namespace) -> None:
    key = broker.keys.trust(options.label, not options.no)
    print(f"{key.reference} is {'trusted' if key.trusted else 'not trusted'} to wrap")


_VERBS = {
    "generate": _generate,
    "import": _import,
    "export": _export,
    "wrap": _wrap,
    "unwrap": _unwrap,
    "derive": _derive,
    "public": _public,
    "reference": _reference,
    "change": _change,
    "list": _list,
    "show": _show,
    "delete": _delete,
    "rotate": _rotate,
    "trust": _trust,
}
