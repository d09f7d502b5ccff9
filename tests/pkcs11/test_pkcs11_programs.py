"""OpenSC's pkcs11-tool, PyKCS11, python-pkcs11, GnuTLS, OpenSSH and Java on the module."""

from __future__ import annotations

import getpass
import hashlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import Server, free_port, program, ran
from raw import Session, number

if TYPE_CHECKING:
    from real_broker import Broker


# OpenSC


def test_pkcs11_tool_tests(library: Path) -> None:
    said = ran("pkcs11-tool", "--module", library, "--test")
    assert "No errors" in said
    for digest in ("MD5", "SHA-1", "SHA256"):
        assert f"{digest}: OK" in said
    assert "ERR" not in said


def test_pkcs11_tool_forks(library: Path) -> None:
    said = ran("pkcs11-tool", "--module", library, "--test-fork", "-L")
    assert "forked child" in said
    assert "cryptofd keys" in said


@pytest.mark.soak  # It sleeps ten seconds for each of its threads.
def test_pkcs11_tool_threads(library: Path) -> None:
    said = ran(
        "pkcs11-tool", "--module", library, "--test-threads", "INGISLT0", "--test-threads",
        "INGISLT0", "--test-threads", "INGISLT1",
    )  # fmt: skip
    assert "CKR_OK" in said or "return" not in said.lower() or "rv = CKR" not in said
    assert "error" not in said.lower()


def test_pkcs11_tool_makes_and_uses_keys(broker: Broker, library: Path, tmp_path: Path) -> None:
    tool = ["pkcs11-tool", "--module", library, "--token-label", "cryptofd keys"]
    data, signature = tmp_path / "data", tmp_path / "signature"
    data.write_bytes(b"data")
    made = ran(
        *tool, "--keypairgen", "--key-type", "EC:secp256r1", "--label", "tool", "--usage-sign"
    )
    assert "Private Key Object; EC" in made
    common = ["--mechanism", "ECDSA-SHA256", "--label", "tool", "--signature-format", "openssl"]
    ran(*tool, "--sign", *common, "-i", data, "-o", signature)
    ran(*tool, "--read-object", "--type", "pubkey", "--label", "tool", "-o", tmp_path / "public")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = serialization.load_der_public_key((tmp_path / "public").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature.read_bytes(), b"data", ec.ECDSA(hashes.SHA256()))
    assert "No errors" in ran(*tool, "--test")
    listed = ran(*tool, "--list-objects")
    assert listed.count("label:      tool\n") == 2
    ran(*tool, "--delete-object", "--type", "privkey", "--label", "tool")
    assert "label:      tool\n" not in ran(*tool, "--list-objects")


def test_a_service_without_home_has_its_users_objects(library: Path, tmp_path: Path) -> None:
    """systemd gives root's services no HOME: the account says it."""
    from two_hosts import Host

    data, accounts = tmp_path / "data", tmp_path / "passwd"
    data.write_bytes(b"data")
    home = f"root:x:0:0:root:{tmp_path}:/bin/sh\n"
    others = [
        line for line in Path("/etc/passwd").read_text().splitlines(True) if line[:5] != "root:"
    ]
    accounts.write_text(home + "".join(others))
    host = Host()
    try:
        host.ran(program("mount"), "--bind", accounts, "/etc/passwd")
        unset = [f"--unset={name}" for name in ("HOME", "XDG_STATE_HOME", "CRYPTOFD_STATE")]
        host.ran(
            program("env"), *unset, program("pkcs11-tool"), "--module", library, "--token-label",
            "cryptofd keys", "--write-object", data, "--type", "data", "--label", "kept",
        )  # fmt: skip
    finally:
        host.end()
    assert len(list((tmp_path / ".local/state/cryptofd/objects").iterdir())) == 1


# Python


