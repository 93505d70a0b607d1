"""Pods behind an agent: a real process in a pod's control group, and an API server that lists it, or means harm."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import cgroups
from fakes.agent_world import eventually, shop_behind_an_agent
from fakes.pod_lists import Lister, listed, listing, write_ca
from fakes.server_world import BACK, FRONT, STREAM_ADS, Envoy
from unit.attest.processes import as_root, connecting

from meshca.agent.holdings import rights_of
from meshca.attest import pods as pods_module
from meshca.attest.pods import Pod, PodList, pods_of_node
from meshca.attest.selectors import Reader
from meshca.client.agent import Holding, Holdings
from meshca.delivery.callers import NotEntitledError

UID = "0f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b"
IN_POD = f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{'5d' * 32}.scope"
WEB = Pod(UID, "shop", "web-1", "web")
OF_WEB = ("k8s:ns:shop", "k8s:sa:web")
FRONT_ID = "spiffe://shop.test/shop/front"
TESTS = Path(__file__).parents[2]

# Goes into a control group, and says what it is given as an Envoy of each node: names of secrets, or why not.
IN_A_POD = """
import asyncio, os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
from pathlib import Path
from fakes.server_world import EndedError, Envoy

async def ask(node):
    async with Envoy(Path(sys.argv[2]), node) as envoy:
        await envoy.ask("default")
        try:
            print(*await envoy.secrets())
        except EndedError as ended:
            print(ended.code.name)

async def main():
    for node in sys.argv[3:]:
        await ask(node)

asyncio.run(main())
"""


@pytest.fixture(params=["v2", "v1"])
def group(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Path]]:
    with cgroups.hierarchy(request.param) as root, cgroups.groups(root) as make:
        yield make


@pytest.fixture
def lister(tmp_path: Path) -> Iterator[Lister]:
    with listing(tmp_path, listed(WEB, node="node-1")) as found:
        yield found


def node_pods(lister: Lister) -> PodList:
    return pods_of_node("node-1", lister.environ, lister.account)


def holdings(*selectors: str) -> Holdings:
    holding = Holding("1", FRONT_ID, selectors, FRONT)
    return Holdings("shop.test", (holding,), frozenset(), frozenset(), 1, b"", b"")


async def envoys_in(procs: Path, socket: Path, *nodes: str) -> list[str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", IN_A_POD, procs, socket, *nodes,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
    )  # fmt: skip
    said, _ = await asyncio.wait_for(child.communicate(), 30)
    return said.decode().splitlines()


@as_root
@pytest.mark.parametrize("group", ["v2"], indirect=True)
async def test_a_pod_of_the_node_is_given_its_identity_and_nobody_else(
    group: Callable[[str], Path], lister: Lister
) -> None:
    procs = group(IN_POD)
    async with shop_behind_an_agent(node_pods(lister)) as (_, admin, host):
        await admin.register("front", [*OF_WEB], parent="host1")
        await admin.register("back", ["k8s:ns:shop", "k8s:sa:other"], parent="host1")
        await eventually(lambda: len(host.desk.rights.registrations) == 2)
        assert await envoys_in(procs, host.socket, FRONT, BACK) == ["default", "PERMISSION_DENIED"]
        async with Envoy(host.socket, FRONT) as outside:
            await outside.ask("default")
            assert (await outside.until_ended()).code.name == "PERMISSION_DENIED"
    assert len(lister.seen) == 1


def another_node(lister: Lister) -> None:
    lister.body = listed(WEB, node="node-2")


def another_service_account(lister: Lister) -> None:
    lister.body = listed(Pod(UID, "shop", "web-1", "default"), Pod(UID[::-1], "shop", "web-2", "web"), node="node-1")


def redirect(lister: Lister) -> None:
    lister.status = 307


def huge(lister: Lister) -> None:
    lister.body += b" " * (1 << 20)


def wrong_ca(lister: Lister) -> None:
    write_ca(lister.account)


def no_list(lister: Lister) -> None:
    lister.body = b'{"kind":"Status","status":"Failure"}'


@as_root
@pytest.mark.parametrize("spoil", [None, another_node, another_service_account, redirect, huge, wrong_ca, no_list])
def test_the_list_entitles_and_one_that_is_none_entitles_nobody(
    group: Callable[[str], Path],
    lister: Lister,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Lister], None] | None,
) -> None:
    monkeypatch.setattr(pods_module, "_MOST_BYTES", 1 << 20)
    if spoil is not None:
        spoil(lister)
    procs = group(IN_POD)
    rights = rights_of(holdings(*OF_WEB), Reader(pods=node_pods(lister)).selectors)
    with connecting() as caller:
        assert caller.order(f"group {procs}") == "done"
        assert rights.is_slow(caller.process)
        if spoil is None:
            assert {str(one) for one in rights.identities(caller.process)} == {FRONT_ID}
        else:
            with pytest.raises(NotEntitledError):
                rights.identities(caller.process)
        with pytest.raises(NotEntitledError):
            rights_of(holdings(*OF_WEB)).identities(caller.process)  # nobody lists pods
        caller.child.kill()
        caller.child.wait(20)
    assert len(lister.seen) == (0 if spoil is wrong_ca else 1)


async def test_an_agent_whose_api_server_is_away_serves_everybody_else(lister: Lister) -> None:
    wrong_ca(lister)
    async with shop_behind_an_agent(node_pods(lister)) as (_, admin, host):
        await admin.register("front", [f"unix:uid:{os.getuid()}"], parent="host1")
        await admin.register("back", ["k8s:ns:shop"], parent="host1")
        await eventually(lambda: len(host.desk.rights.registrations) == 2)
        async with Envoy(host.socket, FRONT, STREAM_ADS) as envoy:
            await envoy.ask("default")
            assert set(await envoy.secrets()) == {"default"}


async def test_an_open_stream_is_looked_at_again_off_the_event_loop() -> None:
    threads: list[bool] = []

    class Watched:
        def find(self, uid: str) -> Pod | None:
            raise AssertionError(uid)  # we are in no pod

    async with shop_behind_an_agent(Watched()) as (_, admin, host):
        await admin.register("front", [f"unix:uid:{os.getuid()}"], parent="host1")
        await admin.register("back", ["k8s:ns:shop"], parent="host1")
        await eventually(lambda: len(host.desk.rights.registrations) == 2)
        read = host.desk._read

        def watched(process: object, registrations: object = ()) -> object:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                threads.append(True)
            else:
                threads.append(False)
            return read(process, registrations)  # type: ignore[arg-type]

        async with Envoy(host.socket, FRONT, STREAM_ADS) as envoy:
            await envoy.ask("default")
            assert set(await envoy.secrets()) == {"default"}
            host.desk._read = watched  # type: ignore[assignment]
            entry = await admin.register("back", [f"unix:uid:{os.getuid()}", "k8s:ns:shop"], parent="host1")
            await eventually(lambda: len(threads) >= 2)
            assert threads[:2] == [True, False], "in a thread first, then what is remembered"

            front = next(one for one in await admin.registrations() if one.id != entry.id and "front" in one.spiffe_id)
            await admin.unregister(front.id)
            assert (await asyncio.wait_for(envoy.until_ended(), 5)).code.name == "PERMISSION_DENIED"
