"""A real server over TCP, and the real command line as somebody who is not on its host."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.world import mesh, node

from meshca.drop.material import certificate_ders
from meshca.x509.presented import Presented, read_leaf

if TYPE_CHECKING:
    from harness.world import World


def test_an_admin_works_over_tcp(world: World) -> None:
    address, out = str(world.admin.status().grpc), world.folder / "ann"
    made = world.run("admin", "add", "ann", "--out", str(out), "--role", "operator", "-o", "json").json
    remote = ("--server", address, "--identity", str(out))

    assert (made["role"], made["spiffe_id"]) == ("operator", "spiffe://m.test/meshca/admin/ann")
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {f.name: stat.S_IMODE(f.stat().st_mode) for f in out.iterdir()} == {
        "svid.pem": 0o600, "svid_key.pem": 0o600, "bundle.pem": 0o600,
    }  # fmt: skip
    objects = "\n---\n".join(json.dumps(one) for one in (mesh(), node("a", host="127.0.0.1", port=80)))
    assert world.run(*remote, "apply", "-f", "-", "-o", "json", text=objects).json["revision"] == 1
    assert world.run(*remote, "status", "-o", "json").json["grpc"] == address
    assert world.run(*remote, "certs", "-o", "json", MESHCA_ADMIN_DIR=str(out)).json

    # What the role does not cover, and a key that others may read.
    assert "needs the role admin" in world.run(*remote, "unfreeze", code=1).err
    (out / "svid_key.pem").chmod(0o644)
    assert "others may read this key" in world.run(*remote, "status", code=1).err
    (out / "svid_key.pem").chmod(0o600)

    # The end of it: revoked, it opens nothing any more, and it is on record who tried.
    world.run("revoke", made["serial"])
    assert "revoked" in world.run(*remote, "status", code=1).err
    refused = [r for r in world.run("audit", "tail", "-o", "json").json if r["outcome"] == "refused"]
    assert [(r["actor"], r["subject"]) for r in refused] == [
        (made["spiffe_id"], name) for name in ("Unfreeze", "Status")
    ]


def test_a_short_identity_renews_itself_when_it_is_used(world: World) -> None:
    address, out = str(world.admin.status().grpc), world.folder / "ann"
    first = world.run("admin", "add", "ann", "--out", str(out), "--ttl", "3s", "-o", "json").json["serial"]
    key = (out / "svid_key.pem").read_bytes()
    time.sleep(0.1)
    _until_past_half(out)

    assert world.run("--server", address, "--identity", str(out), "status").code == 0
    assert (out / "svid_key.pem").read_bytes() != key
    assert _leaf(out).serial != first


def test_a_node_has_its_own_certificate_followed_where_a_registration_says_so(world: World) -> None:
    address, out = str(world.admin.status().grpc), world.folder / "a"
    world.apply(mesh(), node("a", host="a.m.test", port=80), node("b"))
    first = world.run("issue", "a", "--out", str(out), "-o", "json").json
    remote = ("--server", address, "--identity", str(out), "issue")

    assert "this node is not served" in world.run(*remote, "a", "--out", str(out), code=1).err
    world.run("register", "a", "--selector", "x509:self")
    key = (out / "svid_key.pem").read_bytes()
    made = world.run(*remote, "a", "--out", str(out), "-o", "json").json
    assert (made["spiffe_id"], made["serial"]) == (first["spiffe_id"], _leaf(out).serial)
    assert made["serial"] != first["serial"]
    assert (out / "svid_key.pem").read_bytes() != key

    assert "is another node's" in world.run(*remote, "b", "--out", str(out), code=1).err
    assert "--ttl" in world.run(*remote, "a", "--ttl", "9h", "--out", str(out), code=1).err
    assert "only agents and admins" in world.run(*remote[:-1], "status", code=1).err
    assert _leaf(out).serial == made["serial"]


def test_an_agents_identity_in_files_is_its_owners_alone(world: World) -> None:
    out = world.folder / "id"
    made = world.run("token", "host1", "--x509", str(out), "-o", "json").json
    assert made["spiffe_id"] == "spiffe://m.test/meshca/agent/host1"
    assert {f.name: stat.S_IMODE(f.stat().st_mode) for f in (out, *out.iterdir())} == {
        "id": 0o700, "svid.pem": 0o600, "svid_key.pem": 0o600, "bundle.pem": 0o600,
    }  # fmt: skip
    assert "--out or --x509" in world.run("token", "host1", "--x509", str(out), "--out", "x", code=2).err
    (row,) = world.run("agents", "-o", "json").json
    assert (row["id"], row["method"], row["state"]) == ("host1", "x509", "attested")
    address = str(world.admin.status().grpc)
    agent = ("--home", str(world.folder / "ag"), "agent", "--server", address, "--identity", str(out))
    world.run("evict", "host1")
    assert "revoked" in world.run(*agent, code=1).err


def test_no_core_and_no_debugger(world: World) -> None:
    """Others of the same user may not read the server's memory: its /proc is root's, and its limit for cores is 0."""
    assert world.server is not None
    limits = Path(f"/proc/{world.server.pid}/limits").read_text()

    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]
    assert Path(f"/proc/{world.server.pid}/mem").stat().st_uid == 0
    assert os.stat(f"/proc/{world.server.pid}/environ").st_uid == 0


def _leaf(folder: Path) -> Presented:
    return read_leaf(certificate_ders((folder / "svid.pem").read_bytes())[0])


def _until_past_half(folder: Path) -> None:
    leaf = _leaf(folder)
    half = leaf.not_before + (leaf.not_after - leaf.not_before) / 2
    while time.time() <= half.timestamp():
        time.sleep(0.05)
