"""Bundles of other trust domains behind an agent: by what each process's own registration allows."""

from __future__ import annotations

import os

import grpc
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.agent_world import eventually, shop_behind_an_agent
from fakes.server_world import FRONT, STREAM_ADS, Envoy, sans
from fakes.workload_client import Workload
from harness.strangers import Stranger

from meshca.client.values import Federating

HERE, NOWHERE = f"unix:uid:{os.getuid()}", "unix:uid:4294967000"
THEIRS = "spiffe://e.test"


async def test_an_agent_gives_a_bundle_to_whom_its_registration_allows_it() -> None:
    stranger = Stranger("e.test")
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.federate(Federating("e.test", "https://127.0.0.1:1/", "https_web", "", stranger.bundle))
        # Somebody else's registration of the same identity: the stream to the server is shared with them.
        await admin.register("front", [NOWHERE], parent="host1", federates_with=["e.test"])
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: len(host.desk.rights.registrations) == 2)
        for name in (THEIRS, "ALL"):
            async with Envoy(host.socket, FRONT) as envoy:
                await envoy.ask(name)
                assert (await envoy.until_ended()).code is grpc.StatusCode.INVALID_ARGUMENT
        async with Workload(host.socket) as workload:
            bundles, tokens = workload.bundles(), workload.jwt_bundles()
            for stream in (bundles, tokens):
                assert set((await stream.next()).bundles) == {"spiffe://shop.test"}

            allowed = await admin.register(
                "front", [f"unix:gid:{os.getgid()}"], parent="host1", federates_with=["e.test"]
            )
            assert (await bundles.next()).bundles[THEIRS] == stranger.root.public_bytes(Encoding.DER)
            assert (await tokens.next()).bundles[THEIRS] == b'{"keys":[]}'
            async with Envoy(host.socket, FRONT, STREAM_ADS) as envoy:
                await envoy.ask("ALL", THEIRS)
                given: dict[str, object] = {}
                while set(given) != {"ALL", THEIRS}:
                    given |= await envoy.secrets()

                await admin.unfederate("e.test")
                while THEIRS not in (found := await envoy.secrets()):
                    pass
                assert sans(found[THEIRS]) == ["spiffe://shop.test/meshca/nobody"]
            assert set((await bundles.next()).bundles) == {"spiffe://shop.test"}
            bundles.hang_up()
            tokens.hang_up()
            await admin.unregister(allowed.id)
