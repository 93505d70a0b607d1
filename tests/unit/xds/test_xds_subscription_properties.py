"""The subscription against a small model of Envoy's own xDS client, in every order hypothesis can think of."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from meshca.xds.messages import Accepted, Rejected, Request, Response
from meshca.xds.resource import CDS, RDS, SDS, Resource
from meshca.xds.subscription import Subscription

NAMES = ("a", "b", "c")
names = st.sampled_from(NAMES)


def content(type_url: str, name: str, number: int, *, bad: bool) -> Resource:
    return Resource(type_url, name, f"v{number}", f"{name} {number} {'bad' if bad else 'good'}".encode())


def meaning(resource: Resource) -> bytes:
    return resource.body.split(b"#")[0]


def reword(resource: Resource, attempt: int) -> Resource:
    return Resource(resource.type_url, resource.name, resource.version, resource.body + b"#%d" % attempt)


@dataclass
class Envoy:
    """What Envoy 1.40 does with what it is sent (envoy-facts.md §4, §5)."""

    type_url: str
    delta: bool
    wanted: set[str] = field(default_factory=set)
    wildcard: bool = False
    nonce: str = ""
    accepted: dict[str, str] = field(default_factory=dict)
    stored: dict[str, Resource] = field(default_factory=dict)
    serving: dict[str, bytes] = field(default_factory=dict)

    def hello(self) -> Request:
        self.nonce = ""
        held = dict(self.accepted) if self.delta else {}
        return Request(self.type_url, names=frozenset(self.wanted), held=held)

    def take(self, response: Response) -> Request:
        if not self.delta and self.type_url == CDS:
            kept = {r.name for r in response.resources}
            self.stored = {n: r for n, r in self.stored.items() if n in kept}
            self.serving = {n: m for n, m in self.serving.items() if n in kept}
        errors = [error for resource in response.resources if (error := self.apply(resource))]
        for name in response.removed:
            self.accepted.pop(name, None)
            if self.type_url != SDS:
                self.stored.pop(name, None)
                self.serving.pop(name, None)
        self.nonce = response.nonce
        if not errors:
            self.accepted.update({r.name: r.version for r in response.resources})
        error = errors[0] if errors else None
        return Request(self.type_url, self.nonce, error, frozenset() if self.delta else frozenset(self.wanted))

    def apply(self, resource: Resource) -> str | None:
        if self.type_url != SDS:
            if b"bad" in resource.body:
                return "bad resource"
            self.stored[resource.name] = resource
            self.serving[resource.name] = meaning(resource)
            return None
        if (old := self.stored.get(resource.name)) and old.digest == resource.digest:
            return None  # the same bytes: no-op, whatever became of them the first time
        self.stored[resource.name] = resource
        if any(b"bad" in r.body for r in self.stored.values()):
            return "bad secret"  # some secret of the context, not necessarily this one
        self.serving = {name: meaning(r) for name, r in self.stored.items()}
        return None


class Machine(RuleBasedStateMachine):
    @initialize(delta=st.booleans(), type_url=st.sampled_from([SDS, CDS, RDS]), first=st.sets(names))
    def begin(self, delta: bool, type_url: str, first: set[str]) -> None:
        self.delta = delta
        self.type_url = type_url
        self.source: dict[str, Resource] = {}
        self.number = 0
        self.rejected: dict[str, set[str]] = {}
        self.envoy = Envoy(type_url, delta)
        self.envoy.wanted = set() if type_url == CDS else first
        self.envoy.wildcard = not self.envoy.wanted
        for name in NAMES:
            self.change(name, False)
        self.connect()

    def connect(self) -> None:
        # As the stream does when it ends: an answer lost on the way may have been a rejection.
        lost: dict[str, str] = self.server.flight.digests if hasattr(self, "server") else {}
        for digest, name in lost.items():
            self.rejected.setdefault(name, set()).add(digest)
        self.server: Subscription = Subscription(self.type_url, delta=self.delta)
        self.up: deque[tuple[Request, dict[str, bytes]]] = deque()
        self.down: deque[Response] = deque()
        self.last_sent: dict[str, str] = {}
        self.demanded: set[str] = set()
        self.last_names: frozenset[str] = frozenset()
        self.sent = 0
        self.greeted = False
        self.greet()

    def greet(self) -> None:
        # Envoy says nothing about a type it wants nothing of: an empty first request would mean everything.
        if self.envoy.wanted or self.envoy.wildcard:
            self.greeted = True
            self.say(self.envoy.hello())

    def say(self, request: Request) -> None:
        self.up.append((request, dict(self.envoy.serving)))

    @rule()
    def reconnect(self) -> None:
        self.connect()

    @rule(name=names, bad=st.booleans())
    def change(self, name: str, bad: bool) -> None:
        self.number += 1
        self.source[name] = content(self.type_url, name, self.number, bad=bad)
        self.changed()

    @rule(name=names)
    def vanish(self, name: str) -> None:
        self.source.pop(name, None)
        self.changed()

    def changed(self) -> None:
        if hasattr(self, "server"):
            self.server.change()

    @rule(name=names)
    def restore_former_content(self, name: str) -> None:
        if self.number > 3:
            self.source[name] = content(self.type_url, name, 1 + self.number // 2, bad=False)
            self.changed()

    @precondition(lambda self: self.type_url != CDS and not self.envoy.wildcard)
    @rule(name=names)
    def want(self, name: str) -> None:
        self.envoy.wanted.add(name)
        if self.greeted:
            self.say(self.names_request(frozenset({name}), frozenset()))
        else:
            self.greet()

    @precondition(lambda self: self.type_url != CDS and not self.envoy.wildcard)
    @rule(name=names)
    def lose_interest(self, name: str) -> None:
        if name in self.envoy.wanted:
            self.envoy.wanted.discard(name)
            for part in (self.envoy.stored, self.envoy.serving, self.envoy.accepted):
                part.pop(name, None)
            if self.greeted:
                self.say(self.names_request(frozenset(), frozenset({name})))

    def names_request(self, added: frozenset[str], dropped: frozenset[str]) -> Request:
        if self.delta:
            return Request(self.type_url, names=added, unsubscribed=dropped)
        return Request(self.type_url, self.envoy.nonce, names=frozenset(self.envoy.wanted))

    @rule()
    def stale_nonce(self) -> None:
        if self.server.version_sent:
            self.say(Request(self.type_url, "of-another-stream", "never mind", frozenset()))

    @rule()
    def restart_envoy(self) -> None:
        self.envoy.stored.clear()
        self.envoy.serving.clear()
        self.envoy.accepted.clear()
        self.connect()

    @rule()
    def server_reads(self) -> None:
        if not self.up:
            return
        request, serving = self.up.popleft()
        verdict = self.server.receive(request)
        self.demanded |= request.names if self.delta else request.names - self.last_names
        self.last_names = request.names
        if isinstance(verdict, Rejected):
            for name, resource in verdict.resources.items():
                self.rejected.setdefault(name, set()).add(resource.digest)
        elif isinstance(verdict, Accepted):
            self.accept(verdict, serving)

    def accept(self, verdict: Accepted, serving: dict[str, bytes]) -> None:
        for name, resource in verdict.resources.items():
            if name in self.envoy.wanted or self.envoy.wildcard:
                assert serving.get(name) == meaning(resource), "an acknowledgement that proves nothing was believed"
            self.rejected.pop(name, None)

    @rule()
    def server_writes(self) -> None:
        if not self.server.ready:
            return
        nacked = frozenset().union(*self.rejected.values()) if self.rejected else frozenset()
        while questions := self.server.ask():
            for question in questions:
                found = {n: r for n, r in self.source.items() if question is None or n in question}
                self.server.offer(found, nacked)
        self.sent += 1
        response = self.server.next_response(f"n{self.sent}", reword) or self.server.next_removal(f"n{self.sent}")
        if response is not None:
            self.check(response, nacked)
            self.down.append(response)

    def check(self, response: Response, nacked: frozenset[str]) -> None:
        if self.type_url == SDS:
            assert not {r.digest for r in response.resources} & nacked, "rejected secret sent as it was"
        news = [r for r in response.resources if self.last_sent.get(r.name) != r.digest or r.name in self.demanded]
        full_set = self.type_url == CDS and not self.delta
        if not full_set:
            # Whatever was rejected goes along with the repair: no telling which of the response was at fault.
            along = [r for r in response.resources if news and self.type_url != SDS and r.name in self.rejected]
            assert {r.name for r in news + along} == {r.name for r in response.resources}, "sent again without reason"
            assert news or response.removed or not self.source or self.envoy.wildcard
        if full_set:
            assert news or {r.name for r in response.resources} != set(self.last_sent) or not self.source
            self.last_sent.clear()
        self.last_sent.update({r.name: r.digest for r in response.resources})
        for name in response.removed:
            self.last_sent.pop(name, None)
        self.demanded -= {r.name for r in response.resources} | set(response.removed)

    @rule()
    def envoy_reads(self) -> None:
        if self.down:
            self.say(self.envoy.take(self.down.popleft()))

    @rule()
    def settle(self) -> None:
        for _ in range(200):
            self.server_reads()
            self.server_writes()
            self.envoy_reads()
            if not (self.up or self.down or self.server.ready):
                break
        else:
            raise AssertionError("it spins")
        assert not self.server.pending
        if any(b"bad" in r.body for r in (*self.source.values(), *self.envoy.stored.values())):
            return
        for name, resource in self.source.items():
            if name in self.envoy.wanted or self.envoy.wildcard:
                assert self.envoy.serving.get(name) == meaning(resource), "silence"

    def teardown(self) -> None:
        if hasattr(self, "server"):
            for name in self.source:
                self.change(name, False)
            self.settle()


TestSubscription = Machine.TestCase
TestSubscription.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
