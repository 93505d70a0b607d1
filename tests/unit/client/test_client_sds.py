"""SDS for what is not an Envoy, against a server that answers from a script."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from google.protobuf import any_pb2

from meshca.client.sds import SdsClient, selection
from meshca.errors import InvalidInputError, RefusedError, UnavailableError

NODE = "mesh/m/virtualNode/front"
PATIENCE = 10


class Server(sds_pb2_grpc.SecretDiscoveryServiceServicer):  # type: ignore[misc]
    """Sends what is put into ``answers``, and keeps what it hears in ``requests``."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def StreamSecrets(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        self.requests.put(next(requests))
        while True:
            answer = self.answers.get(timeout=PATIENCE)
            if isinstance(answer, tuple):
                context.abort(*answer)
            yield answer
            self.requests.put(next(requests))

    def heard(self) -> Any:
        return self.requests.get(timeout=PATIENCE)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> Iterator[SdsClient]:
    with tempfile.TemporaryDirectory(prefix="mca-") as folder, ThreadPoolExecutor() as pool:
        path = Path(folder) / "s"
        listening = grpc.server(pool)
        sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(server, listening)
        listening.add_insecure_port(f"unix:{path}")
        listening.start()
        client = SdsClient(path, NODE)
        yield client
        client.close()
        listening.stop(0).wait()


def svid(mark: bytes) -> Any:
    secret = secret_pb2.Secret(name="default")
    secret.tls_certificate.certificate_chain.inline_bytes = b"chain " + mark
    secret.tls_certificate.private_key.inline_bytes = b"key " + mark
    return secret


def roots(mark: bytes) -> Any:
    secret = secret_pb2.Secret(name="ROOTCA")
    secret.validation_context.trusted_ca.inline_bytes = b"bundle " + mark
    secret.validation_context.crl.inline_bytes = b"crl " + mark
    return secret


def response(number: int, *secrets: Any) -> Any:
    packed = []
    for secret in secrets:
        resource = any_pb2.Any()
        resource.Pack(secret)
        packed.append(resource)
    return discovery_pb2.DiscoveryResponse(version_info=f"v{number}", nonce=f"n{number}", resources=packed)


def test_svid_and_roots_are_asked_for_together_and_acknowledged_on_demand(server: Server, client: SdsClient) -> None:
    server.answers.put(response(1, svid(b"1"), roots(b"1")))
    watch = client.watch()
    first = next(watch)
    asked = server.heard()
    assert (asked.node.id, list(asked.resource_names)) == (NODE, ["default", "ROOTCA"])
    assert (first.chain, first.key, first.bundle, first.crl) == (b"chain 1", b"key 1", b"bundle 1", b"crl 1")
    assert "key 1" not in repr(first)
    assert server.requests.empty()

    client.acknowledge()
    client.acknowledge()
    heard = server.heard()
    assert (heard.version_info, heard.response_nonce, heard.HasField("error_detail")) == ("v1", "n1", False)
    server.answers.put(response(2, roots(b"2")))
    second = next(watch)
    assert (second.chain, second.crl) == (b"chain 1", b"crl 2")
    watch.close()  # type: ignore[attr-defined]


def test_an_incomplete_response_is_acknowledged_at_once(server: Server, client: SdsClient) -> None:
    server.answers.put(response(1, svid(b"1")))
    server.answers.put(response(2, roots(b"2")))
    watch = client.watch()

    assert next(watch).crl == b"crl 2"
    server.heard()
    assert server.heard().response_nonce == "n1"
    watch.close()  # type: ignore[attr-defined]


def test_a_refusal_comes_in_the_servers_words_and_watching_again_asks_again(server: Server, client: SdsClient) -> None:
    for _ in range(2):
        server.answers.put((grpc.StatusCode.PERMISSION_DENIED, "no registration"))
        with pytest.raises(RefusedError, match="no registration"):
            next(client.watch())


def test_a_stream_can_be_given_up(server: Server, client: SdsClient) -> None:
    server.answers.put(response(1, svid(b"1"), roots(b"1")))
    watch = client.watch()
    next(watch)
    client.restart()
    with pytest.raises(UnavailableError, match="given up"):
        next(watch)


def test_no_server_is_said_with_a_remedy() -> None:
    client = SdsClient("/tmp/no-such-socket", NODE)
    with pytest.raises(UnavailableError, match=r"no server answers at /tmp/no-such-socket.*meshca serve"):
        next(client.watch())
    client.close()


@pytest.mark.parametrize(
    ("node", "selected"),
    [
        (NODE, (NODE, "default")),
        (
            "arn:aws:appmesh:eu-west-1:1:mesh/m/virtualNode/a",
            ("arn:aws:appmesh:eu-west-1:1:mesh/m/virtualNode/a", "default"),
        ),
        (f"spiffe://m.test/{NODE}", (NODE, f"spiffe://m.test/{NODE}")),
        ("spiffe://m.test/own", ("spiffe://m.test/own", "spiffe://m.test/own")),
    ],
)
def test_how_a_node_is_selected(node: str, selected: tuple[str, str]) -> None:
    assert selection(node) == selected


def test_a_bare_name_cannot_be_looked_up() -> None:
    with pytest.raises(InvalidInputError, match="bare name"):
        selection("front")