def test_pykcs11(library: Path) -> None:
    import PyKCS11 as p11

    lib = p11.PyKCS11Lib()
    lib.load(str(library))
    slots = lib.getSlotList()
    assert [lib.getTokenInfo(slot).label.strip() for slot in slots] == ["cryptofd", "cryptofd keys"]
    session = lib.openSession(slots[0], p11.CKF_SERIAL_SESSION | p11.CKF_RW_SESSION)
    sha256 = p11.Mechanism(p11.CKM_SHA256, None)
    assert bytes(session.digest(b"abc", sha256)) == hashlib.sha256(b"abc").digest()
    raw = os.urandom(32)
    key = session.createObject([
        (p11.CKA_CLASS, p11.CKO_SECRET_KEY), (p11.CKA_KEY_TYPE, p11.CKK_AES), (p11.CKA_VALUE, raw),
        (p11.CKA_ENCRYPT, True), (p11.CKA_DECRYPT, True),
    ])  # fmt: skip
    for how in (
        p11.Mechanism(p11.CKM_AES_CBC_PAD, bytes(16)),
        p11.AES_GCM_Mechanism(bytes(12), b"aad", 128),
        p11.AES_CTR_Mechanism(128, bytes(16)),
    ):
        box = bytes(session.encrypt(key, b"hello", how))
        assert bytes(session.decrypt(key, box, how)) == b"hello"
    public, private = session.generateKeyPair(
        [(p11.CKA_MODULUS_BITS, 2048), (p11.CKA_VERIFY, True), (p11.CKA_ENCRYPT, True)],
        [(p11.CKA_SIGN, True), (p11.CKA_DECRYPT, True)],
    )
    pss = p11.RSA_PSS_Mechanism(
        p11.CKM_SHA256_RSA_PKCS_PSS, p11.CKM_SHA256, p11.CKG_MGF1_SHA256, 32
    )
    for how in (p11.Mechanism(p11.CKM_SHA256_RSA_PKCS, None), pss):
        signature = session.sign(private, b"x", how)
        assert session.verify(public, b"x", signature, how)
        assert not session.verify(public, b"y", signature, how)
    oaep = p11.RSAOAEPMechanism(p11.CKM_SHA256, p11.CKG_MGF1_SHA256)
    assert bytes(session.decrypt(private, session.encrypt(public, b"secret", oaep), oaep)) == (
        b"secret"
    )
    session.closeSession()


#: In a process of its own: python-pkcs11 keeps its module for good.
PYTHON_PKCS11 = """
import sys, pkcs11, hashlib, hmac
from pkcs11 import Attribute, KeyType, Mechanism, KDF, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters
lib = pkcs11.lib(sys.argv[1])
token = lib.get_token(token_label="cryptofd")
with token.open(rw=True) as session:
    assert session.digest(b"abc", mechanism=Mechanism.SHA256) == hashlib.sha256(b"abc").digest()
    aes = session.generate_key(KeyType.AES, 256)
    iv = session.generate_random(128)
    box = aes.encrypt(b"hello", mechanism_param=iv)
    assert aes.decrypt(box, mechanism_param=iv) == b"hello"
    parts = b"".join(aes.encrypt([b"a" * 10, b"b" * 30], mechanism_param=iv))
    assert b"".join(aes.decrypt([parts], mechanism_param=iv)) == b"a" * 10 + b"b" * 30
    gcm = pkcs11.GCMParams(b"n" * 12, b"aad", 128)
    box = aes.encrypt(b"hello", mechanism=Mechanism.AES_GCM, mechanism_param=gcm)
    assert aes.decrypt(box, mechanism=Mechanism.AES_GCM, mechanism_param=gcm) == b"hello"
    secret = session.create_object({
        Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
        Attribute.VALUE: b"k" * 32, Attribute.SIGN: True, Attribute.VERIFY: True})
    mac = secret.sign(b"abc", mechanism=Mechanism.SHA256_HMAC)
    assert mac == hmac.digest(b"k" * 32, b"abc", "sha256")
    public, private = session.generate_keypair(KeyType.RSA, 2048)
    signature = private.sign(b"abc", mechanism=Mechanism.SHA512_RSA_PKCS)
    assert public.verify(b"abc", signature, mechanism=Mechanism.SHA512_RSA_PKCS)
    assert not public.verify(b"abd", signature, mechanism=Mechanism.SHA512_RSA_PKCS)
    assert private.decrypt(public.encrypt(b"secret")) == b"secret"
    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True)
    public, private = parameters.generate_keypair()
    signature = private.sign(b"abc", mechanism=Mechanism.ECDSA_SHA256)
    assert public.verify(b"abc", signature, mechanism=Mechanism.ECDSA_SHA256)
    other_public, other = parameters.generate_keypair()
    keys = [
        one.derive_key(KeyType.AES, 256, mechanism_param=(KDF.NULL, None, peer[Attribute.EC_POINT]),
                       template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True})
        for one, peer in ((private, other_public), (other, public))]
    assert keys[0][Attribute.VALUE] == keys[1][Attribute.VALUE]
    wrapping = session.generate_key(KeyType.AES, 256, template={
        Attribute.WRAP: True, Attribute.UNWRAP: True})
    box = wrapping.wrap_key(keys[0], mechanism=Mechanism.AES_KEY_WRAP)
    back = wrapping.unwrap_key(
        ObjectClass.SECRET_KEY, KeyType.AES, box, mechanism=Mechanism.AES_KEY_WRAP,
        template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True})
    assert back[Attribute.VALUE] == keys[0][Attribute.VALUE]
print("done")
"""


