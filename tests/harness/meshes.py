"""A mesh of real Envoys driven over ADS: two clients, and one server for each protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envoy.config.listener.v3 import listener_pb2
from harness.traffic import Apps, GrpcStream, GrpcUnary, H1Active, Probe, Tcp, WebSocket
from harness.world import FIRST_UID, World, free_port, mesh, node, service

from meshca.envoy.placement import Placement
from meshca.envoy.resources import LISTENER

if TYPE_CHECKING:
    from harness.traffic import Address

    from meshca.cli.demo.envoy import EnvoyProcess

CLIENTS = ("front", "bystander")
SERVERS = {"web": "http", "rpc": "grpc", "raw": "tcp"}
KINDS: dict[str, tuple[str, type[Probe]]] = {
    "h1": ("web", H1Active),
    "websocket": ("web", WebSocket),
    "unary": ("rpc", GrpcUnary),
    "stream": ("rpc", GrpcStream),
    "tcp": ("raw", Tcp),
}


@dataclass
class Fleet:
    """Five Envoys and three applications, and where to find them."""

    world: World
    apps: Apps = field(default_factory=lambda: Apps("app"))
    ports: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    envoys: dict[str, EnvoyProcess] = field(default_factory=dict)
    _listeners: dict[str, list[Address]] = field(default_factory=dict)

    @classmethod
    async def start(cls, world: World) -> Fleet:
        """Apply the mesh, register a uid for each node, start everything."""
        fleet = cls(world)
        for name in (*SERVERS, *CLIENTS):
            fleet.hosts[name] = world.host()
        for name in SERVERS:
            # Free on the Envoy's own address, on the application's, and on those of the clients' egress.
            fleet.ports[name] = free_port("0.0.0.0")
        world.apply(*fleet.objects())
        for index, name in enumerate((*SERVERS, *CLIENTS)):
            world.register(name, FIRST_UID + index)
        await fleet.apps.http(("127.0.0.1", fleet.ports["web"]))
        await fleet.apps.grpc(("127.0.0.1", fleet.ports["rpc"]))
        await fleet.apps.tcp(("127.0.0.1", fleet.ports["raw"]))
        for index, name in enumerate((*SERVERS, *CLIENTS)):
            host = fleet.hosts[name]
            ingress = host if name in SERVERS else ""
            fleet.envoys[name] = world.envoy(name, uid=FIRST_UID + index, egress=host, ingress=ingress)
        for name in CLIENTS:
            fleet._listeners_of(name)  # now, so that it does not hold up the probes
        return fleet

    def objects(self, clients: tuple[str, ...] = CLIENTS) -> list[dict[str, object]]:
        """Return the spec in which ``clients`` may call every server."""
        backends = [f"{name}.local" for name in SERVERS]
        servers = [node(s, host=self.hosts[s], port=self.ports[s], protocol=p) for s, p in SERVERS.items()]
        callers = [node(c, backends=backends if c in clients else ()) for c in CLIENTS]
        return [mesh(), *servers, *callers, *(service(f"{s}.local", s) for s in SERVERS)]

    def egress(self, client: str, server: str) -> Address:
        """Return where the client's application finds a service: a listener of what its Envoy is sent."""
        (found,) = [at for at in self._listeners_of(client) if at[1] == self.ports[server]]
        return found

    def _listeners_of(self, client: str) -> list[Address]:
        """Return the addresses of a client's listeners, asked for once: what the tests change does not move them."""
        if client not in self._listeners:
            placement = json.dumps(next(iter(Placement.parse(None, self.hosts[client]).metadata().values())))
            sent = self.world.admin.render(client, placement=placement).resources
            found = [listener_pb2.Listener.FromString(one.body) for one in sent if one.type_url == LISTENER]
            places = [one.address.socket_address for one in found]
            self._listeners[client] = [(place.address, place.port_value) for place in places]
        return self._listeners[client]

    async def probe(self, client: str, kind: str) -> Probe:
        """Start one kind of traffic from a client's application."""
        server, make = KINDS[kind]
        return await make(self.egress(client, server), f"{server}.local").start()

    async def close(self) -> None:
        """Stop the applications; the world stops the Envoys."""
        await self.apps.close()
