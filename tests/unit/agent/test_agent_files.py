"""Files kept by an agent: keys made here, certificates by CSR, and the server waits until they are in use."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fakes.agent_world import eventually, shop_behind_an_agent
from fakes.server_world import BACK_ID, FRONT, FRONT_ID

from meshca.agent.files import NotBehindUsError, word_for
from meshca.cli.agent_files import FileKeeper
from meshca.client.agent import WorkloadRequest
from meshca.client.values import SigningRequest
from meshca.drop.config import DropConfigError
from meshca.errors import ConflictError, RefusedError, UnavailableError
from meshca.keys.requesting import new_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meshca.agent.run import Agent

HERE = "unix:uid:77"


@contextmanager
def keeping(folder: Path, host: Agent, *targets: str) -> Iterator[None]:
    """Keep these targets, for as long as it lasts."""
    config = folder / "drop.toml"
    config.write_text("".join(f"[[target]]\n{target}\n" for target in targets))
    config.chmod(0o600)
    with FileKeeper(config, "json") as keeper:
        keeper.start(host.files)
        yield


def status(folder: Path) -> dict[str, Any]:
    """Return what has become of a target."""
    try:
        found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def leaf(folder: Path) -> x509.Certificate:
    """Return the certificate in force."""
    return x509.load_pem_x509_certificate((folder / "current/svid.pem").read_bytes())


async def refused(admin: Any) -> list[tuple[str, str, str]]:
    return [(r.actor, r.action, r.subject) for r in await admin.audit_tail(200) if r.outcome == "refused"]


async def test_files_of_several_nodes_are_kept_with_keys_of_this_host(tmp_path: Path) -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        for node in ("front", "back"):
            await admin.register(node, [HERE], parent="host1")
        await eventually(lambda: len(host.desk.rights.registrations) == 2)
        front, back = tmp_path / "front", tmp_path / "back"
        with keeping(
            tmp_path, host, f'node = "front"\ndir = "{front}"\nsubject = true', f'node = "{BACK_ID}"\ndir = "{back}"'
        ):
            await eventually(lambda: status(front).get("state") == status(back).get("state") == "in use", 10)
        for folder, spiffe_id in ((front, FRONT_ID), (back, BACK_ID)):
            names = leaf(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.UniformResourceIdentifier) == [spiffe_id]
            key = load_pem_private_key((folder / "current/svid_key.pem").read_bytes(), None)
            assert key.public_key() == leaf(folder).public_key()
        assert leaf(front).subject.rfc4514_string() == f"UID={FRONT_ID}"
        held = {r.spiffe_id for r in await admin.certificates() if r.state == "valid"}
        assert {FRONT_ID, BACK_ID} <= held


async def test_a_rotation_waits_until_the_program_has_taken_the_files(tmp_path: Path) -> None:
    async with shop_behind_an_agent() as (parts, admin, host):
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        folder, allowed = tmp_path / "front", tmp_path / "allowed"
        allowed.touch()
        target = f'node = "front"\ndir = "{folder}"\nreload = {{ command = "test -e {allowed}" }}'
        with keeping(tmp_path, host, target):
            await eventually(lambda: status(folder).get("state") == "in use", 10)
            await asyncio.sleep(0.1)  # until the server has heard that
            allowed.unlink()
            prepared = await admin.rotate_authority("issuing")

            async def step() -> list[str]:
                parts.journal.tick()
                await parts.journal.settled()
                await parts.rotations.tick()
                found = [ca for ca in (await admin.authorities()).issuing if ca.id == prepared]
                return list(found[0].waiting_for) if found[0].state == "prepared" else []

            # The files are there, and nobody has taken them up.
            await eventually(lambda: status(folder).get("state") == "failed", 10)
            assert [one for one in await step() if "drop" in one] == [f"{FRONT_ID} agent:host1:drop:front"]
            allowed.touch()
            for _ in range(200):
                if not await step():
                    break
                await asyncio.sleep(0.05)
            assert await step() == []
            assert status(folder)["state"] == "in use"


async def test_a_revoked_leaf_is_replaced_and_a_suspended_nodes_is_not(tmp_path: Path) -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        folder = tmp_path / "front"
        with keeping(tmp_path, host, f'node = "{FRONT}"\ndir = "{folder}"\ndebounce = 0'):
            await eventually(lambda: status(folder).get("state") == "in use", 10)
            first = status(folder)["serial"]
            await admin.revoke(serial=first)
            await eventually(lambda: status(folder)["serial"] != first and status(folder)["state"] == "in use", 10)
            second = status(folder)["serial"]
            await admin.revoke(node="front")
            await eventually(lambda: "is suspended" in (status(folder)["error"] or ""), 10)
            assert status(folder)["serial"] == second


async def test_what_is_not_behind_this_agent_is_not_written(tmp_path: Path) -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("back", [HERE], parent="host2")
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        back = tmp_path / "back"
        with keeping(tmp_path, host, f'node = "back"\ndir = "{back}"'):
            await eventually(lambda: status(back).get("state") == "failed", 10)
            assert "no registration behind this agent names it" in status(back)["error"]
            assert not (back / "current").exists()

        def watch(spiffe_id: str) -> object:
            return next(host.files.watch_trust("drop:x", spiffe_id))

        with pytest.raises(NotBehindUsError):
            await asyncio.to_thread(watch, BACK_ID)
        # Asked for all the same, past our own check, the server refuses it.
        asked = SigningRequest(BACK_ID, new_request()[1], holder=word_for("back"))
        (answer,) = await asyncio.to_thread(host.files.issue, [asked])
        assert isinstance(answer, RefusedError)
        assert ("agent:host1", "issue", BACK_ID) in await refused(admin)


async def test_names_of_its_own_service_discovery_and_no_others() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        node = {
            "kind": "virtualNode", "meshName": "shop", "virtualNodeName": "front",
            "spec": {"listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}],
                     "serviceDiscovery": {"dns": {"hostname": "front.shop.test"}}},
        }  # fmt: skip
        await admin.apply([node])
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        wanted = [
            WorkloadRequest(FRONT_ID, new_request()[1], "drop:front", names)
            for names in (("front.shop.test",), ("back.shop.test",), ("front.shop.test", "ca.example"))
        ]
        good, *bad = await host.api.sign(wanted)
        assert not isinstance(good, Exception)
        names = x509.load_pem_x509_certificate(good.chain).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        assert names.value.get_values_for_type(x509.DNSName) == ["front.shop.test"]
        assert all(isinstance(one, RefusedError) for one in bad)
        assert [each for each in await refused(admin) if each[1] == "issue"] == [("agent:host1", "issue", FRONT_ID)] * 2


async def test_two_of_one_name_have_to_be_told_apart() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.apply([{"kind": "virtualGateway", "meshName": "shop", "virtualGatewayName": "front",
                            "spec": {"listeners": [{"portMapping": {"port": 1, "protocol": "http"}}]}}])  # fmt: skip
        for node in (FRONT, "mesh/shop/virtualGateway/front"):
            await admin.register(node, [HERE], parent="host1")
        await eventually(lambda: len(host.desk.rights.registrations) == 2)
        with pytest.raises(ConflictError, match="write one of them"):
            host.files.resolve("front")
        assert str(host.files.resolve(FRONT)) == FRONT_ID


async def test_whoever_waits_is_let_go_when_the_agent_ends() -> None:
    ends: list[BaseException] = []
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        watching = host.files.watch_trust("drop:x", FRONT_ID)
        await asyncio.to_thread(next, watching)

        def wait() -> None:
            try:
                for _ in watching:
                    pass
            except UnavailableError as error:
                ends.append(error)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
    await asyncio.to_thread(thread.join, 5)
    assert [str(one) for one in ends] == ["the agent is going down"]
    with pytest.raises(UnavailableError, match="going down"):
        host.files.acknowledge_trust("drop:x", FRONT_ID, 1)


async def test_a_bad_configuration_is_refused_before_there_is_an_agent(tmp_path: Path) -> None:
    config = tmp_path / "drop.toml"
    config.write_text('[[target]]\nnode = "front"\n')
    config.chmod(0o600)
    with pytest.raises(DropConfigError, match="dir"):
        FileKeeper(config, "json")


@pytest.mark.parametrize(
    ("name", "word"), [("front", "drop:front"), ("a b", "drop:"), ("é", "drop:"), ("x" * 65, "drop:")]
)
def test_a_word_is_short_and_plain(name: str, word: str) -> None:
    made = word_for(name)
    assert made.startswith(word)
    assert made.isascii()
    assert len(made) < 80
    assert " " not in made
