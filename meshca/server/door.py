"""Whether a call may come in: asked for every call, in one place, whichever way it came.

Rules kept here (design §7):
- Over TCP the ledger is asked each time: the very certificate that was shown has to be there, valid and not revoked.
- Which role a method needs stands in ``services/roles.py``; what isn't there is refused.
- A call that stays open is looked at again with each tick, and ends at once when its certificate is revoked or expires,
  or when its caller's role no longer is enough; then the connection ends.
- Every refusal is audited, save that of a connection nobody vouches for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from meshca.attest.tcp import Remote, Stranger, TcpGate
from meshca.authority.authority import Authority
from meshca.authority.ports import Clock
from meshca.delivery.ports import Attestor, Journal
from meshca.errors import MeshcaError, RefusedError, UnauthenticatedError
from meshca.server.services.roles import ADMIN_CALLS, AGENT, AGENT_CALLS, STRANGER, is_enough
from meshca.spiffe import reserved
from meshca.store.admins import Admins

# A stream that is told why it ends has this long to hear it, before its connection goes.
_LAST_WORDS = 0.25
_LONGEST_TIMER = 86_400.0


class WrongCallerError(RefusedError):
    """The caller is known and may not call this."""


class DeadCertificateError(UnauthenticatedError):
    """The certificate that was shown is not, or no longer, good."""


@dataclass(eq=False, slots=True)
class Call:
    """A call that was let in; ``ended`` gets an error when it has to end before its time."""

    name: str
    actor: str
    remote: Remote | None = None
    timer: asyncio.TimerHandle | None = None
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def agent_id(self) -> str:
        """Return which agent is calling.

        Raises:
            WrongCallerError: It is none.
        """
        if self.remote is None or (found := reserved.agent_id(self.remote.spiffe_id)) is None:
            raise WrongCallerError("an agent's own certificate is needed", value=self.actor)
        return found

    def end(self, error: MeshcaError) -> None:
        """Let it end."""
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # whoever waits gets it; nobody may be waiting


class Door(Protocol):
    """Lets calls in."""

    def admitted(self, name: str, peer: str) -> contextlib.AbstractAsyncContextManager[Call]:
        """Lend the call for as long as it lasts.

        Raises:
            MeshcaError: It may not come in.
        """


class LocalDoor:
    """The door of ``admin.sock``: whom the gate let in may call everything."""

    def __init__(self, attestor: Attestor) -> None:
        self._attestor = attestor

    @asynccontextmanager
    async def admitted(self, name: str, peer: str) -> AsyncIterator[Call]:
        """Lend the call."""
        process = self._attestor.lookup(peer)
        if process is None:
            raise UnauthenticatedError("nobody vouches for this connection")
        if name not in ADMIN_CALLS:
            raise WrongCallerError("not for admin.sock", field="method", value=name)
        yield Call(name, f"uid:{process.uid}")


class TcpDoor:
    """The door for callers over TCP. Lives on the event loop."""

    def __init__(self, gate: TcpGate, authority: Authority, admins: Admins, journal: Journal, clock: Clock) -> None:
        self._gate = gate
        self._authority = authority
        self._admins = admins
        self._journal = journal
        self._clock = clock
        self._open: set[Call] = set()

    @asynccontextmanager
    async def admitted(self, name: str, peer: str) -> AsyncIterator[Call]:
        """Lend the call."""
        call = await self.admit(name, peer)
        try:
            yield call
        finally:
            self.release(call)

    async def admit(self, name: str, peer: str) -> Call:
        """Let a call in until ``release``.

        Raises:
            MeshcaError: It may not come in.
        """
        caller = self._gate.lookup(peer)
        if caller is None:
            raise UnauthenticatedError("nobody vouches for this connection")
        if isinstance(caller, Stranger):
            return self._stranger(name, caller)
        call = Call(name, str(caller.spiffe_id), caller)
        try:
            await asyncio.to_thread(self._require, name, caller)
        except MeshcaError as error:
            self._journal.refused(call.actor, "call", name, str(error))
            raise
        self._open.add(call)
        left = (caller.not_after - self._clock.now()).total_seconds()
        call.timer = asyncio.get_running_loop().call_later(max(min(left, _LONGEST_TIMER), 0.0), self._expire, call)
        return call

    def release(self, call: Call) -> None:
        """Note that a call is over."""
        self._open.discard(call)
        call.ended.cancel()
        if call.timer is not None:
            call.timer.cancel()

    def revoked(self, serials: Collection[str]) -> None:
        """End what came with one of these certificates."""
        for call in tuple(self._open):
            if call.remote is not None and call.remote.serial in serials:
                call.end(DeadCertificateError("the certificate was revoked", field="serial", value=call.remote.serial))
        asyncio.get_running_loop().call_later(_LAST_WORDS, self._gate.end, frozenset(serials))

    async def tick(self) -> None:
        """Look at every open call again, and at every connection."""
        wanted: dict[Remote, set[str]] = {remote: set() for remote in self._gate.remotes()}
        for call in self._open:
            if call.remote is not None:
                wanted.setdefault(call.remote, set()).add(call.name)
        # Once for each caller and method, however many streams there are.
        wrong = await asyncio.to_thread(self._wrong, wanted)
        for call in tuple(self._open):
            if call.remote is not None and (error := wrong.get((call.remote, call.name))):
                call.end(error)
        if dead := {remote.serial for remote, name in wrong if not name}:
            self.revoked(dead)

    def _stranger(self, name: str, caller: Stranger) -> Call:
        actor = f"tcp:{caller.address}"
        if AGENT_CALLS.get(name) != STRANGER:
            reason = "a client certificate of this trust domain is needed"
            error = UnauthenticatedError(reason, field="method", value=name)
            self._journal.refused(actor, "call", name, str(error))
            raise error
        return Call(name, actor)

    def _expire(self, call: Call) -> None:
        if call in self._open and call.remote is not None and call.remote.not_after <= self._clock.now():
            call.end(DeadCertificateError("the certificate has expired", field="serial", value=call.remote.serial))
            asyncio.get_running_loop().call_later(_LAST_WORDS, self._gate.end, frozenset({call.remote.serial}))

    # ---- in a thread

    def _wrong(self, wanted: Mapping[Remote, Collection[str]]) -> dict[tuple[Remote, str], MeshcaError]:
        """Return what is no longer allowed; under no name, whose certificate is dead."""
        found: dict[tuple[Remote, str], MeshcaError] = {}
        for remote, names in wanted.items():
            try:
                self._require_alive(remote)
            except DeadCertificateError as error:
                found |= {(remote, name): error for name in ("", *names)}
                continue
            for name in names:
                try:
                    self._require_allowed(name, remote)
                except WrongCallerError as error:
                    found[remote, name] = error
        return found

    def _require(self, name: str, remote: Remote) -> None:
        self._require_alive(remote)
        self._require_allowed(name, remote)

    def _require_allowed(self, name: str, remote: Remote) -> None:
        admin, agent = reserved.admin_name(remote.spiffe_id), reserved.agent_id(remote.spiffe_id)
        if admin is not None:
            self._require_role(name, admin)
        elif agent is None:
            raise WrongCallerError(
                "over TCP only agents and admins are served",
                field="certificate",
                value=str(remote.spiffe_id),
                remedy="let the workload ask an agent, or this server's own socket",
            )
        elif AGENT_CALLS.get(name) not in (AGENT, STRANGER):
            raise WrongCallerError("not for agents", field="method", value=name)

    def _require_role(self, name: str, admin: str) -> None:
        least = ADMIN_CALLS.get(name)
        if least is None:
            if AGENT_CALLS.get(name) == STRANGER:
                return
            raise WrongCallerError("not for admins", field="method", value=name)
        role = self._admins.role(admin)
        if role is None or not is_enough(role, least):
            raise WrongCallerError(
                f"needs the role {least}, the caller's is {role or 'none'}",
                field="method",
                value=name,
                remedy=f"`meshca admin add {admin} --role {least}` on the server grants it",
            )

    def _require_alive(self, remote: Remote) -> None:
        record, now = self._authority.certificate(remote.serial), self._clock.now()
        if record is None or record.certificate != remote.certificate or record.spiffe_id != remote.spiffe_id:
            raise DeadCertificateError("the ledger does not know this certificate", field="serial", value=remote.serial)
        if (state := record.status(now)) != "valid":
            raise DeadCertificateError(f"the certificate is {state}", field="serial", value=remote.serial)
