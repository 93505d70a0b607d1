"""Where a drop gets its material from: the port, and the adapter over our admin API.

The rules this module keeps:
- The key is made here and leaves this process only as a file.
- What is handed out has been checked to match (``Material.require_matching``).
- A leaf is renewed at half life ± 10 %, or at once when the ledger says that it is revoked; a change of trust gives the
  same leaf with the new bundle and CRLs, or a new one where a port has to prove that it has read them (``fresh``): what
  a port shows is its leaf, and the leaf before it says nothing about what it trusts.
- Time and chance are arguments. A failed call leaves everything as it was; calling again tries again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from meshca.client.values import Issued, SigningRequest, Trust
from meshca.drop.material import Material
from meshca.drop.watch import Watch
from meshca.errors import MeshcaError, RefusedError

_HALF = 0.5
_SPREAD = 0.1


class Source(Protocol):
    """Where a drop gets its material from."""

    def wait(self, seconds: float) -> Material | None:
        """Return material that differs from the last returned, or None when there is none in that time.

        Raises:
            MeshcaError: the material that is due cannot be had now; calling again tries again.
        """

    def acknowledge(self) -> None:
        """Say that what was returned last is in force."""


class TrustApi(Protocol):
    """What the adapter uses of ``AdminClient``."""

    def watch_trust(self, holder: str, spiffe_id: str = "") -> Iterator[Trust]:
        """Yield the trust at once, then each change."""

    def issue(self, requests: Sequence[SigningRequest]) -> list[Issued | MeshcaError]:
        """Issue a batch."""

    def acknowledge_trust(self, holder: str, spiffe_id: str, generation: int, serial: str = "") -> None:
        """Say that a generation, and a leaf, are in force."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """How the adapter reads time and chance: ``chance`` gives a number from 0 to 1."""

    now: Callable[[], datetime]
    chance: Callable[[], float]

    def at(self, issued: Issued) -> datetime:
        """Return when to renew: half of what is left of its life ± 10 %, so that a fleet does not renew in one second.

        Not of the whole life, which begins before now: a short one would be half over from the start.
        """
        share = _HALF + _SPREAD * (2 * self.chance() - 1)
        return self.now() + (issued.not_after - self.now()) * share


@dataclass(frozen=True, slots=True)
class _Leaf:
    issued: Issued
    key: bytes = field(repr=False)
    renew_at: datetime


@dataclass(frozen=True, slots=True)
class Wish:
    """Which certificate is wanted for a new key, and who will hold it."""

    node: str
    holder: str
    ttl: timedelta | None = None
    dns_names: tuple[str, ...] = ()
    key_type: str = "ec-p256"
    fresh: bool = False  # whether each change of trust brings a new leaf, if one can be had
    subject: str = ""  # the SPIFFE ID, where it is to stand in the subject, too


class AdminSource:
    """Material from ``run/admin.sock``: own key, certificate by CSR, trust by watching."""

    def __init__(self, api: TrustApi, wish: Wish, spiffe_id: str, renewal: Renewal) -> None:
        self._api = api
        self._wish = wish
        self._spiffe_id = spiffe_id
        self._holder = wish.holder
        self._renewal = renewal
        self._watch = Watch(lambda: api.watch_trust(wish.holder, spiffe_id))
        self._trust: Trust | None = None
        self._leaf: _Leaf | None = None
        self._given: Material | None = None
        self._given_of = (0, "")  # the trust generation and serial that it answers
        self._in_force = False
        self._owing = False

    def wait(self, seconds: float) -> Material | None:
        """Return new material after a change of trust, at half life, or after a revocation."""
        self._trust = self._watch.take(self._patience(seconds)) or self._trust
        if self._trust is None:
            return None
        self._owing = True
        material = self._material(self._trust)
        self._owing = False
        return material

    def acknowledge(self) -> None:
        """Tell the server that the trust and leaf that were returned last are in force here.

        Newer ones may have come meanwhile, of which no material could be made: they are not.
        """
        if self._given is None:
            return
        self._in_force = True
        generation, serial = self._given_of
        self._api.acknowledge_trust(self._holder, self._spiffe_id, generation, serial)

    def _patience(self, seconds: float) -> float:
        if self._owing:
            return 0.0
        if self._leaf is None:
            return seconds
        left = (self._leaf.renew_at - self._renewal.now()) / timedelta(seconds=1)
        return max(0.0, min(seconds, left))

    def _material(self, trust: Trust) -> Material | None:
        if self._leaf is None or self._is_due(self._leaf, trust):
            self._leaf = self._new_leaf(trust)
        elif self._wish.fresh and self._changes(trust):
            # While issuance is frozen, say, new CRLs go with the leaf that there is.
            with contextlib.suppress(MeshcaError):
                self._leaf = self._new_leaf(trust)
        leaf = self._leaf
        material = Material(
            chain=leaf.issued.chain,
            key=leaf.key,
            bundle=trust.bundle,
            crl=trust.crl,
            trust=f"generation {trust.generation}",
            leaf_crl_only=trust.leaf_crl_only,
        )
        if material == self._given:
            self._given_of = trust.generation, leaf.issued.serial
            # Another generation with the same bytes: nothing to write, but the server waits for the answer.
            if self._in_force:
                self.acknowledge()
            return None
        material.require_matching(self._renewal.now())
        self._given, self._given_of = material, (trust.generation, leaf.issued.serial)
        self._in_force = False
        return material

    def _changes(self, trust: Trust) -> bool:
        given = self._given
        return given is not None and (trust.bundle, trust.crl) != (given.bundle, given.crl)

    def _is_due(self, leaf: _Leaf, trust: Trust) -> bool:
        return leaf.issued.serial in trust.revoked or leaf.renew_at <= self._renewal.now()

    def _new_leaf(self, trust: Trust) -> _Leaf:
        if trust.suspended:
            raise RefusedError(f"{self._spiffe_id} is suspended", remedy=f"`meshca resume {self._wish.node}` ends that")
        key, issued = issue_with_new_key(self._api.issue, self._wish)
        return _Leaf(issued, key, self._renewal.at(issued))


def issue_with_new_key(
    issue: Callable[[Sequence[SigningRequest]], list[Issued | MeshcaError]], wish: Wish
) -> tuple[bytes, Issued]:
    """Make a key, have it certified, and return it as PKCS#8 beside its certificate.

    Raises:
        MeshcaError: the server's refusal.
    """
    key = ec.generate_private_key(ec.SECP384R1() if wish.key_type == "ec-p384" else ec.SECP256R1())
    # What is certified is the identity that the server finds for NODE; a subject that is not that one is refused.
    subject = x509.Name([x509.NameAttribute(NameOID.USER_ID, wish.subject)] if wish.subject else [])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    request = SigningRequest(wish.node, csr.public_bytes(Encoding.DER), wish.ttl, wish.holder, wish.dns_names)
    (answer,) = issue([request])
    if isinstance(answer, MeshcaError):
        raise answer
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), answer
