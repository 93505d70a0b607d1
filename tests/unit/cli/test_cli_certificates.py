"""`issue`, `verify` and `drop` over a CA in memory."""

from __future__ import annotations

import json
import os
import socket
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from fakes.admin import SPIFFE_ID
from fakes.ca import FakeClock, World
from fakes.ca import request as ca_request

from meshca.authority.requests import Issued as CaIssued
from meshca.cli import drop as drop_module
from meshca.client.values import Decision, Issued, Reason, SigningRequest, Trust
from meshca.errors import RefusedError

if TYPE_CHECKING:
    from fakes.shell import Shell


@pytest.fixture
def ca(shell: Shell) -> World:
    """A CA of today behind the shell's fake server."""
    world = World(clock=FakeClock(datetime.now(UTC).replace(microsecond=0)))

    def issue(asked: SigningRequest) -> Issued:
        key = x509.load_der_x509_csr(asked.csr).public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        wish = ca_request("front", spki=spki, kind="file", ttl=asked.ttl)
        (found,) = world.authority.issue([replace(wish, dns_names=asked.dns_names)])
        assert isinstance(found, CaIssued)
        made = found.certificate
        return Issued(made.serial, str(made.spiffe_id), made.not_before, made.not_after, found.chain_pem)

    shell.admin.issuer = issue
    shell.admin.bundles["pem"] = world.authority.trust.bundle_pem
    tell(shell, world)
    return world


def tell(shell: Shell, world: World, **more: Any) -> None:
    trust = world.authority.trust
    shell.admin.trusts = [Trust(trust.generation, trust.bundle_pem, trust.crl_pem, **more)]


