"""HTTP connection managers as App Mesh configured them.

Rules kept here:
- Routes come by RDS, so that a changed route or admission touches no listener.
- A connection that Envoy ends is gone a tenth of a second later (default: 1 s, which would be added to the drain time
  that revocation promises).
- A mutual listener replaces x-forwarded-client-cert with what the handshake proved; every other one removes it.
"""

from __future__ import annotations

import functools
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue

from meshca.envoy import rbac
from meshca.envoy.logs import access_log
from meshca.envoy.resources import packed
from meshca.envoy.tls import ads_source
from meshca.mesh.spec.transport import Logging

CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"
ROUTER = "envoy.filters.http.router"
WEBSOCKET = "websocket"
# Enough for the peer to read an answer in flight before the connection is reset.
_DELAYED_CLOSE = Duration(nanos=100_000_000)

_MANAGER = http_connection_manager_pb2.HttpConnectionManager


@functools.lru_cache(maxsize=1024)
def ingress_filter(routes: str, *, mutual: bool, logging: Logging | None, edge: bool = False) -> Any:
    """Return the network filter of an HTTP ingress; a mutual one checks each request's caller.

    At the edge of the mesh the client's address is that of the connection, whatever a header says.
    """
    manager = _manager("ingress", routes, logging)
    if edge:
        manager.use_remote_address.value = True
    if mutual:
        manager.forward_client_cert_details = _MANAGER.SANITIZE_SET
        manager.set_current_client_cert_details.uri = True
        manager.set_current_client_cert_details.dns = True
        manager.http_filters.append(rbac.http_filter())
    return _filter(manager)


@functools.lru_cache(maxsize=1024)
def egress_filter(routes: str, logging: Logging | None) -> Any:
    """Return the network filter of an HTTP egress listener."""
    return _filter(_manager("egress", routes, logging))


def _manager(stat_prefix: str, routes: str, logging: Logging | None) -> Any:
    return _MANAGER(
        stat_prefix=stat_prefix,
        rds=http_connection_manager_pb2.Rds(config_source=ads_source(), route_config_name=routes),
        normalize_path=BoolValue(value=True),
        merge_slashes=True,
        path_with_escaped_slashes_action=_MANAGER.KEEP_UNCHANGED,
        forward_client_cert_details=_MANAGER.SANITIZE,
        delayed_close_timeout=_DELAYED_CLOSE,
        upgrade_configs=[_MANAGER.UpgradeConfig(upgrade_type=WEBSOCKET)],
        access_log=access_log(logging),
    )


def _filter(manager: Any) -> Any:
    manager.http_filters.append(
        http_connection_manager_pb2.HttpFilter(name=ROUTER, typed_config=packed(router_pb2.Router()))
    )
    return listener_components_pb2.Filter(name=CONNECTION_MANAGER, typed_config=packed(manager))
