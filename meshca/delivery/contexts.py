"""Validation contexts, shared between all streams that are to have the same one.

Rules: a context's version follows from what it means (name, bundle, CRLs and how they are used, SANs) and is the same
after a restart, so that a reconnecting Envoy that has it is sent nothing; nobody admitted is ``/meshca/nobody``, never
an empty list; the cache is bounded by bytes, for each context carries its CRLs; roots of other trust domains stand in
Envoy's SPIFFE validator alone, which holds each to its own identities (``trusted_ca`` would let any of them vouch for
any), and never without SANs under a name that promises a policy.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from meshca.authority.trust import Trust
from meshca.delivery.ports import Clock
from meshca.envoy import secrets
from meshca.spiffe.foreign import ForeignBundle
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.spiffe.reserved import nobody
from meshca.xds.resource import SDS, Resource

Federated = Mapping[TrustDomain, ForeignBundle]
NOT_FEDERATED: Federated = MappingProxyType({})

_LARGEST_CACHE = 64 << 20
_VERSION_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Wanted:
    """A context: under which name, and whom it admits. None: whom the roots vouch for, as ``ROOTCA`` promises."""

    name: str
    admitted: frozenset[SpiffeId] | None
    domains: tuple[TrustDomain, ...] = ()
    """By whose roots, each for its own identities; none: by ours, with CRLs."""


class Contexts:
    """Makes contexts and keeps them while they may be asked for again."""

    def __init__(self, clock: Clock, trust_domain: TrustDomain) -> None:
        self._clock = clock
        self._trust_domain = trust_domain
        self._nobody = frozenset({nobody(trust_domain)})
        self._kept: OrderedDict[tuple[str, Wanted], Resource] = OrderedDict()
        self._bytes = 0
        self._trust: Trust | None = None
        self._trust_digest = ""

    def get(self, wanted: Wanted, trust: Trust, federated: Federated = NOT_FEDERATED) -> Resource:
        """Return the context under this trust, and under the bundles of other trust domains.

        Raises:
            UnsafeSecretError: An Envoy would take it and then admit the wrong peers, or none.
        """
        trust = trust.at(self._clock.now())
        wanted, bundles = self._known(wanted, trust, federated)
        return self._cached(wanted, trust, bundles, lambda: self._body(wanted, trust, bundles, b""))

    def reworded(
        self, wanted: Wanted, trust: Trust, words: tuple[bytes, str], federated: Federated = NOT_FEDERATED
    ) -> Resource:
        """Return the same context in other bytes; ``words`` are text after the last PEM block, and the version."""
        trust, (note, version) = trust.at(self._clock.now()), words
        wanted, bundles = self._known(wanted, trust, federated)
        return Resource(SDS, wanted.name, version, self._body(wanted, trust, bundles, note))

    def _known(self, wanted: Wanted, trust: Trust, federated: Federated) -> tuple[Wanted, dict[TrustDomain, bytes]]:
        """Return what is wanted, with the bundles of its trust domains; who is not federated any more is nobody."""
        if wanted.domains and wanted.admitted != frozenset():
            others = {domain: federated[domain].pem for domain in wanted.domains if domain in federated}
            bundles = {self._trust_domain: trust.bundle_pem, **others}
            if all(domain in bundles for domain in wanted.domains):
                return wanted, {domain: bundles[domain] for domain in wanted.domains}
        return (Wanted(wanted.name, frozenset()) if wanted.domains else wanted), {}

    def _body(self, wanted: Wanted, trust: Trust, bundles: Mapping[TrustDomain, bytes], note: bytes) -> bytes:
        if bundles:
            sans = None if wanted.admitted is None else sorted(map(str, wanted.admitted))
            noted = {domain: pem + note for domain, pem in bundles.items()}
            return secrets.validator_context(wanted.name, noted, sans)
        now, anchors = self._clock.now(), secrets.Anchors(trust.bundle_pem + note, trust.crl_pem, trust.leaf_crl_only)
        if wanted.admitted is None:
            return secrets.roots_context(wanted.name, anchors, now=now)
        sans = [str(spiffe_id) for spiffe_id in wanted.admitted or self._nobody]
        return secrets.validation_context(wanted.name, anchors, sans, now=now)

    def _cached(
        self, wanted: Wanted, trust: Trust, bundles: Mapping[TrustDomain, bytes], make: Callable[[], bytes]
    ) -> Resource:
        # That of our trust is in every version: whoever holds a leaf has to acknowledge each generation, and may hold
        # contexts of others alone. Envoy takes the same bytes under another version as no change.
        digest = self._digest(trust)
        for domain, pem in sorted(bundles.items()):
            digest = hashlib.sha256(f"{digest} {domain} ".encode() + pem).hexdigest()
        key = (digest, wanted)
        if found := self._kept.get(key):
            self._kept.move_to_end(key)
            return found
        made = Resource(SDS, wanted.name, _version(key[0], wanted), make())
        self._kept[key] = made
        self._bytes += len(made.body)
        while self._bytes > _LARGEST_CACHE and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped.body)
        return made

    def _digest(self, trust: Trust) -> str:
        if trust is not self._trust:
            parts = (trust.bundle_pem, trust.crl_pem, b"leaf" if trust.leaf_crl_only else b"")
            content = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts if part))
            self._trust, self._trust_digest = trust, content.hexdigest()
        return self._trust_digest


def _version(trust: str, wanted: Wanted) -> str:
    sans = ["*"] if wanted.admitted is None else sorted(map(str, wanted.admitted))
    return hashlib.sha256("\n".join((trust, wanted.name, *sans)).encode()).hexdigest()[:_VERSION_DIGITS]
