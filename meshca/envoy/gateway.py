"""A virtual gateway: calls from outside, led by its routes straight to the nodes behind a service.

Rules kept here:
- App Mesh sent each request through the gateway once more, to find the service by a header; here a gateway route and
  the routes of the service's router are composed beforehand (rewrites.py), and there is no hop and no such header.
- What a gateway route takes is never passed to another one: where no route of its router fits, the answer is 404.
- Of gateway routes the lower priority comes first, then the exact host name, then the longer suffix, then the path as
  in matches.py, then the name. A route without a host name is tried for every host.
- The host becomes the service's name, unless `defaultTargetHostname` is DISABLED. A host name is compared without port.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.route.v3 import route_pb2

from meshca.envoy import families, matches, names, rbac, retries, rewrites, routes
from meshca.envoy.calls import Backend, Calls, call_clusters, calls_of
from meshca.envoy.entrances import Entrance, HttpEntry, rbac_override
from meshca.envoy.ingress import listener_of, require_room
from meshca.envoy.matches import EVERYTHING, Match
from meshca.envoy.placement import Placement
from meshca.envoy.resources import Generated, serialised
from meshca.envoy.rewrites import Form
from meshca.envoy.services import Rule, priority_of
from meshca.envoy.snapshot import Snapshot
from meshca.errors import ConflictError
from meshca.mesh.model import GatewayRoute, VirtualGateway
from meshca.mesh.spec.gateway_routes import HostnameMatch, HttpGatewayRoute, HttpRewrite
from meshca.mesh.spec.listeners import GatewayListener

_NOT_FOUND = 404
_EVERY_HOST = "*"


def gateway(own: VirtualGateway, snapshot: Snapshot, placement: Placement) -> list[Generated]:
    """Return listeners, routes and clusters of a gateway.

    Raises:
        ConflictError: its listeners have no room, or a route behind it cannot be judged there.
    """
    placement = Placement(placement.ingress_host, placement.ingress_port)  # nobody intercepts what comes to a gateway
    require_room(own, placement)
    calls = calls_of(own, snapshot)
    host = families.any_host(placement.ingress_host, families.of_mesh(snapshot.mesh_set, own.mesh))
    found = call_clusters(calls)
    written = [_Written.of(route) for route in snapshot.mesh_set.gateway_routes_of(own)]
    behind = calls.drain(calls.backends)
    for listener in own.spec.listeners:
        entrance = _entrance(own, listener, snapshot, behind)
        taken = [one for one in written if one.match_port in {None, listener.port_mapping.port}]
        found.append(listener_of([entrance], host, placement))
        found.append(_table(calls, entrance, taken))
    return found


def _entrance(own: VirtualGateway, listener: GatewayListener, snapshot: Snapshot, behind: str) -> Entrance:
    port = listener.port_mapping.port
    return Entrance(
        caller=own,
        listener=listener,
        server=snapshot.identities.of(own.key),
        admitted=snapshot.policy.admitted_clients(own.key, port),
        snapshot=snapshot,
        entry=HttpEntry(names.ingress_routes(port), own.spec.logging, edge=True),
        behind=behind,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """A gateway route, read."""

    route: GatewayRoute
    match: Match
    hostname: HostnameMatch | None
    rewrite: HttpRewrite | None
    match_port: int | None
    keeps_host: bool

    @classmethod
    def of(cls, route: GatewayRoute) -> _Written:
        written = route.spec.route
        http = written if isinstance(written, HttpGatewayRoute) else None
        match = matches.of_http(http.match) if http else matches.of_grpc(written.match)  # type: ignore[arg-type]
        host = written.action.rewrite.hostname if written.action.rewrite else None
        return cls(
            route=route,
            match=match,
            hostname=written.match.hostname,
            rewrite=http.action.rewrite if http else HttpRewrite(),
            match_port=written.match.port,
            keeps_host=host is not None and host.default_target_hostname == "DISABLED",
        )

    @property
    def domain(self) -> str:
        """The virtual host that it belongs to."""
        if self.hostname is None:
            return _EVERY_HOST
        if self.hostname.exact is not None:
            return self.hostname.exact.lower()
        return f"*{(self.hostname.suffix or '').lower()}"

    @property
    def forms(self) -> tuple[Form, ...]:
        """The ways in which it takes requests; a gRPC call keeps its path."""
        return (Form(self.match, None),) if self.match.grpc else rewrites.forms(self.match, self.rewrite)

    def takes(self, domain: str) -> bool:
        """Tell whether it takes requests to every host of a virtual host."""
        own = self.domain
        return own == domain or (own.startswith("*") and domain.endswith(own[1:]) and domain != _EVERY_HOST)

    def order(self) -> tuple[object, ...]:
        """Return what routes are sorted by."""
        wildcard = self.domain.startswith("*")
        priority = priority_of(self.route.spec.priority)
        return (priority, wildcard, -len(self.domain), *self.match.precedence(), self.route.name)


def _table(calls: Calls, entrance: Entrance, written: Sequence[_Written]) -> Generated:
    ordered = sorted(written, key=_Written.order)
    built = {one: list(_routes(calls, one)) for one in ordered}
    hosts = [
        serialised(routes.host(domain, [domain], [made for one in ordered if one.takes(domain) for made in built[one]]))
        for domain in sorted({one.domain for one in ordered})
    ]
    rest = route_pb2.RouteConfiguration(ignore_port_in_host_matching=True)
    if entrance.mutual:
        rest.typed_per_filter_config[rbac.HTTP_FILTER].CopyFrom(rbac_override(entrance))
    return routes.table(names.ingress_routes(entrance.port), hosts, rest)


def _routes(calls: Calls, written: _Written) -> Iterator[Any]:
    """Return a gateway route composed with every route of the service behind it."""
    backend = _backend(calls, written)
    for form in written.forms:
        if backend is None:
            yield routes.unavailable(matches.message(form.match))
            continue
        for rule in backend.at.rules:
            for composed in _composed(written, form, rule):
                yield _forward(calls, written, backend, rule, composed)
        if all(rule.match != EVERYTHING for rule in backend.at.rules):
            yield routes.answer(matches.message(form.match), _NOT_FOUND)


def _composed(written: _Written, form: Form, rule: Rule) -> Iterator[Form]:
    try:
        yield from rewrites.compose(form, rule.match)
    except ConflictError as error:
        raise ConflictError(str(error), field=str(written.route.key)) from error


def _backend(calls: Calls, written: _Written) -> Backend | None:
    target = written.route.spec.target
    name = target.virtual_service.virtual_service_name
    found = (one for one in calls.backends if one.service == name and target.port in {None, one.at.port})
    return next(found, None)


def _forward(calls: Calls, written: _Written, backend: Backend, rule: Rule, form: Form) -> Any:
    retry = retries.policy(rule.retry)
    made = routes.forward(matches.message(form.match), calls.shares(backend, rule), rule.timeout, retry)
    if made.HasField("route"):
        if form.rewrite is not None:
            rewrites.apply(made.route, form.match, form.rewrite)
        if not written.keeps_host:
            made.route.host_rewrite_literal = backend.service
    return made
