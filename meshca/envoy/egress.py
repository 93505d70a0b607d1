"""The egress side of a node: where its application finds each backend.

Rules kept here (measured, design: what real Envoy does):
- Where nothing intercepts: one listener per HTTP backend port, so that ending the streams to one server cuts as little
  else as possible, and one per TCP service, at an address of its own. A port that the node itself serves is moved to
  App Mesh's 15001: the application or the ingress already has it.
- Where the kernel intercepts: one listener on 15001, with one filter chain per backend port, since a connection tells
  nothing but where it was going. Two services can share a port only if both are called by HTTP.
- A chain's name carries the drain epochs of the servers behind it, as the metadata of their clusters does.
- DROP_ALL: nothing leads to a host that no backend names. ALLOW_ALL can let through only what is intercepted: to other
  ports, and on a backend's port to other host names, which App Mesh forgot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from meshca.envoy import clusters, http, listeners, matches, names, retries, routes, tcp
from meshca.envoy.calls import Backend, Calls, call_clusters, calls_of
from meshca.envoy.listeners import ANY_CONNECTION, ChainMatch
from meshca.envoy.placement import Placement
from meshca.envoy.resources import Generated, generated, serialised
from meshca.envoy.snapshot import Snapshot
from meshca.errors import ConflictError
from meshca.mesh.model import VirtualNode
from meshca.mesh.spec.transport import Duration, RequestTimeout

DISPLACED_PORT = 15001
INTERCEPTED_PORT = 15001

_UNLIMITED = RequestTimeout(per_request=Duration(unit="s", value=0))


def egress(node: VirtualNode, snapshot: Snapshot, placement: Placement) -> list[Generated]:
    """Return clusters, listeners and routes of all that a node calls.

    Raises:
        ConflictError: two ports would have to be moved to the same one, or two services are told apart by nothing.
    """
    calls = calls_of(node, snapshot)
    found = call_clusters(calls)
    return [*found, *(_intercepted(calls, placement) if placement.intercepted else _plain(calls, node, placement))]


# -- where nothing intercepts


def _plain(calls: Calls, node: VirtualNode, placement: Placement) -> Iterator[Generated]:
    by_port = _http_ports(calls)
    bound = _bound_ports(node, placement, by_port)
    host = placement.egress_host
    for port, backends in by_port.items():
        shell = listeners.Shell(names.egress_listener(host, bound[port]), host, bound[port], listeners.OUTBOUND)
        yield listeners.assembled(shell, [_http_chain(calls, port, backends)])
        yield _route_table(calls, port, (port, bound[port]), backends)
    of_tcp = [backend for backend in calls.backends if backend.at.protocol == "tcp"]
    addresses = tcp.addresses((backend.service for backend in of_tcp), host)
    for backend in of_tcp:
        if chain := _tcp_chain(calls, backend):  # else there is no listener: TCP's 503 is a refused connection
            at, port = addresses[backend.service], backend.at.port
            shell = listeners.Shell(names.egress_listener(at, port), at, port, listeners.OUTBOUND)
            yield listeners.assembled(shell, [chain])


def _bound_ports(node: VirtualNode, placement: Placement, wanted: Iterable[int]) -> dict[int, int]:
    own = {listener.port_mapping.port for listener in node.spec.listeners}
    taken = own | {port for port in (placement.ingress_port,) if port is not None}
    bound = {port: DISPLACED_PORT if port in taken else port for port in wanted}
    if len(set(bound.values())) != len(bound) or (DISPLACED_PORT in taken and DISPLACED_PORT in bound.values()):
        raise ConflictError(
            f"its backends' ports {sorted(bound)} do not fit beside its own {sorted(taken)}",
            field=str(node.key),
            remedy=f"at most one of them can be moved to {DISPLACED_PORT}",
        )
    return bound


# -- where the kernel intercepts


def _intercepted(calls: Calls, placement: Placement) -> Iterator[Generated]:
    by_port = _http_ports(calls)
    open_to_all = calls.snapshot.mesh_set.mesh(calls.caller.mesh).spec.egress_filter.type == "ALLOW_ALL"
    anywhere = names.anywhere_cluster(calls.caller.mesh) if open_to_all else None
    chains: list[bytes] = []
    for port, backends in by_port.items():
        chains.append(_http_chain(calls, port, backends, ChainMatch(port)))
        yield _route_table(calls, port, (port,), backends, anywhere)
    chains += _tcp_chains(calls, by_port)
    default = None
    if anywhere is not None:
        yield generated(clusters.anywhere(anywhere))
        proxy = tcp.proxy("egress", [routes.Share(anywhere, 1)], None, calls.caller.spec.logging)
        default = listeners.chain("egress:anywhere", [proxy])
    if chains or default is not None:  # else there is no listener, so that what is intercepted is refused
        host = placement.egress_host
        name = names.egress_listener(host, INTERCEPTED_PORT)
        original = (listeners.original_destination(),)
        shell = listeners.Shell(name, host, INTERCEPTED_PORT, listeners.OUTBOUND, original)
        yield listeners.assembled(shell, chains, default)


def _tcp_chains(calls: Calls, of_http: Iterable[int]) -> list[bytes]:
    found: list[bytes] = []
    taken: dict[int, str] = dict.fromkeys(of_http, "an HTTP service")
    for backend in calls.backends:
        if backend.at.protocol == "tcp" and (chain := _tcp_chain(calls, backend, ChainMatch(backend.at.port))):
            if other := taken.get(backend.at.port):
                raise ConflictError(
                    f"{other} and {backend.service} are both called at port {backend.at.port}: where traffic is "
                    "intercepted, nothing but the port tells TCP services apart",
                    field=str(calls.caller.key),
                    remedy="give one of the routers another port",
                )
            taken[backend.at.port] = backend.service
            found.append(chain)
    return found


# -- both


def _http_ports(calls: Calls) -> dict[int, list[Backend]]:
    by_port: dict[int, list[Backend]] = defaultdict(list)
    for backend in calls.backends:
        if backend.at.protocol != "tcp":
            by_port[backend.at.port].append(backend)
    return dict(sorted(by_port.items()))


def _http_chain(calls: Calls, port: int, backends: list[Backend], match: ChainMatch = ANY_CONNECTION) -> bytes:
    manager = http.egress_filter(names.egress_routes(port), calls.caller.spec.logging)
    return listeners.chain(f"egress:{port}#{calls.drain(backends)}", [manager], match)


def _tcp_chain(calls: Calls, backend: Backend, match: ChainMatch = ANY_CONNECTION) -> bytes | None:
    """Return the chain of a TCP service; None where it has no weight anywhere."""
    if not backend.at.rules:
        return None
    rule = backend.at.rules[0]
    shares = calls.shares(backend, rule)
    if not any(share.weight for share in shares):
        return None
    proxy = tcp.proxy("egress", shares, rule.idle, calls.caller.spec.logging)
    return listeners.chain(f"egress:{backend.service}:{backend.at.port}#{calls.drain([backend])}", [proxy], match)


def _route_table(
    calls: Calls, port: int, ports: tuple[int, ...], backends: list[Backend], anywhere: str | None = None
) -> Generated:
    hosts = [_virtual_host(calls, backend, ports) for backend in backends]
    # A service without a provider has no port of its own: it answers 503 wherever the client calls others.
    hosts += [
        serialised(routes.host(service, _domains(service, ports), [routes.unavailable(routes.everything())]))
        for service in calls.idle
    ]
    if anywhere is not None:
        share = routes.Share(anywhere, 1)
        passed_on = routes.forward(routes.everything(), [share], _UNLIMITED)
        hosts.append(serialised(routes.host("anywhere", ["*"], [passed_on])))
    return routes.table(names.egress_routes(port), hosts)


def _virtual_host(calls: Calls, backend: Backend, ports: tuple[int, ...]) -> bytes:
    """Return the virtual host of a service, which all share who call it at the same ports by the same clusters."""
    shares = tuple(calls.shares(backend, rule) for rule in backend.at.rules)

    def made() -> bytes:
        built: list[Any] = [
            routes.forward(matches.message(rule.match), led_to, rule.timeout, retries.policy(rule.retry))
            for rule, led_to in zip(backend.at.rules, shares, strict=True)
        ]
        return serialised(routes.host(backend.service, _domains(backend.service, ports), built))

    return calls.resolved.once(("host", calls.caller.mesh, backend.service, ports, shares), made)


def _domains(service: str, ports: tuple[int, ...]) -> list[str]:
    return [service, *(f"{service}:{port}" for port in sorted(set(ports)))]
