"""Policies: who gets what, what is not understood, and that every decision is explained."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from typing import Any

import pytest

from cryptofd.broker import policy as module
from cryptofd.broker.policy import Broken, Policy, parse
from cryptofd.broker.who import Peer

ALICE = Peer(1000, 1000, 1, frozenset({1000, 50}))
BOB = Peer(1001, 1001, 1, frozenset({1001}))
NGINX = Peer(33, 33, 1, frozenset({33}), "nginx.service")


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where a policy may lie, on a host whose own level says nothing."""
    monkeypatch.setattr(module, "_CRYPTO_POLICIES", (tmp_path / "no", tmp_path / "system"))
    monkeypatch.setattr(module, "_FIPS_ENABLED", tmp_path / "fips_enabled")
    tmp_path.chmod(0o755)
    return tmp_path


def of(folder: pathlib.Path, text: str, *more: str) -> Policy:
    paths = []
    for number, one in enumerate((text, *more)):
        path = folder / f"{number}.toml"
        path.write_text(one)
        path.chmod(0o644)
        paths.append(path)
    return Policy(paths)


def allowed(policy: Policy, peer: Peer, **asked: Any) -> bool:
    return policy.check(peer, **asked).allowed


def test_without_a_policy_everybody_has_what_is_theirs(folder: pathlib.Path) -> None:
    policy = of(folder, "")
    assert policy.problem is None
    assert policy.level == "DEFAULT"
    assert policy.rights(ALICE, "uid:1000", "x") == {"use", "manage"}
    assert policy.rights(ALICE, "uid:1001", "x") == set()
    assert policy.rights(Peer(0, 0, 1), "uid:1001", "x") == {"use", "manage", "admin"}
    assert not allowed(policy, ALICE, direct=True)


@pytest.mark.parametrize(
    ("rule", "matched"),
    [
        ("uid = 1000", [ALICE]),
        ("uid = [1000, 1001]", [ALICE, BOB]),
        ('uid = "root"', []),
        ('uid = "nobody-of-this-name"', []),
        ("group = 50", [ALICE]),
        ('unit = "nginx.service"', [NGINX]),
        ('unit = "nginx*"', [NGINX]),
        ('unit = "apache.service"', []),
        ("uid = 1000\ngroup = 1001", []),
        ("", [ALICE, BOB, NGINX]),
    ],
)
def test_whom_a_rule_is_about(folder: pathlib.Path, rule: str, matched: list[Peer]) -> None:
    policy = of(folder, f"[[rule]]\n{rule}\ndeny = true")
    for peer in (ALICE, BOB, NGINX):
        assert allowed(policy, peer, algorithm="sha256") == (peer not in matched)
        assert (policy.rights(peer, peer.owner, "x") == set()) == (peer in matched)


def test_restrictions_intersect_and_gifts_add_up(folder: pathlib.Path) -> None:
    policy = of(
        folder,
        """
        [[rule]]
        algorithms = ["gcm(aes)", "hmac(*)"]
        engines = ["software", "kernel"]
        sessions = 10
        [[rule]]
        uid = 1000
        algorithms = ["*aes*"]
        engines = ["kernel", "openssl"]
        sessions = 20
        keys = { "uid:1001/shared*" = ["use"] }
        """,
        """
        [[rule]]
        hardware = false
        keys = { "1001/other" = ["use", "manage"] }
        """,
    )
    assert allowed(policy, ALICE, algorithm="gcm(aes)")
    assert not allowed(policy, ALICE, algorithm="hmac(sha256)")
    assert not allowed(policy, ALICE, algorithm="ctr(aes)")
    assert allowed(policy, BOB, algorithm="hmac(sha256)")
    assert allowed(policy, ALICE, engine="kernel")
    assert not allowed(policy, ALICE, engine="software")
    assert not allowed(policy, ALICE, hardware=True)
    assert policy.numbers(ALICE).sessions == 10
    assert policy.rights(ALICE, "uid:1001", "shared1") == {"use"}
    assert policy.rights(ALICE, "uid:1001", "other") == {"use", "manage"}
    assert policy.rights(ALICE, "uid:1001", "private") == set()
    # What a session is opened with although nobody asked for it.
    assert policy.narrowing(BOB, {}) == {"engine": "software", "hardware": "forbid"}


