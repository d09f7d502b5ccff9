"""Slots: the one whose sessions compute with keys that a program brings, and the broker's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cryptofd.doors.nss.arguments import (
    a,
    a_or_none,
    anything,
    as_bytes,
    encoded,
    integer,
    octets_or_text,
    password,
    takes,
    text_or_none,
    unsigned,
)
from cryptofd.doors.nss.constants import OTHERS
from cryptofd.doors.nss.data import Line, SecItem, indented, label
from cryptofd.doors.nss.error import failure
from cryptofd.doors.nss.library import nss_is_initialized, require
from cryptofd.doors.nss.mechanisms import (
    INVALID,
    KEY_SIZES,
    constants,
    digest_size,
    key_mechanism_type_name,
    served,
)

if TYPE_CHECKING:
    from cryptofd.doors.nss.keys import PK11SymKey
    from cryptofd.doors.nss.pairs import PrivateKey, PublicKey
    from cryptofd.doors.nss.passwords import AlgorithmID

#: Why a slot is disabled: what is said, by constant.
_REASONS: Final = {
    "PK11_DIS_NONE": "no reason",
    "PK11_DIS_USER_SELECTED": "user disabled",
    "PK11_DIS_COULD_NOT_INIT_TOKEN": "could not initialize token",
    "PK11_DIS_TOKEN_VERIFY_FAILED": "could not verify token",
    "PK11_DIS_TOKEN_NOT_PRESENT": "token not present",
}
_REASON_NAMES: Final = {OTHERS[name]: name for name in _REASONS}

# What softoken says of them, and NSS's callers get: bytes where other mechanisms have bits.
_LONGEST_HMAC_KEY: Final = 128
_LONGEST_PAIRS: Final = {"RSA": -1, "EC": 521}


@takes(unsigned)
def pk11_disabled_reason_name(reason: int) -> str:
    """The name of a reason (PK11_DIS_*)."""
    return _REASON_NAMES.get(reason & 0xFFFFFFFF, f"unknown({reason & 0xFFFFFFFF:#x})")


@takes(unsigned)
def pk11_disabled_reason_str(reason: int) -> str:
    """What a reason (PK11_DIS_*) says."""
    name = _REASON_NAMES.get(reason & 0xFFFFFFFF)
    return _REASONS[name] if name else f"unknown({reason & 0xFFFFFFFF:#x})"


class PK11Slot:
    """A slot: who computes, and holds keys.

    Nothing here is a device that comes and goes: a slot is present, read-only and internal, as
    NSS's own are, and nobody logs in.
    """

    __slots__ = ("_slot_name", "_token_name")

    _slot_name: str
    _token_name: str

    @classmethod
    def _of(cls, slot_name: str, token_name: str) -> PK11Slot:
        self = object.__new__(cls)
        self._slot_name, self._token_name = slot_name, token_name
        return self

    @property
    def slot_name(self) -> str:
        """The slot's name."""
        return self._slot_name

    @property
    def token_name(self) -> str:
        """The name of what is in it."""
        return self._token_name

    @takes()
    def is_hw(self) -> bool:
        """False: which engine serves, and whether it is hardware, is a session's to say."""
        return False

    @takes()
    def is_present(self) -> bool:
        """True."""
        return True

    @takes()
    def is_read_only(self) -> bool:
        """True: nothing is stored through this slot."""
        return True

    @takes()
    def is_internal(self) -> bool:
        """True: no foreign module is behind it."""
        return True

    @takes()
    def need_login(self) -> bool:
        """False: nobody logs in."""
        return False

    @takes()
    def need_user_init(self) -> bool:
        """False: there is no password to set."""
        return False

    @takes()
    def is_friendly(self) -> bool:
        """True: certificates could be read without a login."""
        return True

    @takes()
    def is_removable(self) -> bool:
        """False."""
        return False

    @takes()
    def has_protected_authentication_path(self) -> bool:
        """False."""
        return False

    @takes()
    def is_disabled(self) -> bool:
        """False."""
        return False

    @takes()
    def has_root_certs(self) -> bool:
        """False: certificates are none of this door's."""
        return False

    @takes()
    def get_disabled_reason(self) -> int:
        """PK11_DIS_NONE: it is not disabled."""
        return OTHERS["PK11_DIS_NONE"]

    @takes()
    def user_disable(self) -> None:
        """NSPRError: as NSS's own slots, it is not to be disabled."""
        raise failure("SEC_ERROR_INVALID_ARGS", "unable to disable slot")

    @takes()
    def user_enable(self) -> None:
        """Nothing to do: it is enabled."""

    @takes(rest=True)
    def is_logged_in(self, *user_data: Any) -> bool:
        """True, for nobody has to."""
        return True

    @takes(anything, optional=1, rest=True)
    def authenticate(self, load_certs: bool = False, *user_data: Any) -> None:
        """Nothing to do: nobody has to log in."""
        if not isinstance(load_certs, bool):
            raise TypeError(
                f"authenticate() argument 1 must be bool, not {type(load_certs).__name__}"
            )

    @takes(password)
    def check_security_officer_passwd(self, security_officer_passwd: str) -> bool:
        """NSPRError: there is no such officer."""
        raise failure("SEC_ERROR_LIBRARY_FAILURE")

    @takes(password)
    def check_user_passwd(self, user_passwd: str) -> bool:
        """Whether it is the empty one: there is no other."""
        return not user_passwd

    @takes(text_or_none, text_or_none, optional=2, keywords=True)
    def change_passwd(self, old_passwd: str | None = None, new_passwd: str | None = None) -> None:
        """NSPRError: there is no password to change."""
        raise failure("SEC_ERROR_READ_ONLY")

    @takes(text_or_none, text_or_none, optional=2, keywords=True)
    def init_pin(
        self, security_officer_passwd: str | None = None, user_passwd: str | None = None
    ) -> None:
        """NSPRError: there is no password to set."""
        raise failure("SEC_ERROR_READ_ONLY")

    @takes()
    def logout(self) -> None:
        """NSPRError: nobody is logged in."""
        raise failure("SEC_ERROR_TOKEN_NOT_LOGGED_IN", "failed to logout of slot")

    @takes()
    def get_best_wrap_mechanism(self) -> int:
        """The mechanism that NSS wraps with (CKM_DES3_ECB); CKM_AES_KEY_WRAP is better."""
        return constants()["CKM_DES3_ECB"]

    @takes(unsigned)
    def get_best_key_length(self, mechanism: int) -> int:
        """Bytes of the best key; 0 where the mechanism knows it by itself, or is not served."""
        known = served(mechanism)
        if known is None or known.kind == "hash" or known.key in {"DES", "DES3", "ED"}:
            return 0
        if known.key in _LONGEST_PAIRS:
            return _LONGEST_PAIRS[known.key]
        if known.kind == "digest-key":
            return digest_size(known.algorithm)
        if known.kind == "mac" and known.key == "GENERIC":
            return _LONGEST_HMAC_KEY
        return max(KEY_SIZES.get(known.key, (32,)))

    @takes(unsigned, a_or_none(SecItem), integer, rest=True)
    def key_gen(
        self, mechanism: int, sec_param: SecItem | None, key_size: int, *user_data: Any
    ) -> PK11SymKey:
        """A new key of ``key_size`` bytes, of the generator of random numbers that serves."""
        from cryptofd.doors.nss.keys import generated

        return generated(self, mechanism, key_size)

    @takes(unsigned, anything, integer, integer, rest=True)
    def generate_key_pair(
        self, mechanism: int, key_params: Any, token: int, sensitive: int, *user_data: Any
    ) -> tuple[PublicKey, PrivateKey]:
        """A new pair: CKM_RSA_PKCS_KEY_PAIR_GEN with RSAGenParams; as extensions
        CKM_EC_KEY_PAIR_GEN with a SecItem of the DER of the curve's OID, and
        CKM_EC_EDWARDS_KEY_PAIR_GEN. ``token`` is refused: what stays is made in the broker."""
        from cryptofd.doors.nss.pairs import generated_pair

        return generated_pair(mechanism, key_params, bool(token), bool(sensitive))

    @takes(anything, octets_or_text, rest=True)
    def pbe_key_gen(self, algid: AlgorithmID, password: str | bytes, *user_data: Any) -> PK11SymKey:
        """The key of a password, as ``create_pbev2_algorithm_id`` says."""
        from cryptofd.doors.nss.passwords import AlgorithmID

        a(AlgorithmID)(algid, "pbe_key_gen", 1)
        return algid.key(self, as_bytes(password))

    @takes(text_or_none, optional=1, rest=True)
    def list_priv_keys(
        self, nickname: str | None = None, *user_data: Any
    ) -> tuple[PrivateKey, ...]:
        """The private keys that stay in this slot, all or those of a label; as
        ``list_fixed_keys``. An extension, after NSS's PK11_ListPrivKeysInSlot."""
        from cryptofd.doors.nss.pairs import fixed_pairs

        require("SEC_ERROR_NO_MODULE")
        return fixed_pairs(nickname) if self is KEYS else ()

    @takes(text_or_none, optional=1, rest=True)
    def list_fixed_keys(
        self, nickname: str | None = None, *user_data: Any
    ) -> tuple[PK11SymKey, ...]:
        """The symmetric keys that stay in this slot, all or those of a label: of the slot of the
        broker's keys those that this program may use. An extension, after NSS's
        PK11_ListFixedKeysInSlot."""
        from cryptofd.doors.nss.keys import fixed

        require("SEC_ERROR_NO_MODULE")
        return fixed(self, nickname) if self is KEYS else ()

    @takes(integer, optional=1, keywords=True)
    def format_lines(self, level: int = 0) -> list[Line]:
        """Lines for ``indented_format``."""
        disabled = pk11_disabled_reason_str(self.get_disabled_reason())
        wrap = self.get_best_wrap_mechanism()
        return [
            label(level, "Slot Name", self.slot_name),
            label(level, "Token Name", self.token_name),
            label(level, "Is Hardware", self.is_hw()),
            label(level, "Is Present", self.is_present()),
            label(level, "Is Read Only", self.is_read_only()),
            label(level, "Is Internal", self.is_internal()),
            label(level, "Needs Login", self.need_login()),
            label(level, "Needs User Init", self.need_user_init()),
            label(level, "Is Friendly", self.is_friendly()),
            label(level, "Is Removable", self.is_removable()),
            label(
                level, "Has Protected Authentication Path", self.has_protected_authentication_path()
            ),
            label(level, "Is Disabled", f"{self.is_disabled()} ({disabled})"),
            label(level, "Has Root Certs", self.has_root_certs()),
            label(level, "Best Wrap Mechanism", f"{key_mechanism_type_name(wrap)} ({wrap:#x})"),
        ]

    @takes(integer, integer, optional=2, keywords=True)
    def format(self, level: int = 0, indent_len: int = 4) -> str:
        """Its lines, indented."""
        return indented(self.format_lines(level), indent_len)

    def __str__(self) -> str:
        return self.format()


