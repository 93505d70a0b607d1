"""What happens by time.

Rules (design §3): the scheduler holds no truth, each tick asks what is due; a tick comes at least twelve times in the
shortest life; one that fails is logged and comes again; ticks don't pile up. Jobs are in memory, never pickled. What is
one replica's own (its leaves, journal, key stores, audit chain) ticks in each; what is the mesh's, where one leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from meshca.authority.lifetimes import Lifetimes
from meshca.errors import MeshcaError
from meshca.server.leading import RENEWED_EVERY
from meshca.server.parts import Parts
from meshca.store.retention import Retention

_log = structlog.get_logger(__name__)

_GATHERED = 1.0
_KEYS = 5.0
_TCP = 5.0  # how long a caller stays whom another replica has revoked
_UPSTREAM = 5.0
_FEDERATION = 5.0
_SHORTEST_TICK, _LONGEST_TICK = 0.25, 60.0
_TICKS_PER_LIFE = 12
_RETENTION = 60.0
# 10,000 records a minute leave the ledger at most, which is more than an hour's leaves of 500,000 holders bring.
_BATCHES = 20

Work = Callable[[], Awaitable[object]]


def tick_seconds(lifetimes: Lifetimes) -> float:
    """Return how often to look at what is due."""
    wanted = lifetimes.leaf / _TICKS_PER_LIFE / timedelta(seconds=1)
    return min(max(wanted, _SHORTEST_TICK), _LONGEST_TICK)


class Schedule:
    """The ticks of a running server."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        every = tick_seconds(parts.house.authority.lifetimes)
        self._add("lease", RENEWED_EVERY, self._lease)
        self._add("journal", _GATHERED, self._journal)
        self._add("key stores", _KEYS, self._key_stores)
        self._add("leaves", every, self._leaves)
        self._add("crls", every, self._crls)
        self._add("upstream", max(every, _UPSTREAM), self._upstream)
        self._add("rotation", every, self._rotation)
        self._add("clock", every, self._clock)
        self._add("state", every, parts.state.refresh)
        self._add("federation", _FEDERATION, parts.federator.tick)
        if parts.endpoint is not None:
            self._add("bundle endpoint", min(every, _TCP), parts.endpoint.tick)
        self._add("tcp", min(every, _TCP), parts.tcp.tick)
        self._add("audit checkpoint", every, self._checkpoint)
        self._add("retention", _RETENTION, self._retention)

    def start(self) -> None:
        """Begin to tick."""
        self._scheduler.start()

    def stop(self) -> None:
        """Tick no more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _add(self, name: str, seconds: float, work: Work) -> None:
        self._scheduler.add_job(
            _guarded(name, work),
            "interval",
            seconds=seconds,
            id=name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )

    async def _journal(self) -> None:
        self._parts.journal.tick()
        self._parts.metrics.streams.set(len(self._parts.streams))

    async def _leaves(self) -> None:
        self._parts.desk.leaves.tick()
        self._parts.desk.workloads.tick()
        self._parts.desk.replace_tainted()

    async def _key_stores(self) -> None:
        await asyncio.to_thread(self._parts.house.keys.tend)

    async def _clock(self) -> None:
        await asyncio.to_thread(self._parts.house.clock_watch.tick)

    async def _lease(self) -> None:
        await asyncio.to_thread(self._parts.leading.tick)

    async def _rotation(self) -> None:
        if self._parts.leading.leads:
            await self._parts.rotations.tick(self._parts.leading.run)
        else:
            await self._parts.rotations.follow()

    async def _crls(self) -> None:
        await self._if_leading(self._parts.house.authority.publish_crls)

    async def _upstream(self) -> None:
        await self._if_leading(self._parts.house.authority.fetch_crls)

    async def _if_leading(self, work: Callable[[], object]) -> None:
        await asyncio.to_thread(self._parts.leading.run, work)

    async def _checkpoint(self) -> None:
        await asyncio.to_thread(self._parts.house.audit.checkpoint_if_due, self._parts.house.clock.now())

    async def _retention(self) -> None:
        await self._if_leading(self._retain)

    def _retain(self) -> None:
        house, now = self._parts.house, self._parts.house.clock.now()
        retention, before = Retention(house.store), now - house.config.retention
        house.acknowledgements.forget(before, now)
        house.jwt_holders.forget(now)
        for _ in range(_BATCHES):
            if retention.archive(before, now) < retention.batch:
                return


def _guarded(name: str, work: Work) -> Work:
    last = ""

    async def tick() -> None:
        nonlocal last
        try:
            await work()
            last = ""
        except MeshcaError as error:
            if str(error) != last:  # ticks are many: what fails in the same way again has been said
                last = str(error)
                _log.warning("tick failed", tick=name, reason=last)
        except Exception:  # whatever it was, the next tick comes
            _log.exception("tick failed", tick=name)

    return tick
