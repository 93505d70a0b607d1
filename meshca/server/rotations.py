"""When rotation moves: by ticks, by commands, and as soon as those who are waited for have acknowledged.

Rules: acknowledgements are in the store before a step asks for them; steps run in a thread, one after the other; those
who watch are woken after each step and each acknowledgement, and see what the ledger says.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import structlog

from meshca.authority.authority import Authority
from meshca.authority.ceremony import Imported
from meshca.authority.records import ISSUING, JWT, ROOT, CaRequest, Role
from meshca.authority.succession import Progress
from meshca.errors import MeshcaError, NotFoundError
from meshca.server.journal import StoreJournal

_log = structlog.get_logger(__name__)

_GATHERING = 0.05  # acknowledgements come in bursts
_WATCH_PAUSE = 1.0

Run = Callable[[Callable[[], object]], None]


def _at_once(work: Callable[[], object]) -> None:
    work()


class Rotations:
    """Moves the slots of an authority. Lives on one event loop."""

    def __init__(self, authority: Authority, journal: StoreJournal) -> None:
        self._authority = authority
        self._journal = journal
        self._turn: asyncio.Task[None] | None = None
        self._again = False
        self._told: set[Callable[[], None]] = set()
        journal.watch(self._acknowledged)

    async def tick(self, run: Run = _at_once) -> None:
        """Move what is due; by time, ``run`` lets it happen only where this replica leads."""
        await self._journal.stored()
        await asyncio.to_thread(run, self._authority.succession.advance)
        await asyncio.to_thread(run, self._authority.jwt_keys.advance)
        self._tell()

    async def follow(self) -> None:
        """See what another replica has moved."""
        await self._journal.stored()
        await asyncio.to_thread(self._authority.follow)
        await asyncio.to_thread(self._authority.jwt_keys.refresh)
        self._tell()

    async def rotate(self, role: Role, actor: str) -> str:
        """Replace a CA, or the key that signs JWT-SVIDs, before its time; returns its successor's id."""
        await self._journal.stored()
        if role == JWT:
            made = await asyncio.to_thread(self._authority.jwt_keys.rotate, actor)
            self._tell()
            return made
        await asyncio.to_thread(self._authority.fetch_crls)  # so that what is known of an upstream is of this moment
        found = await asyncio.to_thread(self._authority.succession.rotate, role, actor)
        self._tell()
        return found

    async def taint(self, ca_id: str, actor: str) -> tuple[str, ...]:
        """Mark a CA, and all below it, or a signing key as believed stolen."""
        await self._journal.stored()
        if await asyncio.to_thread(self._authority.jwt_keys.find, ca_id) is not None:
            await asyncio.to_thread(self._authority.jwt_keys.taint, ca_id, actor)
            self._tell()
            return (ca_id,)
        found = await asyncio.to_thread(self._authority.succession.taint, ca_id, actor)
        self._tell()
        return found

    async def request(self, actor: str) -> tuple[CaRequest, bool]:
        """Return the request for an issuing CA's certificate, and whether it is new."""
        return await asyncio.to_thread(self._authority.ceremony.request, actor)

    async def bring(self, chain: bytes, crls: Sequence[bytes], actor: str) -> Imported:
        """Take in a chain that an upstream has signed, or its CRLs."""
        await self._journal.stored()
        imported = await asyncio.to_thread(self._authority.ceremony.bring, chain, crls, actor)
        self._tell()
        return imported

    async def watch(self, ca_id: str) -> AsyncIterator[Progress]:
        """Yield how far a CA has come, until it signs; after a root, the issuing CA below it."""
        woken = asyncio.Event()
        self._told.add(woken.set)
        last: Progress | None = None
        try:
            while True:
                woken.clear()
                try:
                    progress = await asyncio.to_thread(self._progress, ca_id)
                except NotFoundError:
                    if last is None:
                        raise
                    return  # it has left since
                if progress != last:
                    last = progress
                    yield progress
                if progress.record.role in (ISSUING, JWT) and progress.record.state in ("active", "removed"):
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), _WATCH_PAUSE)
        finally:
            self._told.discard(woken.set)

    async def close(self) -> None:
        """Wait for a step that is under way."""
        if self._turn is not None:
            await asyncio.gather(self._turn, return_exceptions=True)

    def _progress(self, ca_id: str) -> Progress:
        for found in self._authority.jwt_keys.progress():
            if found.record.id == ca_id:
                return found
        progress = self._authority.succession.progress(ca_id)
        if progress.record.role != ROOT or progress.record.state == "prepared":
            return progress
        below = self._authority.succession.newest_below(ca_id)
        if below is None:
            return progress
        with contextlib.suppress(NotFoundError):  # removed a moment ago
            return self._authority.succession.progress(below.id)
        return progress

    def _acknowledged(self) -> None:
        """Look soon whether that was what a slot waits for; while nothing is under way there is no reason to."""
        trust, keys = self._authority.trust, self._authority.jwt_keys.trust.keys
        if len(trust.roots) <= 1 and len(trust.issuing) <= 1 and not trust.tainted and len(keys) <= 1:
            return
        self._again = True
        if self._turn is None:
            self._turn = asyncio.create_task(self._advance())

    async def _advance(self) -> None:
        try:
            while self._again:
                await asyncio.sleep(_GATHERING)
                self._again = False
                await self.tick()
        except MeshcaError as error:
            _log.warning("rotation waits for the next tick", reason=str(error))
        finally:
            self._turn = None

    def _tell(self) -> None:
        for told in tuple(self._told):
            told()
