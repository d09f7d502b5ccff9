"""`cryptofd setup openssl`: what it writes and takes back; programs and the doctor agree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from programs import program

from cryptofd.cli import openssl_configuration as ossl

LIBRARY = Path(ossl.__file__).parents[1] / "lib" / ossl.LIBRARY


def ran(*command: str | Path, conf: Path | None = None, **env: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env}
    environment.pop("OPENSSL_CONF", None)
    if conf is not None:
        environment["OPENSSL_CONF"] = str(conf)
    done = subprocess.run(
        [*command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def command(*arguments: str, home: Path) -> str:
    """`cryptofd ...`"""
    places = {"XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    return ran(sys.executable, "-m", "cryptofd", *arguments, **places)


def providers(conf: Path) -> list[str]:
    said = ran(program("openssl"), "list", "-providers", conf=conf)
    return [line.strip() for line in said.splitlines() if line.startswith("  ") and line[2] != " "]


def test_a_users_file_and_back(tmp_path: Path) -> None:
    file = tmp_path / "cryptofd" / "openssl.cnf"
    shown = command("setup", "openssl", "--print", home=tmp_path)
    assert str(LIBRARY) in shown
    assert not file.exists()
    for profile in ("bulk", "all", "keys"):
        said = command("setup", "openssl", "--profile", profile, home=tmp_path)
        assert ("algorithms are faster here" in said) == (profile == "bulk")
        assert f"export OPENSSL_CONF={file}" in said
        once = file.read_text()
        assert once.count(str(LIBRARY)) == 1
        assert ("default_properties" in once) == (profile != "keys")
        said = command("setup", "openssl", "--profile", profile, home=tmp_path)
        assert "nothing to change" in said
        assert set(providers(file)) == {"default", ossl.NAME}
        used = ran(program("openssl"), "list", "-digest-algorithms", conf=file)
        if profile != "bulk":
            assert (f"@ {ossl.NAME}" in used) == (profile == "all")
    # What the system's configuration says goes on.
    ran(program("openssl"), "version", conf=file)
    assert "is gone" in command("setup", "openssl", "--undo", home=tmp_path)
    assert not file.exists()
    assert "nothing to change" in command("setup", "openssl", "--undo", home=tmp_path)


BASES = {
    "nothing": "",
    "no openssl_conf": "HOME = .\n[req]\nprompt = no\n",
    "openssl_conf without providers": "openssl_conf = i\n[i]\noid_section = o\n[o]\n",
    "default not activated": (
        "openssl_conf = i\n[i]\nproviders = p\n[p]\ndefault = d\n[d]\n# activate = 1\n"
    ),
    "default activated": "openssl_conf=i\n[i]\nproviders=p\n[ p ]\ndefault=d\n[d]\nactivate = 1\n",
    "properties": "openssl_conf = i\n[i]\nalg_section = a\n[a]\ndefault_properties = ?x.y=z\n",
}


@pytest.mark.parametrize("profile", ["keys", "bulk"])
@pytest.mark.parametrize("base", BASES)
def test_every_configuration_can_have_it(tmp_path: Path, base: str, profile: str) -> None:
    text = ossl.with_ours(BASES[base], tmp_path, LIBRARY, profile)
    assert ossl.with_ours(text, tmp_path, LIBRARY, profile) == text
    assert ossl.without(text).split() == BASES[base].split()
    file = tmp_path / "openssl.cnf"
    file.write_text(text)
    assert set(providers(file)) == {"default", ossl.NAME}
    found = ossl.Configuration.parse(text)
    assert found.module == str(LIBRARY)
    assert found.our_name == ossl.NAME
    assert found.profile == profile
    if base == "properties" and profile == "bulk":
        assert found.value("a", "default_properties") == "?x.y=z,?provider=cryptofd"


def test_where_fips_is_chosen_it_stays_chosen(tmp_path: Path) -> None:
    base = (
        "openssl_conf = i\n[i]\nproviders = p\nalg_section = a\n[p]\nfips = f\nbase = b\n"
        "[f]\nactivate = 1\n[b]\nactivate = 1\n[a]\ndefault_properties = fips=yes\n"
    )
    found = ossl.Configuration.parse(ossl.with_ours(base, tmp_path, LIBRARY, "bulk"))
    assert "default" not in found.providers
    assert found.value("a", "default_properties") == "fips=yes,?provider=cryptofd"


def test_a_file_of_somebody_elses_is_not_deleted(tmp_path: Path) -> None:
    file = tmp_path / "cryptofd" / "openssl.cnf"
    file.parent.mkdir()
    file.write_text("# mine\n")
    with pytest.raises(AssertionError, match="was not made by"):
        command("setup", "openssl", "--undo", home=tmp_path)
    assert file.read_text() == "# mine\n"


def findings(conf: Path | None, home: Path) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    environment["OPENSSL_CONF"] = str(conf or "/dev/null")
    done = subprocess.run(
        [sys.executable, "-m", "cryptofd", "doctor", "--json"], env=environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    all_of = json.loads(done.stdout)
    return {one["what"]: one["state"] for one in all_of if one["topic"] == "OpenSSL provider"}


def test_the_doctor_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "openssl.cnf"
    file.write_text(ossl.with_ours("", tmp_path, LIBRARY, "keys"))
    said = findings(file, tmp_path)
    assert said[f"{LIBRARY} loads"] == "ok"
    assert said[f"{file}: profile keys"] == "ok"
    wrong = file.read_text()
    file.write_text(wrong.replace("profile = keys", "profile = bulk"))
    (what,) = (what for what in findings(file, tmp_path) if what.startswith(str(file)))
    assert re.fullmatch(rf"{file}: profile bulk; \d+ of \d+ algorithms are faster here.*", what)
    file.write_text(wrong.replace("profile = keys", "profile = everything"))
    said = findings(file, tmp_path)
    assert any("profile = everything: one of keys, bulk, all" in what for what in said)
    file.write_text(wrong.replace(f"{ossl.NAME} = ", "cryptofd = "))
    assert any("programs' own keys" in what for what in findings(file, tmp_path))
    file.write_text(wrong.replace(str(LIBRARY), f"/nowhere/{ossl.LIBRARY}"))
    said = findings(file, tmp_path)
    assert said[f"{file}: /nowhere/{ossl.LIBRARY} is not there"] == "broken"
    assert findings(None, tmp_path)["no configuration of OpenSSL's names it"] == "absent"
