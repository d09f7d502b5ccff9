"""Pairs of keys: RSA as python-nss has it; signatures and other pairs are extensions, named after
NSS's own functions."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cryptofd.doors.nss.arguments import a, a_or_none, full_name, integer, takes, unsigned
from cryptofd.doors.nss.constants import OTHERS
from cryptofd.doors.nss.data import Line, SecItem, hex_lines, indented, label
from cryptofd.doors.nss.der import element
from cryptofd.doors.nss.error import failure, told
from cryptofd.doors.nss.keys import PK11SymKey
from cryptofd.doors.nss.mechanisms import Mechanism, key_mechanism_type_name, served
from cryptofd.doors.nss.oids import dotted
from cryptofd.errors import BadSignature, CryptoFDError

if TYPE_CHECKING:
    from cryptofd import CryptoFD
    from cryptofd.broker.terms import Key

_EC_PUBLIC_KEY: Final = "1.2.840.10045.2.1"
_RSA: Final = "1.2.840.113549.1.1.1"
_ED25519: Final = "1.3.101.112"
#: RFC 5480, section 2.1.1.1.
_CURVES: Final = {
    "1.2.840.10045.3.1.7": "ecdsa-nist-p256",
    "1.3.132.0.34": "ecdsa-nist-p384",
    "1.3.132.0.35": "ecdsa-nist-p521",
}
#: NSS's kinds of keys: constant, name.
_KINDS: Final = {
    "rsa": ("rsaKey", "RSA"),
    "ec": ("ecKey", "Elliptic Curve"),
    "ed": ("edKey", "Edwards Curve"),
}
#: The hash whose digest has so many bytes, for signatures of digests.
_BY_SIZE: Final = {20: "sha1", 28: "sha224", 32: "sha256", 48: "sha384", 64: "sha512"}
_USUAL_EXPONENT: Final = 0x10001


def _algorithm(identifier: bytes) -> str:
    """The table's algorithm of what is in an AlgorithmIdentifier."""
    oid = element(identifier)
    name = dotted(oid.content)
    if name == _EC_PUBLIC_KEY:
        name = dotted(element(oid.rest).content)
    found = {_RSA: "rsa", _ED25519: "ed25519", **_CURVES}.get(name)
    if found is None:
        raise failure("SEC_ERROR_INVALID_ALGORITHM", f"a key of {name}")
    return found


def _kind(algorithm: str) -> str:
    return "ec" if algorithm.startswith("ecdsa") else "ed" if algorithm == "ed25519" else algorithm


class RSAGenParams:
    """What an RSA key is to be: bits and public exponent."""

    @takes(integer, unsigned, optional=2, keywords=True, name="RSAGenParams")
    def __init__(self, key_size: int = 1024, exponent: int = _USUAL_EXPONENT) -> None:
        self._key_size, self._public_exponent = key_size, exponent

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._key_size

    @key_size.setter
    def key_size(self, value: int) -> None:
        if not isinstance(value, int):
            raise TypeError(f"key_size must be a integer, not {type(value).__name__}")
        self._key_size = value

    @property
    def public_exponent(self) -> int:
        """The public exponent."""
        return self._public_exponent

    @public_exponent.setter
    def public_exponent(self, value: int) -> None:
        if not isinstance(value, int):
            raise TypeError(f"public_exponent must be a integer, not {type(value).__name__}")
        self._public_exponent = value

    def __str__(self) -> str:
        return f"key_size={self._key_size} public_exponent={self._public_exponent}"


