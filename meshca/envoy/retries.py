"""When a request is tried again: a route's policy in Envoy's words, or App Mesh's invisible one.

Rules kept here (User Guide, Envoy defaults; real configurations):
- Where a route has no policy, and where a node provides the service, a request is tried twice more: on 503, on gRPC
  unavailable, refused or reset.
- A policy replaces that wholesale; events that it does not name are not retried.
- A retry goes to another host, if there is one.
"""

from __future__ import annotations

import functools
from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from meshca.envoy.resources import milliseconds, packed
from meshca.mesh.spec.routes import GrpcRetryPolicy, HttpRetryPolicy

PREVIOUS_HOSTS = "envoy.retry_host_predicates.previous_hosts"

_POLICY = route_components_pb2.RetryPolicy
_UNAVAILABLE = 503
_DEFAULT_RETRIES = 2
_DEFAULT_RETRY_ON = "connect-failure,refused-stream,reset,retriable-status-codes,unavailable"
_BY_STATUS = "retriable-status-codes"
_SERVER_ERRORS = (500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511)
_EVENTS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "server-error": (("reset", _BY_STATUS), _SERVER_ERRORS),
    "gateway-error": (("reset", _BY_STATUS), (502, 503, 504)),
    "client-error": ((_BY_STATUS,), (409,)),
    "stream-error": (("refused-stream",), ()),
    "connection-error": (("connect-failure",), ()),
}
_MOST_RETRIES = 2**32 - 1
_HOST_ATTEMPTS = 5


def policy(written: HttpRetryPolicy | None) -> Any:
    """Return the retry policy of a route."""
    return _default() if written is None else _written(written)


@functools.cache
def _default() -> Any:
    return _POLICY(
        retry_on=_DEFAULT_RETRY_ON,
        num_retries=UInt32Value(value=_DEFAULT_RETRIES),
        retriable_status_codes=[_UNAVAILABLE],
    )


def _written(policy: HttpRetryPolicy) -> Any:
    conditions: set[str] = set()
    statuses: set[int] = set()
    for event in (*(policy.http_retry_events or ()), *(policy.tcp_retry_events or ())):
        named, codes = _EVENTS[event]
        conditions.update(named)
        statuses.update(codes)
    if isinstance(policy, GrpcRetryPolicy):
        conditions.update(policy.grpc_retry_events or ())
    made = _POLICY(
        retry_on=",".join(sorted(conditions)),
        num_retries=UInt32Value(value=min(policy.max_retries, _MOST_RETRIES)),
        retriable_status_codes=sorted(statuses),
        retry_host_predicate=[_previous_hosts()],
        host_selection_retry_max_attempts=_HOST_ATTEMPTS,
    )
    if policy.per_retry_timeout.milliseconds:
        made.per_try_timeout.CopyFrom(milliseconds(policy.per_retry_timeout.milliseconds))
    return made


@functools.cache
def _previous_hosts() -> Any:
    return _POLICY.RetryHostPredicate(
        name=PREVIOUS_HOSTS, typed_config=packed(previous_hosts_pb2.PreviousHostsPredicate())
    )