def public(pem: bytes) -> bytes:
    return load_pem_private_key(pem, None).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def leaf_key(pem: bytes) -> bytes:
    leaf = x509.load_pem_x509_certificate(pem)
    return leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_in(folder: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key((folder / "svid_key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def csr_file(path: Path, key: ec.EllipticCurvePrivateKey, encoding: Encoding = Encoding.PEM) -> str:
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    path.write_bytes(csr.public_bytes(encoding))
    return str(path)


def test_issue_makes_a_key_here_and_writes_three_files(shell: Shell, ca: World, tmp_path: Path) -> None:
    out = tmp_path / "new"
    document = shell.json("issue", "front", "--out", str(out), "--ttl", "10m")

    assert document["files"] == {
        "certificate": f"{out}/svid.pem", "private_key": f"{out}/svid_key.pem", "bundle": f"{out}/bundle.pem",
    }  # fmt: skip
    assert document["spiffe_id"] == SPIFFE_ID
    assert document["not_before"].endswith("Z")
    assert sorted(os.listdir(out)) == ["bundle.pem", "svid.pem", "svid_key.pem"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()} == {0o600}
    key = (out / "svid_key.pem").read_bytes()
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert public(key) == leaf_key((out / "svid.pem").read_bytes())
    (request,) = (call[1] for call in shell.admin.calls if call[0] == "issue")
    assert (request.holder, request.ttl) == ("issue", timedelta(minutes=10))
    assert key not in request.csr


def test_issue_again_replaces_all_files(shell: Shell, ca: World, tmp_path: Path) -> None:
    planted = tmp_path / "victim"
    planted.write_text("untouched")
    (tmp_path / "svid.pem").symlink_to(planted)
    first = shell.json("issue", "front", "--out", str(tmp_path))["serial"]
    second = shell.json("issue", "front", "--out", str(tmp_path))["serial"]

    assert first != second
    assert planted.read_text() == "untouched"
    assert public((tmp_path / "svid_key.pem").read_bytes()) == leaf_key((tmp_path / "svid.pem").read_bytes())


@pytest.mark.parametrize("blocked", ["svid_key.pem", "svid.pem", "bundle.pem"])
def test_what_cannot_be_replaced_leaves_all_files_as_they_were(
    shell: Shell, ca: World, tmp_path: Path, blocked: str
) -> None:
    shell.run("issue", "front", "--out", str(tmp_path))
    (tmp_path / blocked).unlink()
    (tmp_path / blocked / "full").mkdir(parents=True)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    result = shell.run("issue", "front", "--out", str(tmp_path), code=1)

    assert "--out" in result.stderr
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_issue_for_a_request_has_no_key(shell: Shell, ca: World, tmp_path: Path, encoding: Encoding) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = csr_file(tmp_path / "csr", key, encoding)
    document = shell.json("issue", "front", "--csr", csr, "--out", str(tmp_path / "out"))

    assert document["files"]["private_key"] is None
    assert sorted(os.listdir(tmp_path / "out")) == ["bundle.pem", "svid.pem"]


def test_a_certificate_is_not_put_beside_another_key(shell: Shell, ca: World, tmp_path: Path) -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    csr = csr_file(tmp_path / "csr", key)
    for beside, code in ((other, 1), (key, 0)):
        pem = beside.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "svid_key.pem").write_bytes(pem)
        shell.run("issue", "front", "--csr", csr, "--out", str(tmp_path), code=code)
        assert (tmp_path / "svid_key.pem").read_bytes() == pem


def test_a_refusal_writes_nothing(shell: Shell, ca: World, tmp_path: Path) -> None:
    shell.admin.issuer = lambda _: RefusedError("suspended")
    result = shell.run("issue", "front", "--out", str(tmp_path / "out"), code=1)

    assert "suspended" in result.stderr
    assert not (tmp_path / "out").exists()


def test_issue_refuses_what_is_no_request_or_no_duration(shell: Shell, ca: World, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")

    assert "is no certificate" in shell.run("issue", "front", "--csr", str(tmp_path / "junk"), code=1).stderr
    assert "No such file" in shell.run("issue", "front", "--csr", str(tmp_path / "none"), code=1).stderr
    assert "1h" in shell.run("issue", "front", "--ttl", "1 hour", code=2).stderr


def test_issue_with_dns_names_shows_them(shell: Shell, ca: World, tmp_path: Path) -> None:
    names = ["front.m.test", "f.m.test"]
    document = shell.json("issue", "front", "--out", str(tmp_path), "--dns", names[0], "--dns", names[1])

    assert document["dns_names"] == names
    shown = shell.json("verify", document["files"]["certificate"])
    assert shown == {"valid": True, "spiffe_id": SPIFFE_ID, "reasons": [], "dns_names": names}
    assert "DNS name front.m.test" in shell.run("verify", document["files"]["certificate"]).stdout
    again = shell.json("issue", "front", "--csr", csr_file(tmp_path / "r", key_in(tmp_path)), "--out", str(tmp_path))
    assert "dns_names" not in again


def test_a_key_is_of_the_type_that_the_server_prefers(shell: Shell, ca: World, tmp_path: Path) -> None:
    shell.admin.key_types = ("ec-p384",)
    shell.json("issue", "front", "--out", str(tmp_path))

    assert key_in(tmp_path).curve.name == "secp384r1"


# --- verify


@pytest.fixture
def svid(shell: Shell, ca: World, tmp_path: Path) -> str:
    return str(shell.json("issue", "front", "--out", str(tmp_path))["files"]["certificate"])


def test_a_good_certificate(shell: Shell, svid: str) -> None:
    assert shell.json("verify", svid) == {"valid": True, "spiffe_id": SPIFFE_ID, "reasons": []}
    assert shell.run("verify", svid).stdout == f"good: {SPIFFE_ID}\n"


def test_a_revoked_certificate(shell: Shell, ca: World, svid: str) -> None:
    serial = x509.load_pem_x509_certificate(Path(svid).read_bytes()).serial_number
    ca.authority.revoke(f"{serial:x}".zfill(38), "keyCompromise", "test")
    ca.authority.publish_crls()
    tell(shell, ca)
    document = shell.json("verify", svid, code=1)

    assert (document["valid"], document["spiffe_id"]) == (False, SPIFFE_ID)
    assert "revoked" in document["reasons"][0]


def test_a_certificate_of_another_ca(shell: Shell, svid: str) -> None:
    tell(shell, World(clock=FakeClock(datetime.now(UTC))))

    assert "issuer is unknown" in shell.json("verify", svid, code=1)["reasons"][0]


@pytest.mark.parametrize(("role", "pair"), [("client", (SPIFFE_ID, SPIFFE_ID)), ("server", (SPIFFE_ID, SPIFFE_ID))])
def test_whether_a_node_admits_it(shell: Shell, svid: str, role: str, pair: tuple[str, str]) -> None:
    shell.admin.decision = Decision(True, *pair)
    assert shell.json("verify", svid, "--as", role, "--of", "back")["valid"]
    shell.admin.decision = Decision(False, *pair, (Reason("o", "f", "not admitted"),))

    assert shell.json("verify", svid, "--as", role, "--of", "back", code=1)["reasons"] == ["o f: not admitted"]


def test_an_identity_that_no_node_has_is_a_no(shell: Shell, svid: str) -> None:
    assert "no such node" in shell.json("verify", svid, "--as", "client", "--of", "back", code=1)["reasons"][0]


def test_a_suspended_identity_is_a_no(shell: Shell, ca: World, svid: str) -> None:
    tell(shell, ca, suspended=True)

    reasons = shell.json("verify", svid, "--as", "client", "--of", "back", code=1)["reasons"]
    assert reasons == [f"{SPIFFE_ID} is suspended"]


def test_what_cannot_be_verified_is_an_error_and_not_a_no(shell: Shell, svid: str, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")

    shell.run("verify", str(tmp_path / "none"), code=3)
    shell.run("verify", str(tmp_path / "junk"), code=3)
    shell.run("verify", svid, "--as", "client", code=2)


# --- drop


def test_drop_once(shell: Shell, ca: World, tmp_path: Path) -> None:
    folder, mark = tmp_path / "d", tmp_path / "mark"
    document = shell.json("drop", "front", "--dir", str(folder), "--once", "--on-change", f"touch '{mark}'")

    assert document["directory"] == f"{folder}/current"
    assert sorted(os.listdir(folder / "current")) == ["bundle.pem", "crl.pem", "svid.pem", "svid_key.pem"]
    assert mark.exists()
    holder = f"drop-once:{folder}"
    assert ("watch_trust", holder, SPIFFE_ID) in shell.admin.calls
    assert shell.admin.calls[-1][:4] == ("acknowledge_trust", holder, SPIFFE_ID, ca.authority.trust.generation)
    assert shell.json("verify", str(folder / "current/svid.pem"))["valid"]


def test_drop_once_fails_with_its_command(shell: Shell, ca: World, tmp_path: Path) -> None:
    result = shell.run("drop", "front", "--dir", str(tmp_path), "--once", "--on-change", "false", code=1)

    assert "false ended with exit code 1" in result.stderr
    assert "--on-change" in shell.run("drop", "front", "--dir", "d", "--once", "--on-change", "'", code=1).stderr


def test_drop_without_a_server_says_so(alone: Shell, tmp_path: Path) -> None:
    assert "serve" in alone.run("drop", "front", "--dir", str(tmp_path), "--once", code=1).stderr


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("haproxy", ["bundle.pem", "crl.pem", "haproxy.pem"]),
        ("grpc", ["ca_certificates.pem", "certificates.pem", "crl.pem", "private_key.pem"]),
    ],
)
@pytest.mark.usefixtures("ca")
def test_each_layout_has_its_own_files(shell: Shell, tmp_path: Path, layout: str, names: list[str]) -> None:
    shell.run("drop", "front", "--dir", str(tmp_path / "d"), "--layout", layout, "--once")

    assert sorted(os.listdir(tmp_path / "d/current")) == names


@pytest.mark.usefixtures("ca")
def test_a_subject_is_asked_for_in_the_request(shell: Shell, tmp_path: Path) -> None:
    shell.run("drop", "front", "--dir", str(tmp_path / "d"), "--subject", "--once")

    (request,) = [call[1] for call in shell.admin.calls if call[0] == "issue"]
    assert x509.load_der_x509_csr(request.csr).subject.rfc4514_string() == f"UID={SPIFFE_ID}"


def test_drop_is_of_one_node_or_of_a_configuration(shell: Shell, tmp_path: Path) -> None:
    config = str(tmp_path / "drop.toml")
    for arguments in (["front"], ["--dir", "d"], ["front", "--config", config], ["--config", config, "--subject"]):
        shell.run("drop", *arguments, code=2)
    assert "No such file" in shell.run("drop", "--config", config, code=1).stderr


@pytest.mark.usefixtures("ca")
def test_drop_of_a_configuration_does_what_it_can_and_says_what_it_cannot(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "drop.toml"
    good = f'[[target]]\nnode = "front"\ndir = "{tmp_path}/good"\nsubject = true\n'
    bad = f'[[target]]\nnode = "front"\ndir = "{tmp_path}/bad"\nreload = {{ command = "false" }}\n'
    config.write_text(bad + good)
    result = shell.run("drop", "--config", str(config), "--once", "-o", "json", code=1)

    assert "bad: false ended with exit code 1" in result.stderr
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["target"], line.get("state")) for line in told] == [("bad", None), ("good", None), ("good", "in use")]
    assert json.loads((tmp_path / "good/status.json").read_text())["state"] == "in use"
    config.write_text(good)
    shell.run("drop", "--config", str(config), "--once")


def test_drop_of_a_user_who_may_not_open_the_admin_socket_is_attested(
    alone: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[tuple[Any, ...]] = []

    class Sds:
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)

        def close(self) -> None: ...
        def acknowledge(self) -> None: ...
        def watch(self) -> Any:
            raise RefusedError("no registration")
            yield

    monkeypatch.setattr("meshca.client.sds.SdsClient", Sds)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(alone.home / "run" / "meshca.sock"))
        listening.listen()
        result = alone.run("drop", "mesh/m/virtualNode/front", "--dir", str(tmp_path), "--once", code=1)

        named = ("--dir", str(tmp_path), "--once", "--dns", "front.m.test")
        refused = alone.run("drop", "mesh/m/virtualNode/front", *named, code=1)

    assert "--dns: comes through the admin socket only" in refused.stderr
    assert made == [(alone.home / "run" / "meshca.sock", "mesh/m/virtualNode/front")]
    assert "no registration" in result.stderr
    assert drop_module.drop_command.name == "drop"
