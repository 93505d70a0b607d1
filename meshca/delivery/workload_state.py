"""What the Workload API serves from at one moment, on the server as on an agent.

Rules: a state is immutable and whole; who is entitled to what is asked of the state with an attested process and
nothing else; bundles of trust domains are side by side, never merged.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from types import MappingProxyType

from meshca.attest.process import Process
from meshca.attest.selectors import selectors
from meshca.authority.trust import Trust
from meshca.delivery.callers import Read, entries_of
from meshca.delivery.snapshot import Snapshot
from meshca.policy.entitlement import Registration
from meshca.spiffe import jwks
from meshca.spiffe.foreign import ForeignBundle
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.spiffe.jwtsvid import Keys

Identities = Callable[[Process], frozenset[SpiffeId]]
"""Returns the identities that a process is entitled to, suspended ones included."""

Federating = Callable[[Process], frozenset[tuple[SpiffeId, TrustDomain]]]
"""Returns whose bundles a process may have beside ours, and as which of its identities."""

_NONE: Mapping[TrustDomain, bytes] = MappingProxyType({})
_BEGIN, _END = b"-----BEGIN ", b"-----END "


@dataclass(frozen=True, slots=True)
class X509Anchors:
    """Roots and CRLs as one trust generation has them; bundles are certificates in DER, one after the other."""

    generation: int
    bundle: bytes = field(repr=False)
    crls: tuple[bytes, ...] = field(repr=False)
    federated: Mapping[TrustDomain, bytes] = field(default_factory=lambda: _NONE, repr=False)

    def only(self, domains: Collection[TrustDomain]) -> X509Anchors:
        """Return ours, and of the federated ones those of these trust domains alone."""
        if not self.federated:
            return self
        return replace(self, federated={td: found for td, found in self.federated.items() if td in domains})


@dataclass(frozen=True, slots=True)
class JwtAnchors:
    """The JWK sets of trust domains as one generation of our JWT bundle has them; without JWT-SVIDs there is none."""

    generation: int = 0
    bundles: Mapping[TrustDomain, bytes] = field(default_factory=lambda: _NONE, repr=False)

    def only(self, domains: Collection[TrustDomain]) -> JwtAnchors:
        """Return those of these trust domains alone."""
        return replace(self, bundles={domain: found for domain, found in self.bundles.items() if domain in domains})

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
    federating: Federating = field(default=lambda _: frozenset(), repr=False)


def state_of(snapshot: Snapshot, read: Read = selectors) -> WorkloadState:
    """Return what a server's snapshot means to the Workload API; ``read`` says what holds for a process."""
    return WorkloadState(
        snapshot.trust_domain,
        partial(_identities, snapshot, read),
        snapshot.suspended,
        replace(anchors_of(snapshot.trust), federated={td: der_of(found) for td, found in snapshot.federated.items()}),
        JwtAnchors(
            snapshot.jwt.generation,
            {
                **{td: found.jwt_keys for td, found in snapshot.federated.items()},
                snapshot.trust_domain: snapshot.jwt.bundle,
            },
        ),
        partial(_federating, snapshot, read),
    )


def anchors_of(trust: Trust) -> X509Anchors:
    """Return roots and CRLs of our own trust domain."""
    crls = tuple(sorted({crl.der for crl in trust.crls.values()}))
    return X509Anchors(trust.generation, b"".join(root.certificate for root in trust.roots), crls)


def der_of(bundle: ForeignBundle) -> bytes:
    """Return the roots of another trust domain, one after the other."""
    return b"".join(bundle.roots)


def federating(entries: Iterable[Registration]) -> frozenset[tuple[SpiffeId, TrustDomain]]:
    """Return whose bundles registrations allow, and to which identities."""
    return frozenset((entry.spiffe_id, domain) for entry in entries for domain in entry.federates_with)


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


def _federating(snapshot: Snapshot, read: Read, process: Process) -> frozenset[tuple[SpiffeId, TrustDomain]]:
    if not any(entry.federates_with for entry in snapshot.registrations_of("")):
        return frozenset()
    return federating(entries_of(process, snapshot, read))
