"""One ADS stream as an Envoy opens it, for whoever wants to see what comes.

The rules this module keeps:
- What is asked for by name is waited for until all of it is there, or the time is over; each response is acknowledged.
- Every failure is one of our errors, with the server's words.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import json_format

from meshca.client.status import OURS, error_of
from meshca.client.target import RECONNECTION, unix_target
from meshca.client.values import Resource
from meshca.errors import MeshcaError, UnavailableError

_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 256 << 20), *RECONNECTION]
_PATIENCE = 5.0


class AdsStream:
    """A stream of ``run/meshca.sock`` on behalf of one node."""

    def __init__(
        self, socket_path: str | Path, node_id: str, metadata: Mapping[str, Any], *, delta: bool = True
    ) -> None:
        self._path = Path(socket_path).absolute()
        self._node = base_pb2.Node(id=node_id, user_agent_name="meshca inspect")
        json_format.ParseDict(dict(metadata), self._node.metadata)
        self._delta = delta
        self._channel = grpc.insecure_channel(unix_target(self._path), options=_OPTIONS)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._responses: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(self._channel)
        method = stub.DeltaAggregatedResources if delta else stub.StreamAggregatedResources
        self._call = method(iter(self._requests.get, None))
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> AdsStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()

    def everything(self, type_url: str) -> list[Resource]:
        """Return all of a type that the node may see, which the server always answers for listeners and clusters.

        Raises:
            MeshcaError: the server refuses the caller, or does not answer.
        """
        return list(self._ask(type_url, ()).values())

    def named(self, type_url: str, names: Collection[str]) -> list[Resource]:
        """Return the resources of these names; those that do not come in time are left out.

        Raises:
            MeshcaError: the server refuses the caller.
        """
        return list(self._ask(type_url, names).values()) if names else []

    def _ask(self, type_url: str, names: Collection[str]) -> dict[str, Resource]:
        self._requests.put(self._request(type_url, names))
        found: dict[str, Resource] = {}
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                response = self._responses.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                if not names:
                    raise UnavailableError(f"no answer within {_PATIENCE:g} s", value=type_url) from None
                return found
            if isinstance(response, Exception):
                raise response
            self._requests.put(self._acknowledged(response, names if response.type_url == type_url else ()))
            if response.type_url != type_url:
                continue
            found |= {resource.name: resource for resource in _resources(response, delta=self._delta)}
            if not names or found.keys() >= set(names):
                return found

    def _request(self, type_url: str, names: Collection[str]) -> Any:
        if self._delta:
            return discovery_pb2.DeltaDiscoveryRequest(
                node=self._node, type_url=type_url, resource_names_subscribe=sorted(names)
            )
        return discovery_pb2.DiscoveryRequest(node=self._node, type_url=type_url, resource_names=sorted(names))

    def _acknowledged(self, response: Any, names: Collection[str]) -> Any:
        if self._delta:
            return discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        return discovery_pb2.DiscoveryRequest(
            type_url=response.type_url,
            resource_names=sorted(names),
            version_info=response.version_info,
            response_nonce=response.nonce,
        )

    def _read(self) -> None:
        try:
            for response in self._call:
                self._responses.put(response)
            self._responses.put(UnavailableError("the server has ended the stream"))
        except grpc.RpcError as error:
            self._responses.put(self._ours(error))

    def _ours(self, error: Any) -> MeshcaError:
        if error.code() is grpc.StatusCode.UNAVAILABLE and (OURS, "1") not in (error.trailing_metadata() or ()):
            return UnavailableError(f"no server answers at {self._path}", remedy="start one with `meshca serve`")
        return error_of(error.code().value[0], error.details() or "")


def _resources(response: Any, *, delta: bool) -> list[Resource]:
    packed = [one.resource for one in response.resources] if delta else response.resources
    return [Resource(one.type_url, _name(one.value), one.value) for one in packed]


def _name(body: bytes) -> str:
    """Return the name of a resource: the first field of all types, and written first by every protobuf library."""
    length = shift = 0
    for position in range(1, len(body)):
        length |= (body[position] & 0x7F) << shift
        shift += 7
        if body[position] < 0x80:
            return body[position + 1 : position + 1 + length].decode()
    return ""
