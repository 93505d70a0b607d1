"""What a case does until it is killed: short scripts over a real authority, each act told once it is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from harness.faults.places import TRUST_DOMAIN, MovableClock
from harness.faults.told import Tell, trust_event

from meshca.authority import issuing
from meshca.authority.records import ISSUING, ROOT, Role
from meshca.authority.requests import ISSUED_ONCE, Issued, IssueRequest, Refused
from meshca.keys.sealed import spki_of
from meshca.server.house import House
from meshca.spiffe.id import SpiffeId
from meshca.store.acknowledgements import Acknowledgement
from meshca.store.retention import Retention
from meshca.x509.checked import Certificate, CheckedPlan, finish

ACTOR = "uid:0"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def named(name: str) -> SpiffeId:
    """Return the identity of a node."""
    return SpiffeId.parse(f"{TRUST_DOMAIN.id}/mesh/shop/virtualNode/{name}")


def tell_signatures(tell: Tell) -> None:
    """Tell of every certificate that this process has signed, whether or not anybody gets it."""

    def finish_told(checked: CheckedPlan, signature: bytes) -> Certificate:
        made = finish(checked, signature)
        tell({"told": "signed", "serial": made.serial})
        return made

    setattr(issuing, "finish", finish_told)  # noqa: B010


@dataclass(frozen=True)
class Caller:
    """Somebody who asks one thing after the other, and tells what came of it."""

    house: House
    tell: Tell

    def issue(self, *names: str, holder: str = ISSUED_ONCE, ttl: timedelta | None = None) -> list[str]:
        """Have certificates issued in one batch; returns the serials of those that are."""
        with self._doing("issue"):
            wishes = [_wish(named(name), holder, ttl) for name in names]
            results = self.house.authority.issue(wishes)
            for result in results:
                self._tell_result(result)
            return [result.certificate.serial for result in results if isinstance(result, Issued)]

    def _tell_result(self, result: Issued | Refused) -> None:
        if isinstance(result, Issued):
            made = result.certificate
            self.tell({"told": "issued", "serial": made.serial, "certificate": made.der.hex()})

    def revoke(self, serial: str) -> None:
        """Revoke one certificate."""
        with self._doing("revoke"):
            found = self.house.authority.revoke(serial, "keyCompromise", ACTOR)
            self.tell({"told": "revoked", "serials": found.serials})

    def suspend(self, name: str) -> None:
        """Suspend an identity."""
        with self._doing("suspend"):
            found = self.house.authority.suspend(named(name), "keyCompromise", ACTOR)
            self.tell({"told": "revoked", "serials": found.serials})
            self.tell({"told": "suspended", "id": str(named(name)), "is": True})

    def resume(self, name: str) -> None:
        """Let it hold certificates again."""
        with self._doing("resume"):
            self.house.authority.resume(named(name), ACTOR)
            self.tell({"told": "suspended", "id": str(named(name)), "is": False})

    def freeze(self) -> None:
        """Freeze issuance."""
        with self._doing("freeze"):
            self.house.authority.freezing.freeze("a test", ACTOR)
            self.tell({"told": "frozen", "is": True})

    def unfreeze(self) -> None:
        """Let certificates be issued again."""
        with self._doing("unfreeze"):
            self.house.authority.freezing.unfreeze(ACTOR)
            self.tell({"told": "frozen", "is": False})

    def publish(self) -> None:
        """Publish CRLs."""
        with self._doing("publish"):
            self.tell(trust_event(self.house.authority.publish_crls()))

    def rotate(self, role: Role) -> None:
        """Replace a CA."""
        with self._doing("rotate"):
            self.tell({"told": "successor", "id": self.house.authority.succession.rotate(role, ACTOR)})
            self.tell(trust_event(self.house.authority.trust))

    def taint(self, role: Role) -> None:
        """Mark the active CA of a role as stolen."""
        (active,) = (one for one in self.house.ledger.authorities() if (one.role, one.state) == (role, "active"))
        with self._doing("taint"):
            marked = self.house.authority.succession.taint(active.id, ACTOR)
            self.tell({"told": "tainted", "ids": marked})
            self.tell(trust_event(self.house.authority.trust))

    def advance(self) -> None:
        """Let slots move that are due."""
        with self._doing("advance"):
            self.house.authority.succession.settle()
            self.tell(trust_event(self.house.authority.trust))

    def acknowledge(self, name: str, holder: str) -> None:
        """Put the newest trust, and a leaf of the active CA, in force at a holder."""
        trust = self.house.authority.trust
        seen = Acknowledgement(holder, "stream", named(name), trust.generation, self.house.clock.now(), trust.active.id)
        self.house.acknowledgements.record([seen]).result()

    def archive(self) -> None:
        """Move what has expired into the archive, two records at a time."""
        now = self.house.clock.now()
        retention = Retention(self.house.store, batch=2)
        with self._doing("archive"):
            while moved := retention.archive(now, now):
                self.tell({"told": "archived", "count": moved})

    def checkpoint(self) -> None:
        """Sign the end of the audit chain."""
        with self._doing("checkpoint"):
            if signed := self.house.audit.checkpoint(self.house.clock.now()):
                self.tell({"told": "checkpoint", "seq": signed.seq})

    def wait(self, span: timedelta) -> None:
        """Let time pass."""
        MovableClock.ahead += span
        self.tell({"told": "clock", "seconds": MovableClock.ahead.total_seconds()})

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        act = {"what": what, "by": threading.get_ident()}
        self.tell({"told": "begin", **act})
        try:
            yield
        finally:
            self.tell({"told": "end", **act})


def _wish(spiffe_id: SpiffeId, holder: str, ttl: timedelta | None) -> IssueRequest:
    spki = spki_of(ec.generate_private_key(ec.SECP256R1()))
    return IssueRequest(spiffe_id, spki, ttl, holder, "file", ACTOR)


def issue_and_revoke(caller: Caller) -> None:
    """Issue alone and in batches, revoke, suspend, resume, freeze, unfreeze, publish, sign a checkpoint."""
    (first,) = caller.issue("web")
    batch = caller.issue("web", "api", "db")
    caller.revoke(first)
    caller.publish()
    caller.suspend("api")
    caller.issue("api", "web")
    caller.publish()
    caller.resume("api")
    caller.issue("api")
    caller.checkpoint()
    caller.freeze()
    caller.issue("web")
    caller.revoke(batch[2])
    caller.publish()
    caller.unfreeze()
    (last,) = caller.issue("web")
    caller.checkpoint()
    caller.revoke(last)


def rotate_issuing(caller: Caller) -> None:
    """Replace the issuing CA, revoke leaves of both, and let the old one go."""
    old = caller.issue("web", "api")
    caller.rotate(ISSUING)
    (new,) = caller.issue("web")
    caller.revoke(old[0])
    caller.revoke(new)
    caller.publish()
    caller.checkpoint()
    caller.wait(2 * HOUR)
    caller.advance()
    caller.issue("api")


def rotate_root(caller: Caller) -> None:
    """Replace the root, and with it the issuing CA; the old ones go with the last leaf."""
    (old,) = caller.issue("web")
    caller.rotate(ROOT)
    caller.issue("web")
    caller.revoke(old)
    caller.publish()
    caller.wait(2 * HOUR)
    caller.advance()
    caller.issue("web")
    caller.checkpoint()


def taint(caller: Caller) -> None:
    """Replace what is believed stolen: an issuing CA, then a root."""
    caller.issue("web")
    caller.taint(ISSUING)
    caller.issue("web")
    caller.publish()
    caller.taint(ROOT)
    caller.issue("web")
    caller.publish()


def grow_old(caller: Caller) -> None:
    """Rotate by time, with a holder that is waited for, and archive what has expired."""
    revoked = caller.issue("web", "api", "db")
    caller.revoke(revoked[0])
    caller.publish()
    caller.wait(15 * DAY)
    caller.advance()
    caller.wait(10 * DAY)
    (kept,) = caller.issue("web", holder="drop:1")
    caller.advance()
    caller.acknowledge("web", "drop:1")
    caller.advance()
    caller.revoke(kept)
    caller.publish()
    caller.archive()
    caller.issue("web", holder="drop:1")
    caller.acknowledge("web", "drop:1")
    caller.wait(2 * HOUR)
    caller.advance()
    (other,) = caller.issue("web")
    caller.revoke(other)
    caller.publish()
    caller.archive()


Script = Callable[[Caller], None]
SCRIPTS: dict[str, Script] = {
    script.__name__: script for script in (issue_and_revoke, rotate_issuing, rotate_root, taint, grow_old)
}