#: Computes with the keys that programs bring.
SESSIONS: Final = PK11Slot._of("cryptofd", "cryptofd")
#: Has the broker's keys.
KEYS: Final = PK11Slot._of("cryptofd keys", "cryptofd keys")

# What programs of NSS look for, and get here.
_BY_NAME: Final = {
    SESSIONS.slot_name: SESSIONS,
    KEYS.slot_name: KEYS,
    "NSS Generic Crypto Services": SESSIONS,
    "NSS Internal Cryptographic Services": SESSIONS,
    "NSS Certificate DB": KEYS,
    "NSS User Private Key and Certificate Services": KEYS,
}


@takes()
def get_internal_slot() -> PK11Slot:
    """The slot that computes with keys that the program brings."""
    require("SEC_ERROR_NO_MODULE")
    return SESSIONS


@takes()
def get_internal_key_slot() -> PK11Slot:
    """The slot of the broker's keys."""
    require("SEC_ERROR_NO_MODULE")
    return KEYS


@takes(unsigned, rest=True)
def get_best_slot(mechanism: int, *user_data: Any) -> PK11Slot:
    """The slot that serves a mechanism; NSPRError where none does."""
    require("SEC_ERROR_NO_TOKEN")
    if served(mechanism) is None:
        raise failure("SEC_ERROR_NO_TOKEN")
    return SESSIONS