class PyRSAPublicKey:
    """The numbers of an RSA public key."""

    __slots__ = ("_exponent", "_modulus")

    _modulus: bytes
    _exponent: bytes

    @classmethod
    def of(cls, modulus: bytes, exponent: bytes) -> PyRSAPublicKey:
        """Of two numbers, the highest byte first."""
        self = object.__new__(cls)
        self._modulus, self._exponent = modulus, exponent
        return self

    @property
    def modulus(self) -> SecItem:
        """The modulus."""
        return SecItem.of(self._modulus)

    @property
    def exponent(self) -> SecItem:
        """The public exponent."""
        return SecItem.of(self._exponent)

    @takes(integer, optional=1, keywords=True)
    def format_lines(self, level: int = 0) -> list[Line]:
        """Lines for ``indented_format``."""
        exponent = int.from_bytes(self._exponent, "big")
        return [
            (level, "Modulus:"),
            *hex_lines(level + 1, self._modulus),
            (level, "Exponent:"),
            (level + 1, f"{exponent} ({exponent:#x})"),
        ]

    @takes(integer, integer, optional=2, keywords=True)
    def format(self, level: int = 0, indent_len: int = 4) -> str:
        """Its lines, indented."""
        return indented(self.format_lines(level), indent_len)

    def __str__(self) -> str:
        return self.format()


class PublicKey:
    """The public half of a pair."""

    __slots__ = ("_der", "_session", "algorithm")

    _der: bytes
    _session: CryptoFD | None
    #: The table's name.
    algorithm: str

    @classmethod
    def of(cls, der: bytes) -> PublicKey:
        """Of a SubjectPublicKeyInfo (RFC 5280, section 4.1)."""
        self = object.__new__(cls)
        self._der, self._session = der, None
        self.algorithm = _algorithm(element(element(der).content).content)
        return self

    @property
    def key_type(self) -> int:
        """rsaKey, ecKey, or NSS's edKey."""
        return OTHERS[_KINDS[_kind(self.algorithm)][0]]

    @property
    def key_type_str(self) -> str:
        """What kind of key it is."""
        return _KINDS[_kind(self.algorithm)][1]

    @property
    def rsa(self) -> PyRSAPublicKey:
        """The numbers of an RSA key; AttributeError of another."""
        if self.algorithm != "rsa":
            self._no("rsa")
        bits = element(element(element(self._der).content).rest).content
        modulus = element(element(bits[1:]).content)
        exponent = element(modulus.rest).content
        return PyRSAPublicKey.of(modulus.content.lstrip(b"\0"), exponent.lstrip(b"\0"))

    @property
    def dsa(self) -> NoReturn:
        """AttributeError: there are no DSA keys."""
        self._no("dsa")

    def _no(self, what: str) -> NoReturn:
        raise AttributeError(
            f"when '{full_name(type(self))}' object has key_type={self.key_type_str} "
            f"there is no attribute '{what}'"
        )

    @takes()
    def encode_der_subject_public_key_info(self) -> SecItem:
        """The key as others read it (RFC 5280). An extension, after NSS's
        SECKEY_EncodeDERSubjectPublicKeyInfo."""
        return SecItem.of(self._der)

    def session(self) -> CryptoFD:
        """The session that verifies and encrypts with it; opened once, and kept."""
        import cryptofd

        if self._session is None:
            self._session = cryptofd.open(self.algorithm, key=self._der)
        return self._session

    @takes(integer, optional=1, keywords=True)
    def format_lines(self, level: int = 0) -> list[Line]:
        """Lines for ``indented_format``."""
        if self.algorithm != "rsa":
            return [label(level, "Key Type", self.key_type_str)]
        return [(level, "RSA Public Key:"), *self.rsa.format_lines(level + 1)]

    @takes(integer, integer, optional=2, keywords=True)
    def format(self, level: int = 0, indent_len: int = 4) -> str:
        """Its lines, indented."""
        return indented(self.format_lines(level), indent_len)

    def __str__(self) -> str:
        return self.format()