def test_own_keys_can_be_taken_in_hand(folder: pathlib.Path) -> None:
    policy = of(folder, '[[rule]]\nunit = "nginx.service"\nown = ["use"]\n')
    assert policy.rights(NGINX, NGINX.owner, "tls") == {"use"}
    answer = policy.check(NGINX, key=(NGINX.owner, "tls"), right="manage")
    assert not answer.allowed
    assert answer.spoken[0].rule == "rule 1"
    assert policy.check(NGINX, key=(NGINX.owner, "tls"), right="use").allowed


def test_administrators_direct_domains(folder: pathlib.Path) -> None:
    policy = of(
        folder,
        """
        [[rule]]
        name = "operators"
        group = 50
        admin = true
        direct = true
        domain = "ops"
        """,
    )
    assert policy.admin(ALICE)
    assert not policy.admin(BOB)
    assert allowed(policy, ALICE, direct=True)
    assert policy.domain(ALICE) == "group:ops"
    assert policy.domain(BOB) == "uid:1001"


@pytest.mark.parametrize(
    ("level", "algorithm", "bits", "allows"),
    [
        ("LEGACY", "sha1", None, True),
        ("LEGACY", "md5", None, False),
        ("DEFAULT", "sha1", None, False),
        ("DEFAULT", "sha224", None, True),
        ("DEFAULT", "cbc(des3_ede)", 192, True),
        ("DEFAULT", "rfc7539(chacha20,poly1305)", 256, True),
        ("DEFAULT", "stdrng", None, True),
        ("FUTURE", "sha224", None, False),
        ("FUTURE", "cbc(des3_ede)", 192, False),
        ("FUTURE", "ecb(aes)", 256, False),
        ("FUTURE", "gcm(aes)", 128, True),
        ("FIPS", "gcm(aes)", 128, True),
        ("FIPS", "rfc7539(chacha20,poly1305)", 256, False),
        ("FIPS", "hmac(sm3)", 256, False),
    ],
)
def test_levels(
    folder: pathlib.Path, level: str, algorithm: str, bits: int | None, allows: bool
) -> None:
    policy = of(folder, f'level = "{level}"')
    assert allowed(policy, ALICE, algorithm=algorithm, bits=bits) == allows
    # The same from the system's setting, and both together.
    (folder / "system").write_text(f"# a comment\n{level}:SUBPOLICY\n")
    assert allowed(of(folder, ""), ALICE, algorithm=algorithm, bits=bits) == allows
    assert not allowed(of(folder, 'level = "FUTURE"'), ALICE, algorithm="ecb(aes)")


def test_the_kernels_fips_mode(folder: pathlib.Path) -> None:
    (folder / "fips_enabled").write_text("1\n")
    policy = of(folder, "")
    assert policy.level == "FIPS"
    assert policy.narrowing(ALICE, {}) == {"fips": True}


BROKEN = [
    ("not TOML", "[[", "0.toml"),
    ("not UTF-8", b"level = '\xff'", "UTF-8"),
    ("unknown level", 'level = "BEST"', "LEGACY"),
    ("unknown top", "levle = 1", "levle"),
    ("unknown in a rule", "[[rule]]\ndney = true", "dney"),
    ("a rule that is none", "rule = 3", "[[rule]]"),
    ("strange uid", "[[rule]]\nuid = 1.5", "uid"),
    ("strange algorithms", "[[rule]]\nalgorithms = 3", "algorithms"),
    ("strange right", '[[rule]]\nown = ["fly"]', "use, manage"),
    ("strange key", '[[rule]]\nkeys = { "label" = ["use"] }', "OWNER/LABEL"),
    ("negative number", "[[rule]]\nsessions = -1", "sessions"),
    ("true as a number", "[[rule]]\nsessions = true", "sessions"),
    ("text as a flag", '[[rule]]\ndeny = "no"', "deny"),
]