def test_python_pkcs11(library: Path) -> None:
    pytest.importorskip("pkcs11")
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_PKCS11, library], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr


# GnuTLS


@pytest.fixture
def served(broker: Broker, tmp_path: Path) -> Iterator[Path]:
    """A certificate for localhost of a key of the broker's, self-signed by GnuTLS through us."""
    with broker.connect() as connection:
        connection.keys.generate(
            "my tls", "ecdsa-nist-p256", usage={"sign", "verify", "sign-digest"}
        )
        yield tmp_path
        connection.keys.delete("my tls")


URI = "pkcs11:token=cryptofd%20keys;object=my%20tls;type=private"


def test_gnutls_serves_with_our_key(served: Path, library: Path) -> None:
    listed = ran("p11tool", "--provider", library, "--list-all", "pkcs11:token=cryptofd%20keys")
    assert "object=my%20tls;" in listed
    template, certificate = served / "template", served / "certificate.pem"
    template.write_text(
        "cn = localhost\ndns_name = localhost\nca\nsigning_key\nexpiration_days = 9\n"
    )
    ran(
        "certtool", "--generate-self-signed", "--provider", library, "--load-privkey", URI,
        "--load-pubkey", URI.replace("private", "public"), "--template", template,
        "--outfile", certificate,
    )  # fmt: skip
    port = free_port()
    with Server(
        "gnutls-serv", "--provider", library, "--port", str(port), "--x509keyfile", URI,
        "--x509certfile", certificate, "--http", "--quiet",
    ) as server:  # fmt: skip
        server.listens(port)
        for version in ("VERS-TLS1.2", "VERS-TLS1.3"):
            said = ran(
                "gnutls-cli", "--port", str(port), "--x509cafile", certificate, "--priority",
                f"NORMAL:-VERS-ALL:+{version}", "localhost",
            )  # fmt: skip
            assert "Handshake was completed" in said
            assert "The certificate is trusted" in said


# OpenSSH


def test_openssh(broker: Broker, library: Path, tmp_path: Path) -> None:
    """ssh-keygen -D, an agent, and a login on loopback whose key the broker has."""
    with broker.connect() as connection:
        connection.keys.generate(
            "my ssh", "ecdsa-nist-p256", usage={"sign", "verify", "sign-digest"}
        )
        try:
            _openssh(library, tmp_path)
        finally:
            connection.keys.delete("my ssh")


def _openssh(library: Path, folder: Path) -> None:
    public = ran("ssh-keygen", "-D", library)
    assert "ecdsa-sha2-nistp256 " in public
    line = next(one for one in public.splitlines() if one.startswith("ecdsa"))
    assert line.endswith(" my ssh")
    (folder / "id.pub").write_text(line + "\n")
    socket = folder / "agent"
    agent = Server("ssh-agent", "-D", "-a", socket, "-P", str(library))
    with agent:
        _until(socket.exists)
        env = {"SSH_AUTH_SOCK": str(socket)}
        # No PIN: what ssh-add asks for is answered with nothing.
        env |= {"SSH_ASKPASS_REQUIRE": "force", "SSH_ASKPASS": program("true")}
        ran("ssh-add", "-s", library, env=env)
        assert line.split()[1] in ran("ssh-add", "-L", env=env)
        ran("ssh-add", "-T", folder / "id.pub", env=env)
        login(folder, line, env, [])
        ran("ssh-add", "-e", library, env=env)
    login(folder, line, {}, ["-o", f"PKCS11Provider={library}"])


def _until(true: object) -> None:
    from real_broker import until

    until(true, "nothing comes")  # type: ignore[arg-type]


UNPACKED = Path(__file__).parents[2] / ".lab" / "sshd"


def sshd() -> tuple[list[str | Path], dict[str, str]]:
    """The server and its environment; `make` unpacks one that is not installed. It does not run
    itself again: it would without its libraries."""
    if not (UNPACKED / "usr/sbin/sshd").exists():
        return [program("sshd"), "-D"], {}
    libraries = {str(file.parent) for file in UNPACKED.rglob("lib*.so.*")}
    return [UNPACKED / "usr/sbin/sshd", "-D", "-r"], {"LD_LIBRARY_PATH": ":".join(libraries)}


