"""Two gRPC servers on a folder of layout grpc: `python -m harness.grpc_servers FOLDER FETCHED_PORT WATCHED_PORT`.

The first one has grpcio's certificate fetcher look at the folder when a client comes. The second one is C-core's own
file watcher (`file_watcher` in an xDS bootstrap), behind the smallest control plane there can be.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("private_key.pem", "certificates.pem", "ca_certificates.pem")


# --- grpcio's fetcher: what docs/files.md shows


def read_generation(folder: Path) -> tuple[bytes, bytes, bytes]:
    """Return key, chain and bundle of one generation: the link is followed once."""
    opened = os.open(folder / "current", os.O_RDONLY | os.O_DIRECTORY)
    try:
        key, chain, bundle = (_read(opened, name) for name in NAMES)
    finally:
        os.close(opened)
    return key, chain, bundle


def _read(folder: int, name: str) -> bytes:
    with open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
        return file.read()


def fetched(folder: Path) -> grpc.ServerCredentials:
    """Return credentials that are those of the folder whenever a client comes."""
    link = folder / "current"
    seen = os.readlink(link)

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, chain, bundle = read_generation(folder)
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=bundle)

    def fetch() -> grpc.ServerCertificateConfiguration | None:  # None: as before
        nonlocal seen
        now = os.readlink(link)
        if now == seen:
            return None
        seen = now
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), fetch, True)  # type: ignore[arg-type]


# --- C-core's file watcher, which only xDS reaches from Python


def bootstrap(folder: Path, control_plane: int) -> str:
    """Return the xDS bootstrap that names the folder."""
    files = dict(zip(("private_key_file", "certificate_file", "ca_certificate_file"), NAMES, strict=True))
    provider = {key: str(folder / "current" / name) for key, name in files.items()} | {"refresh_interval": "1s"}
    server = {"server_uri": f"127.0.0.1:{control_plane}", "channel_creds": [{"type": "insecure"}]}
    return json.dumps({
        "xds_servers": [{**server, "server_features": ["xds_v3"]}],
        "node": {"id": "watched"},
        "server_listener_resource_name_template": "%s",
        "certificate_providers": {"files": {"plugin_name": "file_watcher", "config": provider}},
    })  # fmt: skip


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def listener(port: int) -> Any:
    """Return the listener of a gRPC server with mutual TLS out of the provider `files`."""
    instance = common_pb2.CertificateProviderPluginInstance(instance_name="files")
    tls = tls_pb2.DownstreamTlsContext(
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_certificate_provider_instance=instance,
            validation_context=common_pb2.CertificateValidationContext(ca_certificate_provider_instance=instance),
        )
    )
    tls.require_client_certificate.value = True
    route = route_components_pb2.Route(non_forwarding_action=route_components_pb2.NonForwardingAction())
    route.match.prefix = ""
    manager = hcm.HttpConnectionManager(
        http_filters=[hcm.HttpFilter(name="router", typed_config=_packed(router_pb2.Router()))]
    )
    manager.route_config.virtual_hosts.add(name="all", domains=["*"], routes=[route])
    chain = listener_components_pb2.FilterChain(
        filters=[listener_components_pb2.Filter(name="http", typed_config=_packed(manager))],
        transport_socket=base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=_packed(tls)),
    )
    found = listener_pb2.Listener(name=f"127.0.0.1:{port}", default_filter_chain=chain)
    found.address.socket_address.address, found.address.socket_address.port_value = "127.0.0.1", port
    return found


class ControlPlane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Answers the one question for the listener, once."""

    def __init__(self, port: int) -> None:
        self._listener = listener(port)

    def StreamAggregatedResources(self, requests: Iterator[Any], _: Any) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            if request.HasField("error_detail"):
                print("NACK", request.error_detail.message, flush=True)  # noqa: T201
            if not request.version_info and not request.HasField("error_detail"):
                yield discovery_pb2.DiscoveryResponse(
                    version_info="1", nonce="1", type_url=request.type_url, resources=[_packed(self._listener)]
                )


def serve(server: grpc.Server, port: int, credentials: grpc.ServerCredentials) -> grpc.Server:
    """Serve `/test.Echo/Unary` at a port."""
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Unary": handler}),))
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    return server


def main() -> None:
    folder, first, second = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    plane = grpc.server(ThreadPoolExecutor(4))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(ControlPlane(second), plane)
    os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = bootstrap(folder, plane.add_insecure_port("127.0.0.1:0"))
    plane.start()
    one = serve(grpc.server(ThreadPoolExecutor(4)), first, fetched(folder))
    other = grpc.server(ThreadPoolExecutor(4), xds=True)
    serve(other, second, grpc.xds_server_credentials(grpc.insecure_server_credentials()))
    one.wait_for_termination()


if __name__ == "__main__":
    main()