@pytest.mark.parametrize(("text", "word"), [row[1:] for row in BROKEN], ids=[r[0] for r in BROKEN])
def test_a_broken_file_keeps_the_policy_that_was(
    folder: pathlib.Path, text: str | bytes, word: str
) -> None:
    policy = of(folder, "[[rule]]\nuid = 1000\ndeny = true")
    path = folder / "0.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    policy.refresh()
    assert policy.problem is not None
    assert word in policy.problem
    assert not allowed(policy, ALICE, algorithm="sha256")
    assert allowed(policy, BOB, algorithm="sha256")
    path.write_text("")
    policy.refresh()
    assert policy.problem is None
    assert allowed(policy, ALICE, algorithm="sha256")


def test_broken_from_the_start_nobody_gets_anything(folder: pathlib.Path) -> None:
    policy = of(folder, "[[")
    answer = policy.check(ALICE, algorithm="sha256")
    assert not answer.allowed
    assert "0.toml" in answer.spoken[0].says
    assert policy.rights(ALICE, ALICE.owner, "x") == set()
    assert policy.rights(Peer(0, 0, 1), "uid:5", "x")


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_file_that_others_can_write_is_refused(folder: pathlib.Path, mode: int) -> None:
    policy = of(folder, "")
    (folder / "0.toml").chmod(mode)
    policy.refresh()
    assert policy.problem is not None
    assert "chmod go-w" in policy.problem


def test_so_is_one_in_a_folder_that_others_can_write(folder: pathlib.Path) -> None:
    folder.chmod(0o777)
    policy = of(folder, "")
    assert policy.problem is not None
    folder.chmod(0o755)


def test_and_a_link(folder: pathlib.Path) -> None:
    (folder / "real.toml").write_text("")
    (folder / "0.toml").symlink_to(folder / "real.toml")
    policy = Policy([folder / "0.toml"])
    assert policy.problem is not None


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_and_one_of_somebody_else(folder: pathlib.Path) -> None:
    policy = of(folder, "")
    os.chown(folder / "0.toml", 1000, 1000)
    policy.refresh()
    assert policy.problem is not None
    assert "1000" in policy.problem


def test_every_decision_says_who_spoke(folder: pathlib.Path) -> None:
    policy = of(folder, '[[rule]]\nname = "few"\nalgorithms = ["gcm(aes)"]')
    answer = policy.check(ALICE, algorithm="ctr(aes)", key=(ALICE.owner, "x"), right="use")
    assert [(one.rule, one.verdict) for one in answer.spoken] == [
        ("level", "allows"),
        ("few", "refuses"),
        ("owner", "allows"),
    ]
    with pytest.raises(PermissionError, match=r"few.*policy check"):
        answer.require()


def test_parse_names_the_rule() -> None:
    with pytest.raises(Broken, match="here: rule 2: deny"):
        parse("[[rule]]\n[[rule]]\ndeny = 1", "here")


def test_the_page_on_policies_is_right(folder: pathlib.Path) -> None:
    """Its example parses, and it names every key of a rule and every level."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    parsed = parse(example, "example")
    assert [rule.name for rule in parsed.rules] == [
        "the web server",
        "nobody needs hardware",
        "rule 3",
        "rule 4",
    ]
    names = {field.name for field in dataclasses.fields(module.Rule)}
    said = names - {"name", "source", "uids", "gids", "units", "numbers"}
    for name in said | {"uid", "group", "unit", *module._NUMBERS}:
        assert f"`{name}`" in page or f"`{name} = " in page, name
    for level in module.LEVELS.values():
        assert f"| {level.name} | {level.strength} |" in page
