"""A fleet of SDS clients in one process: each with a connection of its own, each acknowledging whatever it gets.

Run as ``python -m benchmarks.streams SOCKET COUNT NODE_ID NAME…``; prints a line of JSON once all have an answer
and then goes on until its standard input closes. The node ids are NODE_ID/0, NODE_ID/1, …: one Envoy is a process and
its node.id, so each client gets a key and certificate of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from benchmarks.bare import METHOD

_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20)]


class Client:
    """One stream on one connection."""

    def __init__(self, socket: str, node_id: str, names: list[str]) -> None:
        self.first = asyncio.Event()
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", _OPTIONS)
        self._node = base_pb2.Node(id=node_id, cluster="bench")
        self._names = names

    async def run(self) -> None:
        """Subscribe, then acknowledge each response."""
        call = self._channel.stream_stream(METHOD)()
        await call.write(self._request(node=self._node))
        answer = discovery_pb2.DiscoveryResponse()
        while (message := await call.read()) is not grpc.aio.EOF:
            answer.ParseFromString(message)
            await call.write(self._request(version_info=answer.version_info, response_nonce=answer.nonce))
            self.first.set()
        raise RuntimeError(f"the stream ended: {await call.code()} {await call.details()}")

    def _request(self, **fields: object) -> bytes:
        return bytes(
            discovery_pb2.DiscoveryRequest(type_url=_TYPE, resource_names=self._names, **fields).SerializeToString()
        )


async def main(socket: str, count: int, node_id: str, names: list[str]) -> None:
    """Connect all, report, and go on until standard input closes."""
    began = time.perf_counter()
    clients = [Client(socket, f"{node_id}/{n}", names) for n in range(count)]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    waiting = asyncio.gather(*(client.first.wait() for client in clients))
    await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED, timeout=120)
    for task in tasks:
        if task.done():
            task.result()
    if not waiting.done():
        raise RuntimeError("not every stream was answered in 120 s")
    print(json.dumps({"connected": time.perf_counter() - began}), flush=True)
    with contextlib.suppress(EOFError):
        await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