def login(folder: Path, key: str, env: dict[str, str], options: list[str]) -> None:
    """A server of our own on a high port, and a client that has no other key."""
    server, libraries = sshd()
    uid = os.getuid() or pwd.getpwnam("nobody").pw_uid
    user = pwd.getpwuid(uid).pw_name if os.getuid() == 0 else getpass.getuser()
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        ran("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / "host")
        (place / "authorized").write_text(key + "\n")
        for file in place.iterdir():
            os.chown(file, uid, -1)
        port = free_port()
        (place / "config").write_text(
            f"HostKey {place}/host\nAuthorizedKeysFile {place}/authorized\nPidFile none\n"
            f"ListenAddress 127.0.0.1:{port}\nStrictModes no\nUsePAM yes\nAllowUsers {user}\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "LogLevel VERBOSE\nSubsystem sftp internal-sftp\nForceCommand internal-sftp\n"
        )
        command: list[str | Path] = [*server, "-e", "-f", place / "config"]
        process = subprocess.Popen(
            command, user=uid if os.getuid() == 0 else None, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **libraries},
        )  # fmt: skip
        running = Server.__new__(Server)
        running.process = process
        said = "it did not come so far"
        try:
            running.listens(port)
            said = ran(
                "ssh", "-v", "-F", "/dev/null", "-p", str(port), "-o", "BatchMode=yes", "-o",
                "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder}/known", "-o",
                "IdentitiesOnly=no", "-o", "IdentityFile=/nowhere", *options, "-s",
                f"{user}@127.0.0.1", "sftp", env={"SSH_AUTH_SOCK": "", **env},
            )  # fmt: skip
        finally:
            process.terminate()
            process.wait(30)
            log = running.said()
            print(log)
        assert "Authenticated to 127.0.0.1" in said, said + log
        assert f"Accepted publickey for {user}" in log, log


# Java

JAVA = """
import java.security.*;
import java.security.spec.*;
import java.util.*;
import javax.crypto.*;
import javax.crypto.spec.*;

public class Door {
    static void same(byte[] one, byte[] other) {
        if (!Arrays.equals(one, other)) throw new AssertionError();
    }

    public static void main(String[] arguments) throws Exception {
        Provider ours = Security.getProvider("SunPKCS11").configure(arguments[0]);
        byte[] data = "the same data".getBytes();
        for (String name : List.of("SHA-1", "SHA-256", "SHA-512"))
            same(MessageDigest.getInstance(name, ours).digest(data),
                 MessageDigest.getInstance(name, "SUN").digest(data));
        SecretKey key = new SecretKeySpec(new byte[32], "AES");
        SecretKey other = new SecretKeySpec(new byte[32], "HmacSHA256");
        List<String> modes =
            List.of("AES/CBC/PKCS5Padding", "AES/CTR/NoPadding", "AES/GCM/NoPadding");
        for (String name : modes) {
            AlgorithmParameterSpec how = name.contains("GCM")
                ? new GCMParameterSpec(128, new byte[12]) : new IvParameterSpec(new byte[16]);
            Cipher here = Cipher.getInstance(name, ours);
            Cipher there = Cipher.getInstance(name, "SunJCE");
            here.init(Cipher.ENCRYPT_MODE, key, how);
            there.init(Cipher.DECRYPT_MODE, key, how);
            same(there.doFinal(here.doFinal(data)), data);
            there.init(Cipher.ENCRYPT_MODE, key, how);
            byte[] box = there.doFinal(data);
            here.init(Cipher.DECRYPT_MODE, key, how);
            same(here.doFinal(box), data);
        }
        Mac mac = Mac.getInstance("HmacSHA256", ours);
        Mac their = Mac.getInstance("HmacSHA256", "SunJCE");
        mac.init(other);
        their.init(other);
        same(mac.doFinal(data), their.doFinal(data));
        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC", ours);
        generator.initialize(new ECGenParameterSpec("secp256r1"));
        KeyPair pair = generator.generateKeyPair();
        Signature sign = Signature.getInstance("SHA256withECDSA", ours);
        sign.initSign(pair.getPrivate());
        sign.update(data);
        byte[] signature = sign.sign();
        KeyFactory factory = KeyFactory.getInstance("EC", "SunEC");
        byte[] encoded = pair.getPublic().getEncoded();
        PublicKey open = factory.generatePublic(new X509EncodedKeySpec(encoded));
        Signature verify = Signature.getInstance("SHA256withECDSA", "SunEC");
        verify.initVerify(open);
        verify.update(data);
        if (!verify.verify(signature)) throw new AssertionError();
        generator = KeyPairGenerator.getInstance("RSA", ours);
        generator.initialize(2048);
        pair = generator.generateKeyPair();
        sign = Signature.getInstance("SHA256withRSA", ours);
        sign.initSign(pair.getPrivate());
        sign.update(data);
        signature = sign.sign();
        verify = Signature.getInstance("SHA256withRSA", ours);
        verify.initVerify(pair.getPublic());
        verify.update(data);
        if (!verify.verify(signature)) throw new AssertionError();
        System.out.println("done " + ours.getServices().size());
    }
}
"""


