"""A server on a node of Kubernetes knows a process by its pod, if it is given the pods."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import cgroups
from fakes.server_world import ANY, FRONT, FRONT_ID, PASSPHRASE, Admin, shop, temporary_home
from unit.attest.processes import as_root, connecting

from meshca.attest.pods import Pod
from meshca.client.admin import AdminClient
from meshca.delivery.callers import NotEntitledError
from meshca.server.config import Config
from meshca.server.run import running

UID = "0f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b"


class Listed:
    """The pods of a node."""

    def find(self, uid: str) -> Pod | None:
        return Pod(UID, "shop", "web-1", "web") if uid == UID else None


@pytest.fixture
def group() -> Iterator[Callable[[str], Path]]:
    with cgroups.hierarchy("v2") as root, cgroups.groups(root) as make:
        yield make


@as_root
@pytest.mark.parametrize("pods", [Listed(), None])
async def test_a_server_that_is_given_the_pods_knows_a_process_by_its_pod(
    group: Callable[[str], Path], pods: Listed | None
) -> None:
    procs = group(f"/kubepods/pod{UID}/{'5d' * 32}")
    with temporary_home() as home, connecting() as caller:
        home.secure()
        assert caller.order(f"group {procs}") == "done"
        async with running(home, Config(http=ANY, grpc=ANY), PASSPHRASE, pods) as parts:
            admin = Admin(AdminClient(home.admin_socket, deadline=20.0))
            await admin.apply(shop())
            await admin.register("front", ["k8s:ns:shop", "k8s:sa:web"])
            await asyncio.to_thread(admin.client.close)
            if pods is None:
                with pytest.raises(NotEntitledError):
                    parts.desk.recognise(caller.process, FRONT)
            else:
                assert {str(one) for one in parts.desk.recognise(caller.process, FRONT).entitled} == {FRONT_ID}
        caller.child.kill()
        caller.child.wait(20)
