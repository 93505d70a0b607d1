"""What the Workload API serves from at one moment, on the server as on an agent.

Rules: a state is immutable and whole; who is entitled to what is asked of the state with an attested process and
nothing else; bundles of trust domains are side by side, never merged.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType

from meshca.attest.process import Process
from meshca.attest.selectors import selectors
from meshca.authority.trust import Trust
from meshca.delivery.callers import Read, entries_of
from meshca.delivery.snapshot import Snapshot
from meshca.spiffe import jwks
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.spiffe.jwtsvid import Keys

Identities = Callable[[Process], frozenset[SpiffeId]]
"""Returns the identities that a process is entitled to, suspended ones included."""

_NONE: Mapping[TrustDomain, bytes] = MappingProxyType({})
_BEGIN, _END = b"-----BEGIN ", b"-----END "


@dataclass(frozen=True, slots=True)
class X509Anchors:
    """Roots and CRLs as one trust generation has them; bundles are certificates in DER, one after the other."""

    generation: int
    bundle: bytes = field(repr=False)
    crls: tuple[bytes, ...] = field(repr=False)
    federated: Mapping[TrustDomain, bytes] = field(default_factory=lambda: _NONE, repr=False)


@dataclass(frozen=True, slots=True)
class JwtAnchors:
    """The JWK sets of trust domains as one generation of our JWT bundle has them; without JWT-SVIDs there is none."""

    generation: int = 0
    bundles: Mapping[TrustDomain, bytes] = field(default_factory=lambda: _NONE, repr=False)

    @property
    def keys(self) -> Mapping[TrustDomain, Keys]:
        """Return the keys that verify tokens, by trust domain, never merged."""
        return {trust_domain: _keys(bundle) for trust_domain, bundle in self.bundles.items()}


@dataclass(frozen=True, slots=True)
class WorkloadState:
    """Who may have what, and whom to trust."""

    trust_domain: TrustDomain
    identities: Identities = field(repr=False)
    suspended: frozenset[SpiffeId]
    anchors: X509Anchors
    jwt: JwtAnchors = field(default_factory=JwtAnchors)


def state_of(snapshot: Snapshot, read: Read = selectors) -> WorkloadState:
    """Return what a server's snapshot means to the Workload API; ``read`` says what holds for a process."""
    return WorkloadState(
        snapshot.trust_domain,
        partial(_identities, snapshot, read),
        snapshot.suspended,
        anchors_of(snapshot.trust),
        JwtAnchors(snapshot.jwt.generation, {snapshot.trust_domain: snapshot.jwt.bundle}),
    )


def anchors_of(trust: Trust) -> X509Anchors:
    """Return roots and CRLs of our own trust domain."""
    crls = tuple(sorted({crl.der for crl in trust.crls.values()}))
    return X509Anchors(trust.generation, b"".join(root.certificate for root in trust.roots), crls)


def ders(pem: bytes) -> tuple[bytes, ...]:
    """Return the contents of PEM blocks that we or our server have made; text around them is skipped."""
    found = []
    for block in pem.split(_BEGIN)[1:]:
        body = block.partition(b"-----\n")[2].partition(_END)[0]
        found.append(base64.b64decode(body))
    return tuple(found)


@lru_cache(maxsize=64)
def _keys(bundle: bytes) -> Keys:
    return MappingProxyType(jwks.parse(bundle))


def _identities(snapshot: Snapshot, read: Read, process: Process) -> frozenset[SpiffeId]:
    return frozenset(entry.spiffe_id for entry in entries_of(process, snapshot, read))