def test_java(library: Path, tmp_path: Path) -> None:
    program("javac")
    (tmp_path / "Door.java").write_text(JAVA)
    (tmp_path / "door.cfg").write_text(f"name = cryptofd\nlibrary = {library}\nslotListIndex = 0\n")
    said = ran("java", "-XX:TieredStopAtLevel=1", tmp_path / "Door.java", tmp_path / "door.cfg")
    done, _, services = said.strip().splitlines()[-1].partition(" ")
    assert done == "done", said
    assert int(services) > 60


KEYSTORE = """
import java.security.*;
import java.security.cert.*;
import java.util.*;
import javax.crypto.*;

public class Store {
    public static void main(String[] arguments) throws Exception {
        Provider ours = Security.getProvider("SunPKCS11").configure(arguments[0]);
        KeyStore store = KeyStore.getInstance("PKCS11", ours);
        store.load(null, null);
        byte[] data = "the same data".getBytes();
        for (String alias : Collections.list(store.aliases())) {
            PrivateKey key = (PrivateKey) store.getKey(alias, null);
            X509Certificate certificate = (X509Certificate) store.getCertificate(alias);
            String name = "SHA256with" + (key.getAlgorithm().equals("EC") ? "ECDSA" : "RSA");
            Signature sign = Signature.getInstance(name, ours);
            sign.initSign(key);
            sign.update(data);
            byte[] signature = sign.sign();
            Signature verify = Signature.getInstance(name);
            verify.initVerify(certificate.getPublicKey());
            verify.update(data);
            if (!verify.verify(signature)) throw new AssertionError(alias);
            if (key.getEncoded() != null) throw new AssertionError("the key came out");
            System.out.println("signed " + alias);
        }
        System.out.println("done");
    }
}
"""


def certified(session: Session, label: str, key: int) -> None:
    """Gives a key of the token a certificate, which somebody else has signed."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    public = serialization.load_der_public_key(session.get(key, "CKA_PUBLIC_KEY_INFO"))
    assert isinstance(public, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, label)])
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
        .public_key(public).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )  # fmt: skip
    session.create(
        CKA_CLASS=number("CKO_CERTIFICATE"), CKA_CERTIFICATE_TYPE=0, CKA_TOKEN=True,
        CKA_VALUE=certificate.public_bytes(serialization.Encoding.DER), CKA_LABEL=label.encode(),
        CKA_ID=session.get(key, "CKA_ID"), CKA_SUBJECT=subject.public_bytes(),
        CKA_ISSUER=issuer.public_bytes(),
    )  # fmt: skip


def test_java_signs_with_keys_of_the_broker(keys: Session, library: Path, tmp_path: Path) -> None:
    program("javac")
    for label, kind, said in (
        (
            "java-ec",
            "CKM_EC_KEY_PAIR_GEN",
            {"CKA_EC_PARAMS": bytes.fromhex("06082a8648ce3d030107")},
        ),
        ("java-rsa", "CKM_RSA_PKCS_KEY_PAIR_GEN", {"CKA_MODULUS_BITS": 2048}),
    ):
        token = {"CKA_TOKEN": True, "CKA_LABEL": label.encode()}
        _, private = keys.pair(kind, {**said, **token}, {**token, "CKA_SIGN": True})
        certified(keys, label, private)
    (tmp_path / "Store.java").write_text(KEYSTORE)
    (tmp_path / "keys.cfg").write_text(f"name = keys\nlibrary = {library}\nslotListIndex = 1\n")
    said = ran("java", "-XX:TieredStopAtLevel=1", tmp_path / "Store.java", tmp_path / "keys.cfg")
    assert said.strip().splitlines()[-1] == "done", said
    assert {"signed java-ec", "signed java-rsa"} <= set(said.splitlines())
