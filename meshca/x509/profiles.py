"""The profiles: what each kind of certificate may be at most, as data.

Rules kept here:
- What is signed here has one of these profiles, or one that is narrower; lints.py judges by them, profile.py takes
  usages and path lengths from them.
- The table is the widest there is. A configuration or a realm's lives can only make a profile narrower.
- ``intermediate`` is the CA of an upstream between its root and our issuing CA: it is read and never signed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType

from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshca.x509.publickey import CURVES

KEY_TYPES = tuple(curve.key_type for curve in CURVES)

# X509-SVID §4.4: both or none, whoever holds it.
_BOTH_SIDES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_LEAF = timedelta(days=90)
_YEAR = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a certificate may be at most."""

    name: str
    max_ttl: timedelta
    key_types: tuple[str, ...] = KEY_TYPES
    dns_names: bool = False  # whether DNS names may stand beside the SPIFFE ID
    subject: bool = False  # whether the subject may say the SPIFFE ID, too
    extended_usages: tuple[ObjectIdentifier, ...] = ()
    room: str = ""  # a leaf: where its identities lie; empty: anywhere but under /meshca/
    path_length: int | None = None  # a CA: how many CAs may stand below it; None: no CA
    read_only: bool = False  # others sign it

    @property
    def is_ca(self) -> bool:
        """Whether this is the profile of a CA."""
        return self.path_length is not None

    def within(self, life: timedelta) -> Profile:
        """Return the profile with no longer a life than this."""
        return self if life >= self.max_ttl else replace(self, max_ttl=life)


SVID = Profile("svid", _LEAF, dns_names=True, subject=True, extended_usages=_BOTH_SIDES)
SERVER = Profile("server", _LEAF, extended_usages=_BOTH_SIDES, room="/meshca/server/")
AGENT = Profile("agent", _LEAF, extended_usages=_BOTH_SIDES, room="/meshca/agent/")
ADMIN = Profile("admin", _LEAF, extended_usages=_BOTH_SIDES, room="/meshca/admin/")
ROOT = Profile("root", 30 * _YEAR, path_length=1)
INTERMEDIATE = Profile("intermediate", 30 * _YEAR, path_length=1, read_only=True)
ISSUING = Profile("issuing", 10 * _YEAR, path_length=0)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {each.name: each for each in (SVID, SERVER, AGENT, ADMIN, ROOT, INTERMEDIATE, ISSUING)}
)
