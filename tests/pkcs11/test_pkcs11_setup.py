"""`cryptofd setup`: what it writes, says and takes back; what the doctor says of it."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from programs import ran


def command(*arguments: str | Path, fails: bool = False, **env: str) -> str:
    """`cryptofd ...`"""
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), **env}
    return ran(sys.executable, "-m", "cryptofd", *arguments, fails=fails, env=environment)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    folder = tmp_path / "db with a space"
    folder.mkdir()
    ran("certutil", "-N", "-d", f"sql:{folder}", "--empty-password")
    return folder


def test_nss_and_back(db: Path, library: Path) -> None:
    listed = db / "pkcs11.txt"
    before, mode = listed.read_text(), stat.S_IMODE(listed.stat().st_mode)
    shown = command("setup", "nss", "--db", db, "--profile", "all", "--print")
    assert "RSA" in shown
    assert listed.read_text() == before
    for profile in ("keys", "bulk", "all"):
        said = command("setup", "nss", "--db", db, "--profile", profile)
        assert f"profile {profile}" in said
        assert "--undo" in said
        once = listed.read_text()
        assert once.count(str(library)) == 1
        assert ("cipherOrder=200" in once) == (profile != "keys")
        for never in ("ECC", "DH", "SSL", "TLS"):
            assert never not in once.split(str(library))[1]
        assert "nothing to change" in command("setup", "nss", "--db", db, "--profile", profile)
        assert listed.read_text() == once
        # NSS reads it as it was meant.
        assert "cryptofd keys" in ran("modutil", "-dbdir", f"sql:{db}", "-list", "cryptofd")
    assert stat.S_IMODE(listed.stat().st_mode) == mode
    command("setup", "nss", "--db", db, "--undo")
    assert listed.read_text().split() == before.split()
    assert "nothing to change" in command("setup", "nss", "--db", db, "--undo")
    assert [file.name for file in db.glob(".pkcs11*")] == []


#: Firefox's list of modules in a new profile; what follows the first word of it is its own.
FIREFOX = """library=
name=NSS Internal PKCS #11 Module
parameters=configdir='sql:{folder}' certPrefix='' keyPrefix='' secmod='secmod.db' \
flags=optimizeSpace updatedir='' updateCertPrefix='' updateKeyPrefix='' updateid='' \
updateTokenDescription=''\x20
NSS=Flags=internal,critical trustOrder=75 cipherOrder=100 \
slotParams=(1={{slotFlags=[ECC,RSA,DSA,DH,RC2,RC4,DES,RANDOM,SHA1,MD5,MD2,SSL,TLS,AES,Camellia,\
SEED,SHA256,SHA512] askpw=any timeout=30}})


"""


def test_a_profile_of_firefox(db: Path, library: Path) -> None:
    listed = db / "pkcs11.txt"
    assert {file.name for file in db.iterdir()} == {"cert9.db", "key4.db", "pkcs11.txt"}
    listed.write_text(FIREFOX.format(folder=db))
    for profile in ("keys", "bulk", "all"):
        command("setup", "nss", "--db", db, "--profile", profile)
        assert listed.read_text().startswith(FIREFOX.format(folder=db).rstrip("\n"))
        assert f"library={library}\n" in listed.read_text()
        shown = ran("modutil", "-dbdir", f"sql:{db}", "-list", "cryptofd")
        assert "cryptofd keys" in shown
    command("setup", "nss", "--db", db, "--undo")
    assert listed.read_text().split() == FIREFOX.format(folder=db).split()


def test_other_modules_stay_as_they_are(db: Path) -> None:
    listed = db / "pkcs11.txt"
    other = "library=/nowhere/other.so\nname=other\nNSS=cipherOrder=7  trustOrder=3\n\n"
    listed.write_text(listed.read_text() + other)
    command("setup", "nss", "--db", db)
    assert other in listed.read_text()
    command("setup", "nss", "--db", db, "--undo")
    assert other in listed.read_text()


def test_a_folder_that_is_no_database(tmp_path: Path) -> None:
    said = command("setup", "nss", "--db", tmp_path, fails=True)
    assert "certutil -N" in said
    assert list(tmp_path.iterdir()) == []


def test_p11_kit(tmp_path: Path, library: Path) -> None:
    file = tmp_path / "cryptofd.module"
    assert str(library) in command("setup", "p11-kit", "--dir", tmp_path, "--print")
    assert not file.exists()
    command("setup", "p11-kit", "--dir", tmp_path)
    assert f"module: {library}\n" in file.read_text()
    assert "nothing to change" in command("setup", "p11-kit", "--dir", tmp_path)
    command("setup", "p11-kit", "--dir", tmp_path, "--undo")
    assert not file.exists()


def test_openssh_and_java_are_told(library: Path) -> None:
    assert f"PKCS11Provider {library}\n" in command("setup", "openssh")
    assert f"library = {library}\n" in command("setup", "java")
    assert "ssh-add -e" in command("setup", "openssh", "--undo")


def test_the_doctor_sees_databases(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".pki/nssdb").mkdir(parents=True)
    ran("certutil", "-N", "-d", f"sql:{home}/.pki/nssdb", "--empty-password")

    def told() -> dict[str, str]:
        code = (
            "import json; from cryptofd.cli.findings_nss import *; "
            "print(json.dumps({f.what: f.state for f in [*module(), *databases()]}))"
        )
        env = {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(home)}
        found: dict[str, str] = json.loads(ran(sys.executable, "-c", code, env=env))
        return found

    assert sorted(told().values()) == ["absent", "ok"]
    command("setup", "nss", "--profile", "bulk", HOME=str(home))
    assert set(told().values()) == {"ok"}
    rows = json.loads(command("doctor", "--nss", home / ".pki/nssdb", "--json"))
    chosen = {row["mechanism"]: row["slot"] for row in rows}
    assert chosen["CKM_AES_GCM"] == chosen["CKM_SHA256_HMAC"] == "cryptofd"
    assert chosen["CKM_RSA_PKCS"] == chosen["CKM_ECDSA"] == "another"
    listed = home / ".pki/nssdb/pkcs11.txt"
    text = listed.read_text()
    listed.write_text(text.replace("/libcryptofd-pkcs11.so", "/gone/libcryptofd-pkcs11.so"))
    assert "broken" in told().values()
