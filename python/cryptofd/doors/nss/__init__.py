"""python-nss's interface to NSS's cryptography, on cryptofd's sessions.

``import cryptofd.doors.nss as nss`` and the program goes on as before: the same functions, classes,
constants, arguments, results and errors (``cryptofd.doors.nss.error``), as far as keys, ciphers,
digests and random numbers go. Certificates, NSS's own databases and its sockets are not here.
"""

from __future__ import annotations

from typing import Any

from cryptofd.doors.nss import error
from cryptofd.doors.nss.aead import param_from_aead
from cryptofd.doors.nss.constants import ATTRIBUTES, OTHERS
from cryptofd.doors.nss.contexts import (
    PK11Context,
    create_context_by_sym_key,
    create_digest_context,
    generate_new_param,
    param_from_iv,
)
from cryptofd.doors.nss.data import (
    HEX_SEPARATOR_DEFAULT,
    SecItem,
    base64_to_binary,
    data_to_hex,
    indented_format,
    make_line_fmt_tuples,
    read_der_from_file,
    read_hex,
)
from cryptofd.doors.nss.digests import (
    generate_random,
    hash_buf,
    md5_digest,
    sha1_digest,
    sha256_digest,
    sha512_digest,
)
from cryptofd.doors.nss.keys import PK11SymKey, import_sym_key
from cryptofd.doors.nss.library import (
    InitContext,
    InitParameters,
    nss_get_version,
    nss_init,
    nss_init_context,
    nss_init_flags,
    nss_init_nodb,
    nss_init_read_write,
    nss_initialize,
    nss_is_initialized,
    nss_shutdown,
    nss_shutdown_context,
    nss_version_check,
    set_password_callback,
    set_shutdown_callback,
)
from cryptofd.doors.nss.mechanisms import (
    algtag_to_mechanism,
    get_block_size,
    get_iv_length,
    get_pad_mechanism,
    key_mechanism_type_from_name,
    key_mechanism_type_name,
    mechanism_to_algtag,
    pk11_attribute_type_from_name,
    pk11_attribute_type_name,
)
from cryptofd.doors.nss.mechanisms import constants as _mechanisms
from cryptofd.doors.nss.oids import (
    TAGS,
    oid_dotted_decimal,
    oid_str,
    oid_tag,
    oid_tag_name,
)
from cryptofd.doors.nss.pairs import (
    PrivateKey,
    PublicKey,
    PyRSAPublicKey,
    RSAGenParams,
    decode_der_subject_public_key_info,
    import_der_private_key_info,
    pub_wrap_sym_key,
    sign_with_mechanism,
    verify_with_mechanism,
)
from cryptofd.doors.nss.passwords import (
    AlgorithmID,
    create_pbev2_algorithm_id,
    param_from_algid,
)
from cryptofd.doors.nss.slots import (
    PK11Slot,
    find_slot_by_name,
    get_all_tokens,
    get_best_slot,
    get_internal_key_slot,
    get_internal_slot,
    is_fips,
    need_pw_init,
    pk11_disabled_reason_name,
    pk11_disabled_reason_str,
    pk11_logout_all,
    token_exists,
)

__all__ = [
    "HEX_SEPARATOR_DEFAULT",
    "AlgorithmID",
    "InitContext",
    "InitParameters",
    "PK11Context",
    "PK11Slot",
    "PK11SymKey",
    "PrivateKey",
    "PublicKey",
    "PyRSAPublicKey",
    "RSAGenParams",
    "SecItem",
    "algtag_to_mechanism",
    "base64_to_binary",
    "create_context_by_sym_key",
    "create_digest_context",
    "create_pbev2_algorithm_id",
    "data_to_hex",
    "decode_der_subject_public_key_info",
    "error",
    "find_slot_by_name",
    "generate_new_param",
    "generate_random",
    "get_all_tokens",
    "get_best_slot",
    "get_block_size",
    "get_internal_key_slot",
    "get_internal_slot",
    "get_iv_length",
    "get_pad_mechanism",
    "hash_buf",
    "import_der_private_key_info",
    "import_sym_key",
    "indented_format",
    "is_fips",
    "key_mechanism_type_from_name",
    "key_mechanism_type_name",
    "make_line_fmt_tuples",
    "md5_digest",
    "mechanism_to_algtag",
    "need_pw_init",
    "nss_get_version",
    "nss_init",
    "nss_init_context",
    "nss_init_flags",
    "nss_init_nodb",
    "nss_init_read_write",
    "nss_initialize",
    "nss_is_initialized",
    "nss_shutdown",
    "nss_shutdown_context",
    "nss_version_check",
    "oid_dotted_decimal",
    "oid_str",
    "oid_tag",
    "oid_tag_name",
    "param_from_aead",
    "param_from_algid",
    "param_from_iv",
    "pk11_attribute_type_from_name",
    "pk11_attribute_type_name",
    "pk11_disabled_reason_name",
    "pk11_disabled_reason_str",
    "pk11_logout_all",
    "pub_wrap_sym_key",
    "read_der_from_file",
    "read_hex",
    "set_password_callback",
    "set_shutdown_callback",
    "sha1_digest",
    "sha256_digest",
    "sha512_digest",
    "sign_with_mechanism",
    "token_exists",
    "verify_with_mechanism",
]

for _class in (
    AlgorithmID,
    InitContext,
    InitParameters,
    PK11Context,
    PK11Slot,
    PK11SymKey,
    PrivateKey,
    PublicKey,
    PyRSAPublicKey,
    RSAGenParams,
    SecItem,
):
    # Where programs know them from.
    _class.__module__ = __name__


def __getattr__(name: str) -> Any:
    # The constants. Those of mechanisms come with the table, which costs nothing until it is asked.
    for numbers in (ATTRIBUTES, TAGS, OTHERS):
        if name in numbers:
            return numbers[name]
    if name.startswith("CKM_") and name in (mechanisms := _mechanisms()):
        globals().update(mechanisms)
        return mechanisms[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *ATTRIBUTES, *TAGS, *OTHERS, *_mechanisms()})
