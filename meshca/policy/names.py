"""Subject alternative names in a policy, and whom they can match.

Rules kept here:
- N1 A name matches by equality with a SPIFFE ID; any one of the list suffices.
- N2 A DNS name matches nobody, since peers are known by their SPIFFE ID (a node may hold its host name, and so may any
  other node of that host name: hostnames.py, H1); a URI that is no SPIFFE ID matches nobody either.
  Both are warned of, and never widen the policy: a list that matches nobody admits nobody.
- N3 An ID of another trust domain is kept as it is; without federation nobody presents it, which is warned of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.mesh.findings import Finding
from meshca.spiffe.id import IdentityError, SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMES_FIELD = "subjectAlternativeNames.match.exact"


class NameReader:
    """Reads name lists, each distinct list once, and collects what is to be warned of."""

    def __init__(self, trust_domain: TrustDomain) -> None:
        self._trust_domain = trust_domain
        self._ids: dict[tuple[str, ...], frozenset[SpiffeId]] = {}
        self._doubts: dict[tuple[str, ...], tuple[tuple[int, str], ...]] = {}
        self.findings: list[Finding] = []

    def read(self, names: tuple[str, ...], where: str, field: str) -> frozenset[SpiffeId]:
        """Return the IDs that a list matches; ``where`` and ``field`` say whose it is."""
        if names not in self._ids:
            self._ids[names] = frozenset(_ids(names))
            self._doubts[names] = tuple(self._doubtful(names))
        for index, rule in self._doubts[names]:
            spot = f"{field}.{_NAMES_FIELD}[{index}]"
            self.findings.append(Finding("warning", rule, object=where, field=spot, value=names[index]))
        if not self._ids[names]:
            rule = "no name of this list can match, so nobody is admitted"
            self.findings.append(Finding("warning", rule, object=where, field=f"{field}.{_NAMES_FIELD}"))
        return self._ids[names]

    def _doubtful(self, names: tuple[str, ...]) -> Iterable[tuple[int, str]]:
        for index, name in enumerate(names):
            rule = self._doubt(name)
            if rule:
                yield index, rule

    def _doubt(self, name: str) -> str:
        if "://" not in name:
            return "a DNS name matches nobody: peers are known by their SPIFFE IDs"
        try:
            spiffe_id = SpiffeId.parse(name)
        except IdentityError as error:
            return f"this URI is no SPIFFE ID and matches nobody: {error.message}"
        if spiffe_id.trust_domain != self._trust_domain:
            return f"not of the trust domain {self._trust_domain}: matches nobody unless its own is federated"
        return ""


def _ids(names: tuple[str, ...]) -> Iterable[SpiffeId]:
    for name in names:
        try:
            yield SpiffeId.parse(name)
        except IdentityError:
            continue  # N2: warned of in `_doubt`
