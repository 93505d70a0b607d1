"""Which names a client wants of one type, on one stream.

Rules this module keeps (xDS protocol, "How the client specifies what resources to return"):
- Names are a set; order and repetition mean nothing, and an empty name is no name.
- An empty list in the first request means everything. Once names have been asked for, an empty list (SotW) means
  nothing; ``*`` asks for everything explicitly.
- Delta: what is subscribed to must be answered, even if it was sent before. The client may have dropped it meanwhile.
"""

from __future__ import annotations

from typing import NamedTuple

from meshca.xds.messages import WILDCARD, Request


class Shift(NamedTuple):
    """What one request changed."""

    asked: frozenset[str]
    """Names to answer now."""
    all_asked: bool
    """Everything is wanted from now on, and wasn't before."""
    narrowed: bool
    """Something is no longer wanted."""


class Interest:
    """The names and the wildcard of one subscription."""

    __slots__ = ("_delta", "_given_up", "_named", "names", "wildcard")

    def __init__(self, *, delta: bool) -> None:
        self._delta = delta
        self._named = False
        self._given_up: frozenset[str] = frozenset()
        self.names: frozenset[str] = frozenset()
        self.wildcard = False

    def covers(self, name: str) -> bool:
        """Return whether the client wants this name."""
        return self.wildcard or name in self.names

    def miss(self, request: Request) -> None:
        """Take a SotW request that was sent before the client saw our last response.

        It repeats its names once it has; but what it did not want for a moment, it no longer has.
        """
        self._given_up |= self.names - request.names

    def apply(self, request: Request, *, first: bool) -> Shift:
        """Take a request's names; return what changed."""
        names, wildcard = self.names, self.wildcard
        if self._delta:
            asked = self._subscribe(request, first=first)
        else:
            self._replace(request)
            asked = (self.names - names) | (self.names & self._given_up)
            self._given_up = frozenset()
        return Shift(
            asked=asked,
            all_asked=self.wildcard and not wildcard,
            narrowed=bool(names - self.names) or (wildcard and not self.wildcard),
        )

    def _replace(self, request: Request) -> None:
        named = request.names - {""}
        self._named = self._named or bool(named)
        self.wildcard = WILDCARD in named or not self._named
        self.names = named - {WILDCARD}

    def _subscribe(self, request: Request, *, first: bool) -> frozenset[str]:
        named = request.names - {""}
        if WILDCARD in named or (first and not named):
            self.wildcard = True
        elif WILDCARD in request.unsubscribed:
            self.wildcard = False
        asked = named - {WILDCARD}
        ended = (request.unsubscribed & self.names) - asked
        self.names = (self.names | asked) - ended
        # Who has the wildcard and unsubscribes from a name is told what the wildcard says about it.
        return asked | ended if self.wildcard else asked
