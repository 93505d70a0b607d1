"""The root isn't ours: OpenBao's pki, an offline root worked with openssl, and a root from files; with real Envoys.

Handshakes must work with the upstream's CRLs and without them, and our own revocation in both.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes.key_stores import OpenBao, openbao
from harness.ceremony import OpensslCa
from harness.pair import Load, Pair
from harness.world import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.world import World

LIVES = "root=2h,issuing=10m,leaf=1m"
WITHOUT = "no usable CRL"

pytestmark = pytest.mark.usefixtures("other_users")


@pytest.fixture
def bao(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenBao]:
    """An OpenBao whose pki engine has a root, RSA as by default; meshca's token may do no more than it needs."""
    with openbao() as server:
        with server.client() as client:
            client.sys.enable_secrets_engine("pki", config={"max_lease_ttl": "8760h"})
            new_root(client, "corp root", "root/generate/internal")
            policy = 'path "pki/root/sign-intermediate" { capabilities = ["create", "update"] }'
            client.sys.create_or_update_policy("meshca", policy)
            token = client.auth.token.create(policies=["meshca"])["auth"]["client_token"]
        monkeypatch.setenv("BAO_ADDR", server.address)
        monkeypatch.setenv("BAO_TOKEN", token)
        yield server


def new_root(client: Any, name: str, path: str) -> None:
    """Make a root in the pki engine and let it be the one that signs."""
    made = client.adapter.post(f"/v1/pki/{path}", json={"common_name": name, "ttl": "8000h"})["data"]
    client.adapter.post("/v1/pki/config/issuers", json={"default": made["issuer_id"]})


def warnings(world: World) -> str:
    return "\n".join(world.run("status", "-o", "json").json["warnings"])


def cas(world: World, kind: str, state: str = "active") -> list[str]:
    return [one["id"] for one in world.run("ca", "show", "-o", "json").json[kind] if one["state"] == state]


def let_in(pair: Pair, folder: Path) -> bool:
    """Shake hands with ``back`` by files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(folder / "svid.pem", folder / "svid_key.pem")
    try:
        with socket.create_connection(pair.tls, 5) as raw, context.wrap_socket(raw) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: b.local\r\nConnection: close\r\n\r\n")
            return tls.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def revocation_works(pair: Pair, name: str) -> None:
    """A leaf in files is good in every place, and after its revocation in none."""
    world, folder = pair.world, pair.world.folder / name
    issued = world.run("issue", "front", "--out", str(folder), "-o", "json").json
    assert let_in(pair, folder)
    world.run("verify", str(folder / "svid.pem"))
    world.run("drop", "front", "--dir", str(pair.world.folder / f"drop-{name}"), "--once")
    world.run("revoke", issued["serial"], "--reason", "keyCompromise", "--wait")
    eventually(lambda: not let_in(pair, folder), 5, "its end")
    assert "revoked" in world.run("verify", str(folder / "svid.pem"), code=1).out
    assert pair.ask()


@pytest.mark.timeout(240)
def test_below_openbao_everything_rotates_and_is_revoked(make_world: Callable[..., World], bao: OpenBao) -> None:
    world = make_world("--upstream", "openbao:pki", "--lifetimes", LIVES).start()
    pair = Pair.start(world)
    assert WITHOUT in warnings(world)  # the CRL is younger than a minute
    revocation_works(pair, "without")
    with Load(pair) as load:
        first = cas(world, "issuing")
        world.run("rotate", "issuing", "--wait")
        assert cas(world, "issuing") != first
        eventually(lambda: WITHOUT not in warnings(world), 90, "the upstream's CRL")
        with bao.client() as client:
            new_root(client, "corp root 2", "root/rotate/internal")
        before = cas(world, "roots")
        world.run("rotate", "issuing", "--wait")
        assert (len(cas(world, "roots")), cas(world, "roots", "old")) == (1, before)
    assert (load.failed, load.answered > 500) == (0, True)
    revocation_works(pair, "with")

    bao.stop()
    assert "cannot be reached" in world.run("rotate", "issuing", code=1).err
    eventually(lambda: "taking in the upstream's CRLs fails" in warnings(world), 20, "the warning")
    world.stop()
    world.start()
    eventually(pair.ask, 10, "an answer")
    revocation_works(pair, "away")
    assert world.run("audit", "verify", "-o", "json").json["intact"]


@pytest.mark.timeout(180)
def test_an_offline_root_by_ceremony(make_world: Callable[..., World]) -> None:
    world = make_world("--upstream", "offline", "--lifetimes", LIVES).start()
    assert "meshca ca csr" in warnings(world)
    root = OpensslCa.root(world.folder / "root", "corp root")
    middle = root.below(world.folder / "middle", "corp mesh CA")
    above = middle.certificate.read_bytes() + root.certificate.read_bytes()

    def signed() -> Path:
        world.run("ca", "csr", "--out", str(world.folder / "issuing.csr"))
        chain = world.folder / "chain.pem"
        chain.write_bytes(middle.sign(world.folder / "issuing.csr") + above)
        return chain

    chain = signed()
    wrong = world.folder / "wrong.pem"
    wrong.write_bytes(above + middle.folder.joinpath("signed.pem").read_bytes())
    assert "wrong order" in world.run("ca", "import", str(wrong), code=1).err
    assert world.run("ca", "show", "-o", "json").json == {
        kind: [] for kind in ("roots", "issuing", "intermediates", "jwt")
    }
    world.run("ca", "import", str(chain))
    assert warnings(world).count(WITHOUT) == 2
    pair = Pair.start(world)
    revocation_works(pair, "without")
    with Load(pair) as load:
        world.run("ca", "import", "--crl", str(root.crl()), "--crl", str(middle.crl()))
        assert WITHOUT not in warnings(world)
        first = cas(world, "issuing")
        world.run("ca", "import", str(signed()))
        eventually(lambda: cas(world, "issuing") not in (first, []), 30, "the activation")
    assert (load.failed, load.answered > 50) == (0, True)
    revocation_works(pair, "with")
    world.stop()
    world.start()
    eventually(pair.ask, 10, "an answer")


@pytest.mark.timeout(120)
def test_a_root_from_files(make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca, brought = OpensslCa.root(tmp_path / "ca", "corp root"), tmp_path / "brought"
    brought.mkdir()
    (brought / "root.pem").write_bytes(ca.certificate.read_bytes())
    target = str(brought / "root_key.pem")
    command = ["openssl", "pkcs8", "-topk8", "-in", "key.pem", "-passout", "pass:old secret", "-out", target]
    subprocess.run(command, cwd=ca.folder, check=True)
    monkeypatch.setenv("MESHCA_ROOT_KEY_PASSPHRASE", "old secret")
    world = make_world("--upstream", f"files:{brought}", "--lifetimes", LIVES)
    monkeypatch.delenv("MESHCA_ROOT_KEY_PASSPHRASE")
    assert sorted(os.listdir(brought)) == ["root.pem", "root_key.pem"]
    pair = Pair.start(world.start())
    assert ca.certificate.read_bytes().strip() in world.run("bundle").out.encode()
    revocation_works(pair, "brought")
    with Load(pair) as load:
        world.run("rotate", "root", "--wait")
    assert load.failed == 0