@takes(unsigned, integer, integer, anything, optional=4, keywords=True)
def get_all_tokens(
    mechanism: int = INVALID,
    need_rw: int = 0,
    load_certs: int = 0,
    pin_args: tuple[Any, ...] | None = None,
) -> tuple[PK11Slot, ...]:
    """Every slot; as python-nss, whatever it is asked for."""
    if pin_args is not None and not isinstance(pin_args, tuple):
        raise TypeError(f"must be tuple or None, not {type(pin_args).__name__}")
    require("SEC_ERROR_NOT_INITIALIZED")
    return KEYS, SESSIONS


@takes(encoded)
def find_slot_by_name(name: str) -> PK11Slot:
    """The slot of this name; NSS's names for its own find those here that stand for them."""
    found = _BY_NAME.get(name)
    if found is None or not nss_is_initialized():
        why = "SEC_ERROR_NO_TOKEN" if nss_is_initialized() else "SEC_ERROR_NOT_INITIALIZED"
        raise failure(why, f'could not find slot name "{name}"')
    return found


@takes(unsigned)
def token_exists(mechanism: int) -> bool:
    """Whether a mechanism is served."""
    return nss_is_initialized() and served(mechanism) is not None


@takes()
def need_pw_init() -> bool:
    """True once NSS is started, for there is no password."""
    return nss_is_initialized()


@takes()
def is_fips() -> bool:
    """False: no mode of a whole process is. A session that is opened with ``fips=True`` is served
    by a validated module."""
    return False


@takes()
def pk11_logout_all() -> None:
    """Nothing to do: nobody logs in."""