class PrivateKey:
    """The private half of a pair: bytes that the program brought, or the broker's."""

    __slots__ = ("_brokered", "_key", "_session", "algorithm")

    _key: bytes | str
    _brokered: Key | None
    _session: CryptoFD | None
    #: The table's name.
    algorithm: str

    @classmethod
    def of(cls, algorithm: str, key: bytes | str, brokered: Key | None = None) -> PrivateKey:
        """Of PKCS#8, or of the broker's reference."""
        self = object.__new__(cls)
        self.algorithm, self._key, self._brokered, self._session = algorithm, key, brokered, None
        return self

    @property
    def nickname(self) -> str | None:
        """The label of a key of the broker's. An extension."""
        return self._brokered.label if self._brokered else None

    @takes()
    def convert_to_public_key(self) -> PublicKey:
        """The public half. An extension, after NSS's SECKEY_ConvertToPublicKey."""
        if self._brokered is not None and self._brokered.public is not None:
            return PublicKey.of(base64.b64decode(self._brokered.public))
        return PublicKey.of(self.session().public_key())

    def session(self) -> CryptoFD:
        """The session that signs with it; opened once, and kept."""
        import cryptofd

        if self._session is None:
            self._session = cryptofd.open(self.algorithm, key=self._key)
        return self._session


@takes(a(SecItem))
def decode_der_subject_public_key_info(der: SecItem) -> PublicKey:
    """A public key (RFC 5280). An extension, after NSS's SECKEY_DecodeDERSubjectPublicKeyInfo."""
    key = PublicKey.of(der.data)
    try:
        key.session()
    except CryptoFDError as error:
        raise failure("SEC_ERROR_BAD_DER", str(error)) from error
    return key


@takes(a(SecItem))
def import_der_private_key_info(der: SecItem) -> PrivateKey:
    """A private key (PKCS#8, RFC 5958). An extension, after NSS's PK11_ImportDERPrivateKeyInfo."""
    version = element(element(der.data).content)
    key = PrivateKey.of(_algorithm(element(version.rest).content), der.data)
    try:
        key.session()
    except CryptoFDError as error:
        raise failure("SEC_ERROR_BAD_DER", str(error)) from error
    return key


def generated_pair(
    mechanism: int, params: Any, token: bool, sensitive: bool
) -> tuple[PublicKey, PrivateKey]:
    """A new pair for a mechanism."""
    import cryptofd

    known = served(mechanism)
    if known is None or known.kind != "pairgen":
        raise failure("SEC_ERROR_INVALID_ARGS")
    algorithm, bits = known.algorithm, None
    if algorithm == "rsa":
        if not isinstance(params, RSAGenParams):
            raise TypeError(
                f"key_params for {key_mechanism_type_name(mechanism)} mechanism must be "
                f"{full_name(RSAGenParams)}, not {type(params).__name__}"
            )
        bits = params.key_size
        if bits < 0:
            raise failure("SEC_ERROR_BAD_DATA")
        if params.public_exponent != _USUAL_EXPONENT:
            raise failure("SEC_ERROR_INVALID_ARGS", "the public exponent is 65537")
    elif algorithm == "ecdsa":
        if not isinstance(params, SecItem) or not params.data:
            raise failure("SEC_ERROR_INVALID_ARGS", "key_params is the DER of the curve's OID")
        algorithm = _CURVES.get(dotted(element(params.data).content), "")
        if not algorithm:
            raise failure("SEC_ERROR_INVALID_ARGS", "a curve that is not served")
    if token:
        raise failure("SEC_ERROR_READ_ONLY")
    try:
        private, public = cryptofd.generate(algorithm, bits)
    except CryptoFDError as error:
        raise told(error) from error
    assert public is not None
    return PublicKey.of(public), PrivateKey.of(algorithm, private)


def fixed_pairs(nickname: str | None) -> tuple[PrivateKey, ...]:
    """The broker's pairs of this label, or all that this program may use."""
    import cryptofd

    try:
        with cryptofd.connect() as connection:
            listed = connection.keys.list()
    except CryptoFDError as error:
        raise told(error) from error
    algorithms = {"rsa", "ed25519", *_CURVES.values()}
    return tuple(
        PrivateKey.of(key.algorithm, key.reference, key)
        for key in listed
        if key.algorithm in algorithms
        and key.current
        and (nickname is None or nickname in {key.label, key.reference})
    )


