"""What the services of a running server share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshca.delivery.desk import Desk
from meshca.server.bundle_endpoint import BundleEndpoint
from meshca.server.federator import Federator
from meshca.server.house import House
from meshca.server.hub import AgentHub
from meshca.server.issuance import Issuance
from meshca.server.journal import StoreJournal
from meshca.server.leading import Leadership
from meshca.server.metrics import Metrics
from meshca.server.publication import Publication
from meshca.server.rotations import Rotations
from meshca.server.state import State
from meshca.server.tcp import TcpSide
from meshca.spiffe.id import SpiffeId
from meshca.xds.registry import StreamTable


@dataclass(slots=True)
class Condition:
    """How the server is, as ``status`` shows it."""

    state: str = "starting"  # starting | ready | draining
    http: str = ""
    grpc: str = ""
    federation: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one running server."""

    house: House
    state: State
    desk: Desk
    issuance: Issuance
    publication: Publication
    rotations: Rotations
    journal: StoreJournal
    metrics: Metrics
    streams: StreamTable
    condition: Condition
    tcp: TcpSide
    agents: AgentHub
    leading: Leadership
    federator: Federator
    endpoint: BundleEndpoint | None
    warnings: Callable[[], tuple[str, ...]]

    def rotate_leaf(self, spiffe_id: SpiffeId) -> int:
        """Give the live streams of an identity a new key and leaf; return how many streams and agents that are."""
        agents = self.agents.rotate(spiffe_id, self.state.snapshot)
        self.state.tell()
        return self.desk.rotate(spiffe_id) + agents
