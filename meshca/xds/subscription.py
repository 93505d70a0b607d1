"""What one client has of one type on one stream, and what to send it next. SotW and delta; pure.

Rules this module keeps:
- No spin: a response carries content the client was not sent, or a name it asked for, or a secret asked for again in
  other words (at most once per reason, see ``doubt``).
- No silence: whatever the client rejected, the next different content is sent.
- The first request is answered whatever nonce it carries; later a nonce that is not ours is stale and means nothing.
- One response is under way at a time; what changes meanwhile is sent as its newest state. Except for secrets, names
  newly asked for don't wait, nor does anything once the stream loses patience (Envoy holds back the acknowledgement of
  clusters until they are warm, which may need our answer to another request, or never come).
- SotW: listeners and clusters always come as the full set, other types as what changed. Delta: only what changed.
- An acknowledgement of secrets is no proof for bytes the node has rejected before: these are never sent again as they
  are, only reworded; and while any secret is in doubt, secrets go one a response, the repaired first (design §5).

The caller's turn: ``receive`` a request; while ``ready``: ``ask`` → ``offer`` the answers → ``next_response``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from meshca.xds.doubt import Doubt, Reword
from meshca.xds.flight import Batch, Flight
from meshca.xds.holding import Holding
from meshca.xds.interest import Interest
from meshca.xds.messages import Accepted, Rejected, Request, Response, Verdict
from meshca.xds.resource import CDS, LDS, SDS, Resource

_FULL_SETS = frozenset({LDS, CDS})


class Subscription:
    """One type on one stream."""

    def __init__(self, type_url: str, *, delta: bool) -> None:
        self.type_url = type_url
        self.interest = Interest(delta=delta)
        self.doubt = Doubt()
        self.version_sent = ""
        self.version_acked = ""
        self._delta = delta
        self._full_set = not delta and type_url in _FULL_SETS
        self._careful = type_url == SDS
        self._started = False
        self._stale = False  # the source must be asked for everything
        self._lookup: set[str] = set()  # the source must be asked for these
        self._settled = True  # nothing to send in what was found
        self._answer_empty = False  # "there is nothing" is news to the client
        self.impatient = False
        self._asked: set[str] = set()  # names to answer whatever the client has
        self._found: dict[str, Resource] = {}
        self._nacked: Collection[str] = frozenset()
        self._client = Holding()
        self.flight = Flight()

    # -- what the client says

    def receive(self, request: Request) -> Verdict | None:
        """Take a request in; return what it says about an earlier response, if anything."""
        first, self._started = not self._started, True
        verdict = None if first else self._verdict(request)
        if not (first or self._delta) and self.flight.last_nonce and request.nonce != self.flight.last_nonce:
            if self.flight.stale(request.nonce):
                self.interest.miss(request)
            return verdict
        shift = self.interest.apply(request, first=first)
        if first:
            self._client.claim({n: version for n, version in request.held.items() if self.interest.covers(n)})
        if shift.narrowed:
            self._answer_empty &= self.interest.wildcard or self._full_set
            self._forget_unwanted()
        self._asked |= (shift.asked - request.held.keys()) if first else shift.asked
        self._lookup |= shift.asked - self._found.keys()
        self._answer_empty |= (shift.all_asked and not request.held) or (first and self._full_set)
        self._stale |= first or shift.all_asked
        self._settled &= not (first or shift.asked or shift.all_asked)
        return verdict

    def _verdict(self, request: Request) -> Verdict | None:
        batch = self.flight.land(request.nonce)
        if batch is None:
            return None
        self.impatient = False
        if request.error is not None:
            self.doubt.reject(batch.meant, batch.sent)
            self._settled = False
            return Rejected(batch.sent, request.error, batch.removed)
        self.version_acked = batch.version
        self.doubt.accept(self.doubt.names | batch.sent.keys() if self._full_set else batch.sent.keys() | batch.removed)
        if self._careful and batch.sent:
            self.retry()
        return Accepted(batch.sent, batch.version, batch.removed)

    def _forget_unwanted(self) -> None:
        wanted = self.interest.covers
        self._client.keep(wanted)
        self._found = {name: resource for name, resource in self._found.items() if wanted(name)}
        self._asked = {name for name in self._asked if wanted(name)}
        self._lookup &= self._asked
        if unwanted := [name for name in self.doubt.names if not wanted(name)]:
            self.doubt.forget(unwanted)
            if self._careful:
                self.retry()  # the one at fault may have been among them

    # -- what the source says

    def change(self) -> None:
        """Note that the source may have something else now."""
        self._stale = self._started

    def resend(self, names: Iterable[str]) -> None:
        """Answer those of these names that the client has once more (Envoy forgets endpoints of a changed cluster)."""
        again = self._client.names & names
        self._asked |= again
        self._settled &= not again

    def retry(self) -> None:
        """Allow what is in doubt one more attempt; something else that may have been the cause has been accepted."""
        if not self.doubt:
            return
        self._settled = False
        if self._careful:
            self.doubt.ask_again()
        else:
            self._asked |= self.doubt.names

    def lose_patience(self) -> None:
        """Let the newest state go out although the client has not answered yet."""
        self.impatient = True

    @property
    def pending(self) -> bool:
        """Return whether there may be something to send."""
        return self._started and (self._stale or bool(self._lookup) or not self._settled)

    @property
    def ready(self) -> bool:
        """Return whether there may be something to send, and it may go now."""
        if not self.pending or not self.flight:
            return self.pending
        room = not self._careful and not self.flight.full
        return room and (self.demanded or self.impatient)

    @property
    def demanded(self) -> bool:
        """Return whether the client waits for an answer, rather than we for it."""
        return bool(self._asked) or self._answer_empty

    @property
    def blocking(self) -> bool:
        """Return whether what builds on this type should wait: a newer state is held up, or new names on their way."""
        if self.impatient or not self.flight:
            return False
        return (self.pending and not self.ready) or self.flight.introduces

    def ask(self) -> tuple[frozenset[str] | None, ...]:
        """Return what to ask the source for now: sets of names, and None for everything. Repeat until it is empty."""
        stale, self._stale = self._stale, False
        lookup, self._lookup = frozenset(self._lookup), set()
        if not stale:
            return (lookup,) if lookup else ()
        self._found = {}
        everything: tuple[frozenset[str] | None, ...] = (None,) if self.interest.wildcard else ()
        return (*everything, self.interest.names) if self.interest.names else everything

    @property
    def held(self) -> dict[str, str]:
        """Return the versions a reconnecting client says it has, until it is sent something."""
        return {} if self.flight.last_nonce else self._client.versions

    def offer(self, found: Mapping[str, Resource], nacked: Collection[str]) -> Accepted | None:
        """Take an answer to ``ask``; return what the client has of it: it will not be asked to accept that again.

        ``nacked`` are the digests this node has rejected, on whatever stream.
        """
        found = {name: resource for name, resource in found.items() if self.interest.covers(name)}
        self._found.update(found)
        self._settled = False
        self._nacked = nacked
        if self._careful:
            self._inherit(found)
        if self.flight.last_nonce:
            return self._kept(found)
        had = {name: r for name, r in found.items() if self._client.claims(r)}
        confirmed = {name: r for name, r in had.items() if not self.doubt.concerns(r)}
        self._client.put(confirmed.values())
        return Accepted(confirmed, self._client.version) if confirmed else None

    def _kept(self, found: Mapping[str, Resource]) -> Accepted | None:
        """Return what the client has from earlier, as where a change is undone before it has let go of the old."""
        if self._careful or self._full_set:
            return None
        unsure = self._asked | self.doubt.names | self.flight.names
        kept = {name: r for name, r in found.items() if name not in unsure and self._client.has(r)}
        return Accepted(kept, self._client.version) if kept else None

    def _inherit(self, found: Mapping[str, Resource]) -> None:
        for resource in found.values():
            rejected = resource.digest in self._nacked or self.doubt.remembers(resource)
            if rejected and not self._client.has(resource):
                self.doubt.inherit(resource)

    # -- what to send

    def next_response(self, nonce: str, reword: Reword) -> Response | None:
        """Return the next response with resources, or None; call it while ``ready``, after ``offer``."""
        if not (self._delta or self._full_set):
            self._asked &= self._found.keys()  # that a name isn't there can't be said in SotW
        chosen = self._whole_set() if self._full_set else self._some(reword)
        if chosen is None and not (self._answer_empty and not self._found):
            self._answer_empty = False
            self._settled = not self._vanished()
            return None
        meant, sent = chosen or ({}, {})
        response = self._send(nonce, meant, sent)
        if not (self._careful and self._cautious):
            self._settled = not self._vanished()
        return response

    @property
    def _cautious(self) -> bool:
        # On a new stream nobody knows yet whether what the node once rejected is still stored there.
        return bool(self.doubt) or (bool(self._nacked) and not self.version_acked)

    def next_removal(self, nonce: str) -> Response | None:
        """Return what to take away from a delta client, or None. It goes last: after what no longer needs it."""
        gone = self._vanished() if not (self._stale or self._lookup) else []
        if not gone:
            return None
        self._asked.difference_update(gone)
        self._client.drop(gone)
        return self._send(nonce, {}, {}, frozenset(gone))._replace(removed=tuple(gone))

    def _send(
        self,
        nonce: str,
        meant: Mapping[str, Resource],
        sent: Mapping[str, Resource],
        removed: frozenset[str] = frozenset(),
    ) -> Response:
        introduces = not (meant.keys() <= self._client.names)
        unchanged: frozenset[str] = frozenset()
        if self._full_set:
            unchanged = frozenset(name for name, resource in meant.items() if self._client.has(resource))
            removed = frozenset(self._client.names - meant.keys())
            self._client.clear()
            self._asked.clear()
        self._client.put(meant.values())
        self._asked.difference_update(meant)
        self._answer_empty = self.impatient = False
        self.version_sent = self._client.version
        self.flight.add(nonce, Batch(self.version_sent, meant, sent, introduces, removed))
        return Response(nonce, self.version_sent, tuple(sent.values()), unchanged=unchanged)

    def _whole_set(self) -> tuple[Mapping[str, Resource], Mapping[str, Resource]] | None:
        if self._client.is_exactly(self._found.values()) and not self._asked:
            return None
        whole = dict(sorted(self._found.items()))
        return whole, whole

    def _some(self, reword: Reword) -> tuple[Mapping[str, Resource], Mapping[str, Resource]] | None:
        changed = self._changed()
        if not (self._careful and self._cautious):
            together = {name: self._found[name] for name in changed}
            return (together, together) if together else None
        for name in sorted(changed, key=self._urgency):
            resource = self._found[name]
            words = resource
            if self.doubt.concerns(resource):
                other = self.doubt.spend(resource, self._nacked, reword)
                if other is None:
                    self._asked.discard(name)
                    self._client.put([resource])  # withheld
                    continue
                words = other
            return {name: resource}, {name: words}
        return None

    def _changed(self) -> list[str]:
        changed = {name for name, resource in self._found.items() if self._is_news(resource)}
        if not self._careful and not changed.isdisjoint(self.doubt.names):
            # One of a rejected response has been repaired; what was rejected along with it goes with it.
            changed |= self.doubt.names & self._found.keys()
        return sorted(changed)

    def _is_news(self, resource: Resource) -> bool:
        if resource.name in self._asked or not self._client.has(resource):
            return True
        return self._careful and resource.name in self.doubt.again and self.doubt.concerns(resource)

    def _urgency(self, name: str) -> int:
        """Order secrets in doubt: repaired ones, then those never in doubt, then the same content again."""
        if self.doubt.concerns(self._found[name]):
            return 2
        return 0 if name in self.doubt.names else 1

    def _vanished(self) -> list[str]:
        # A SotW client keeps what it is no longer sent, save by full sets; ``_client`` does the same.
        return sorted((self._client.names | self._asked) - self._found.keys()) if self._delta else []
