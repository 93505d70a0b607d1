"""A client of SDS for what is not an Envoy: own SVID and trust bundle over one stream.

The rules this module keeps:
- SVID and roots are asked for in one request and given out only together.
- A response is acknowledged when the caller says that it is in force; one that is incomplete is acknowledged at
  once, so that the server goes on.
- Every failure is one of our errors, with the server's words.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc

from meshca.client.status import OURS, error_of
from meshca.client.target import RECONNECTION, unix_target
from meshca.errors import InvalidInputError, UnavailableError

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type URL
_OPTIONS = [
    # A proxy from the environment has no business on a Unix socket.
    ("grpc.enable_http_proxy", 0),
    *RECONNECTION,
]
DEFAULT_NAME = "default"
ROOTS_NAME = "ROOTCA"


@dataclass(frozen=True, slots=True)
class Secrets:
    """SVID and trust of one moment, all PEM."""

    version: str
    chain: bytes
    key: bytes = field(repr=False)
    bundle: bytes = field(repr=False)
    crl: bytes = field(repr=False)
    leaf_crl_only: bool = False


class SdsClient:
    """A connection to ``run/meshca.sock`` on behalf of one identity."""

    def __init__(self, socket_path: str | Path, node: str) -> None:
        self._path = Path(socket_path).absolute()
        self._node_id, self._svid_name = selection(node)
        self._channel = grpc.insecure_channel(unix_target(self._path), options=_OPTIONS)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._latest: tuple[str, str] | None = None
        self._call: Any = None

    def close(self) -> None:
        """End the connection."""
        self._requests.put(None)
        self._channel.close()

    def watch(self) -> Iterator[Secrets]:
        """Yield the current secrets at once, then each change.

        Raises:
            MeshcaError: the stream has ended; in the server's words, if it gave any.
        """
        self._requests = queue.SimpleQueue()
        self._latest = None
        requests = self._requests
        requests.put(self._request("", ""))
        held: dict[str, Any] = {}
        self._call = sds_pb2_grpc.SecretDiscoveryServiceStub(self._channel).StreamSecrets(iter(requests.get, None))
        try:
            for response in self._call:
                held |= _secrets(response)
                self._latest = (response.version_info, response.nonce)
                found = self._complete(held, response.version_info)
                if found is None:
                    self.acknowledge()
                else:
                    yield found
        except grpc.RpcError as error:
            raise self._ours(error) from error
        finally:
            requests.put(None)

    def acknowledge(self) -> None:
        """ACK the newest response."""
        if self._latest is not None:
            self._requests.put(self._request(*self._latest))
            self._latest = None

    def restart(self) -> None:
        """End the stream, so that the next one begins with the newest secrets: unanswered, a server sends no others."""
        if self._call is not None:
            self._call.cancel()

    def _request(self, version: str, nonce: str) -> Any:
        return discovery_pb2.DiscoveryRequest(
            node=base_pb2.Node(id=self._node_id, user_agent_name="meshca drop"),
            type_url=SECRET_TYPE,
            resource_names=[self._svid_name, ROOTS_NAME],
            version_info=version,
            response_nonce=nonce,
        )

    def _complete(self, held: dict[str, Any], version: str) -> Secrets | None:
        svid, roots = held.get(self._svid_name), held.get(ROOTS_NAME)
        if svid is None or roots is None:
            return None
        return Secrets(
            version=version,
            chain=svid.tls_certificate.certificate_chain.inline_bytes,
            key=svid.tls_certificate.private_key.inline_bytes,
            bundle=roots.validation_context.trusted_ca.inline_bytes,
            crl=roots.validation_context.crl.inline_bytes,
            leaf_crl_only=roots.validation_context.only_verify_leaf_cert_crl,
        )

    def _ours(self, error: Any) -> Exception:
        code = error.code()
        if code is grpc.StatusCode.CANCELLED:
            return UnavailableError("the stream was given up, to begin again with the newest secrets")
        if code is grpc.StatusCode.UNAVAILABLE and (OURS, "1") not in (error.trailing_metadata() or ()):
            return UnavailableError(f"no server answers at {self._path}", remedy="start one with `meshca serve`")
        return error_of(code.value[0], error.details() or "")


def selection(node: str) -> tuple[str, str]:
    """Return the node.id and the secret name that select NODE over SDS.

    Raises:
        InvalidInputError: a bare name, which only the admin API can look up.
    """
    if node.startswith("spiffe://"):
        path = node.removeprefix("spiffe://").partition("/")[2]
        return (path if path.startswith("mesh/") else node), node
    if node.startswith(("mesh/", "arn:")):
        return node, DEFAULT_NAME
    raise InvalidInputError(
        "a bare name can only be looked up through the admin socket",
        field="NODE",
        value=node,
        remedy="name it as mesh/<mesh>/virtualNode/<name> or by its SPIFFE ID",
    )


def _secrets(response: Any) -> dict[str, Any]:
    found = {}
    for resource in response.resources:
        secret = secret_pb2.Secret()
        if resource.Unpack(secret):
            found[secret.name] = secret
    return found
