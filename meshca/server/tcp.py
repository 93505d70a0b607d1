"""What a server needs to be called over TCP: its certificate, the gate, the door, and a grpc server behind them."""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from meshca.attest.tcp import TcpGate
from meshca.server.config import Address
from meshca.server.door import Rights, TcpDoor
from meshca.server.house import House
from meshca.server.issuance import Issuance
from meshca.server.journal import StoreJournal
from meshca.server.own import OwnSvid
from meshca.store.admins import Admins


@dataclass(frozen=True, slots=True)
class TcpSide:
    """The parts of it."""

    own: OwnSvid
    gate: TcpGate
    door: TcpDoor
    listener: socket.socket

    @property
    def address(self) -> Address:
        """Return where it really listens."""
        host, port = self.listener.getsockname()[:2]
        return Address(host, port)

    @property
    def inner(self) -> Path:
        """Return where the gate leads."""
        return self.gate.inner

    def start(self) -> None:
        """Take connections."""
        self.gate.start(self.listener)

    def revoked(self, serials: Collection[str]) -> None:
        """End what rests on one of these certificates."""
        self.own.revoked(serials)
        self.door.revoked(serials)

    async def tick(self) -> None:
        """Look again at what only time, or another process, may have changed."""
        await self.door.tick()
        await self.own.tick()


def tcp_side(house: House, issuance: Issuance, journal: StoreJournal, listener: socket.socket) -> TcpSide:
    """Put the parts together; nothing is accepted yet."""
    own = OwnSvid(house, issuance, journal)
    gate = TcpGate(house.home.tcp_inner, own.context)
    door = TcpDoor(gate, house.authority, Rights(Admins(house.store), house.registrations), journal, house.clock)
    return TcpSide(own, gate, door, listener)