def _how(mechanism: int, algorithm: str) -> tuple[Mechanism, dict[str, Any]]:
    """How a mechanism signs with a key of this algorithm."""
    known = served(mechanism)
    if known is None or known.kind != "sign":
        raise failure("SEC_ERROR_INVALID_ALGORITHM")
    if known.key != _kind(algorithm).upper():
        raise failure("SEC_ERROR_INVALID_KEY")
    named = re.fullmatch(r"CKM_(?:ECDSA_)?(SHA\w+?)(?:_RSA_PKCS(_PSS)?)?", known.name)
    options: dict[str, Any] = {}
    if named:
        options["hash"] = named[1].lower().replace("_", "-")
    if known.key == "RSA":
        options["scheme"] = "pss" if named and named[2] else "pkcs1"
    if known.key == "EC":
        options["format"] = "raw"
    return known, options


def _of_digest(known: Mechanism, data: bytes, options: dict[str, Any]) -> bool:
    """Whether what is signed is a digest (CKM_ECDSA): its hash is then told."""
    if known.key != "EC" or "hash" in options:
        return False
    if len(data) not in _BY_SIZE:
        raise failure("SEC_ERROR_INPUT_LEN", f"{len(data)} bytes are no digest")
    options["hash"] = _BY_SIZE[len(data)]
    return True


@takes(a(PrivateKey), unsigned, a_or_none(SecItem), a(SecItem))
def sign_with_mechanism(
    priv_key: PrivateKey, mechanism: int, sec_param: SecItem | None, data: SecItem
) -> SecItem:
    """The signature of ``data``: of a message, or (CKM_ECDSA) of a digest. CKM_EDDSA,
    CKM_ECDSA[_SHA*], CKM_SHA*_RSA_PKCS[_PSS], the salt as long as the digest. An extension, after
    NSS's PK11_SignWithMechanism."""
    known, options = _how(mechanism, priv_key.algorithm)
    try:
        session = priv_key.session()
        if _of_digest(known, data.data, options):
            return SecItem.of(session.sign_digest(data.data, **options))
        return SecItem.of(session.sign(data.data, **options))
    except CryptoFDError as error:
        raise told(error) from error


@takes(a(PublicKey), unsigned, a_or_none(SecItem), a(SecItem), a(SecItem))
def verify_with_mechanism(
    pub_key: PublicKey,
    mechanism: int,
    sec_param: SecItem | None,
    signature: SecItem,
    data: SecItem,
) -> None:
    """NSPRError (SEC_ERROR_BAD_SIGNATURE) unless ``signature`` is one of ``data``. An extension,
    after NSS's PK11_VerifyWithMechanism."""
    known, options = _how(mechanism, pub_key.algorithm)
    try:
        session = pub_key.session()
        if _of_digest(known, data.data, options):
            session.verify_digest(signature.data, data.data, **options)
        else:
            session.verify(signature.data, data.data, **options)
    except BadSignature as error:
        raise failure("SEC_ERROR_BAD_SIGNATURE") from error
    except CryptoFDError as error:
        raise told(error) from error


@takes(unsigned, a(PublicKey), a(PK11SymKey))
def pub_wrap_sym_key(mechanism: int, pub_key: PublicKey, sym_key: PK11SymKey) -> SecItem:
    """``sym_key`` under an RSA public key: CKM_RSA_PKCS_OAEP (RFC 8017, with SHA-1 as NSS's), or,
    as NSS whatever is asked for, CKM_RSA_PKCS."""
    if pub_key.algorithm != "rsa":
        raise failure("SEC_ERROR_INVALID_KEY")
    known = served(mechanism)
    oaep = known is not None and known.name == "CKM_RSA_PKCS_OAEP"
    try:
        session = pub_key.session()
        if oaep:
            return SecItem.of(session.encrypt(sym_key.key_data, scheme="oaep", hash="sha1"))
        return SecItem.of(session.encrypt(sym_key.key_data, scheme="pkcs1"))
    except CryptoFDError as error:
        raise told(error) from error
