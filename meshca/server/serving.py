"""The grpc servers of a running server: one behind each gate."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import grpc.aio

from meshca.delivery import workload_api
from meshca.server.door import Door
from meshca.server.parts import Parts
from meshca.server.proving import Method
from meshca.server.services.admins import AdminService
from meshca.server.services.agents import AgentsService
from meshca.server.services.attesting import AttestingService
from meshca.server.services.audits import AuditService
from meshca.server.services.backups import BackupService
from meshca.server.services.calls import servicer
from meshca.server.services.certificates import CertificateService
from meshca.server.services.endpoints import EndpointService
from meshca.server.services.envoys import EnvoyService
from meshca.server.services.federations import FederationService
from meshca.server.services.holdings import AgentSource, HoldingsService
from meshca.server.services.meshes import MeshService
from meshca.server.services.registrations import RegistrationService
from meshca.server.services.trust import TrustService
from meshca.store.admins import Admins
from meshca.store.agents import Agents
from meshca.v1 import admin_pb2_grpc, agent_pb2_grpc
from meshca.xds.service import SERVER_OPTIONS, handlers

_ADMIN_OPTIONS = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 256 << 20))
# Agents look as Envoys do whether the server lives.
_TCP_OPTIONS = (*(option for option in SERVER_OPTIONS if "message_length" not in option[0]), *_ADMIN_OPTIONS)


def mesh_server(parts: Parts) -> Any:
    """Return what Envoys and workloads of this host call."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((*handlers(parts.desk, parts.streams), workload_api.handlers(parts.desk.workloads)))
    return server


def admin_server(parts: Parts, door: Door) -> Any:
    """Return what the command line calls."""
    server = grpc.aio.server(options=_ADMIN_OPTIONS)
    _add_admin(server, parts, door)
    return server


def tcp_server(parts: Parts, methods: Mapping[str, Method]) -> Any:
    """Return what agents and remote administrators call."""
    door = parts.tcp.door
    server = grpc.aio.server(options=_TCP_OPTIONS)
    _add_admin(server, parts, door)
    attesting, holdings = AttestingService(parts, Agents(parts.house.store), methods), HoldingsService(parts)
    unary = {**attesting.calls(), **holdings.calls()}
    agents = servicer(door, unary, holdings.streams(), who=lambda call: call)
    agent_pb2_grpc.add_AgentServicer_to_server(agents, server)
    _, aggregated = handlers(AgentSource(parts, door), parts.streams)
    server.add_generic_rpc_handlers((aggregated,))
    return server


def _add_admin(server: Any, parts: Parts, door: Door) -> None:
    trust, audits, backups = TrustService(parts), AuditService(parts), BackupService(parts)
    meshes = MeshService(parts)
    services = (
        meshes,
        EndpointService(parts),
        RegistrationService(parts),
        CertificateService(parts),
        EnvoyService(parts),
        AdminService(parts, Admins(parts.house.store)),
        AgentsService(parts, Agents(parts.house.store)),
        audits,
        trust,
        FederationService(parts),
    )
    unary = {name: method for service in services for name, method in service.calls().items()}
    streams = {**meshes.streams(), **trust.streams(), **audits.streams(), **backups.streams()}
    admin_pb2_grpc.add_AdminServicer_to_server(servicer(door, unary, streams, who=attrgetter("actor")), server)
