"""A fleet of Envoys as far as ADS goes: each with a connection of its own, following what its resources lead to.

Run as ``python -m benchmarks.fleet SOCKET NODE_ID…``; prints a line once every client has all that it asked for.
For each line on standard input it prints what has come since the last one, as {node id: {type: responses}}.
"""

from __future__ import annotations

import asyncio
import collections
import json
import sys
import time

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from meshca.envoy.consistency import references
from meshca.envoy.resources import CLUSTER, LISTENER, Generated

_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20)]


class Client:
    """One delta ADS stream that subscribes to what it is led to, and acknowledges whatever comes."""

    def __init__(self, socket: str, node_id: str) -> None:
        self.node_id = node_id
        self.complete = asyncio.Event()
        self.came: collections.Counter[str] = collections.Counter()
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", _OPTIONS)
        self._asked: dict[str, set[str]] = collections.defaultdict(set)
        self._waiting: set[tuple[str, str]] = {(CLUSTER, "*"), (LISTENER, "*")}

    async def run(self) -> None:
        """Ask for clusters and listeners, follow them, and go on for as long as the stream lasts."""
        call = self._channel.stream_stream(_METHOD)()
        node = base_pb2.Node(id=self.node_id, cluster="bench")
        await call.write(_request(type_url=CLUSTER, node=node))
        await call.write(_request(type_url=LISTENER))
        answer = discovery_pb2.DeltaDiscoveryResponse()
        while (message := await call.read()) is not grpc.aio.EOF:
            answer.ParseFromString(message)
            self.came[answer.type_url.rpartition(".")[2]] += 1
            await call.write(_request(type_url=answer.type_url, response_nonce=answer.nonce))
            for type_url, names in self._led_to(answer).items():
                await call.write(_request(type_url=type_url, resource_names_subscribe=sorted(names)))
            if not self._waiting:
                self.complete.set()
        raise RuntimeError(f"the stream ended: {await call.code()} {await call.details()}")

    def _led_to(self, answer: discovery_pb2.DeltaDiscoveryResponse) -> dict[str, set[str]]:
        """Return what this response's resources name for the first time, and note what has come."""
        new: dict[str, set[str]] = collections.defaultdict(set)
        self._waiting.discard((answer.type_url, "*"))
        for one in answer.resources:
            self._waiting.discard((answer.type_url, one.name))
            for leads_to in references(Generated(answer.type_url, one.name, one.resource.value)):
                if leads_to.type_url != CLUSTER and leads_to.name not in self._asked[leads_to.type_url]:
                    self._asked[leads_to.type_url].add(leads_to.name)
                    self._waiting.add((leads_to.type_url, leads_to.name))
                    new[leads_to.type_url].add(leads_to.name)
        return new


def _request(**fields: object) -> bytes:
    return bytes(discovery_pb2.DeltaDiscoveryRequest(**fields).SerializeToString())


async def main(socket: str, node_ids: list[str]) -> None:
    """Connect all, report, and answer each line of standard input."""
    began = time.perf_counter()
    clients = [Client(socket, node_id) for node_id in node_ids]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    waiting = asyncio.gather(*(client.complete.wait() for client in clients))
    await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED, timeout=120)
    for task in tasks:
        if task.done():
            task.result()
    if not waiting.done():
        raise RuntimeError("not every Envoy had all that it asked for in 120 s")
    print(json.dumps({"connected": time.perf_counter() - began}), flush=True)
    for client in clients:
        client.came.clear()
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps({client.node_id: client.came for client in clients if client.came}), flush=True)
        for client in clients:
            client.came.clear()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
