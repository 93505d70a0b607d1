"""The lints on plans: what may be signed at all. `readback` holds those on the encoded bytes.

L: leaves, C: CAs, B: both. A lint that fails says so; none has a switch.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

from meshca.spiffe.reserved import is_nobody, is_reserved
from meshca.x509.lint import Lint, lint
from meshca.x509.plan import BACKDATING, CaPlan, LeafPlan
from meshca.x509.profiles import Profile
from meshca.x509.publickey import ca_id, curve_of
from meshca.x509.serial import SERIAL_BYTES

_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_DNS_NAME_LIMIT = 253
_USER_ID_LIMIT = 256
_OLDEST_START = BACKDATING + timedelta(seconds=1)
_SERIAL_LIMIT = 1 << (8 * SERIAL_BYTES)
_END_OF_TIME = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 §4.1.2.5


class LeafCase(NamedTuple):
    """A leaf plan with what it is judged by."""

    plan: LeafPlan
    profile: Profile
    now: datetime


class CaCase(NamedTuple):
    """A CA plan with what it is judged by."""

    plan: CaPlan
    profile: Profile
    now: datetime


AnyCase: TypeAlias = LeafCase | CaCase


@lint("L01", "X509-SVID §3.1")
def identity_has_a_path(case: LeafCase) -> str | None:
    """A leaf's ID has a path; without one it is the trust domain itself."""
    return "the ID of a trust domain is for its CAs" if case.plan.spiffe_id.is_trust_domain else None


@lint("L02", "X509-SVID §3.2")
def identity_is_of_the_issuers_trust_domain(case: LeafCase) -> str | None:
    """A CA issues in its own trust domain only."""
    plan = case.plan
    if plan.issuer.trust_domain == plan.spiffe_id.trust_domain:
        return None
    return f"{plan.spiffe_id} under an issuer of {plan.issuer.trust_domain or 'no trust domain'}"


@lint("L03", "design §6")
def nobody_is_never_issued(case: LeafCase) -> str | None:
    """The identity that stands for 'admit nobody' has no certificate, ever."""
    return "this identity is reserved" if is_nobody(case.plan.spiffe_id) else None


@lint("L04", "RFC 1034 §3.5, RFC 1123 §2.1, RFC 5280 §4.2.1.6")
def dns_names_are_host_names(case: LeafCase) -> str | None:
    """DNS names are distinct lower-case host names, without wildcards; none is an IP address."""
    names = case.plan.dns_names
    if not names:
        return None
    bad = [name for name in names if not is_host_name(name)]
    if bad or len(set(names)) != len(names):
        return f"not distinct lower-case host names: {', '.join(map(repr, bad or names))}"
    return None


@lint("L05", "X509-SVID §3.2, RFC 5280 §4.2.1.9")
def key_is_not_the_issuers(case: LeafCase) -> str | None:
    """A leaf never carries the key of its CA."""
    return "the key is the issuer's own" if case.plan.spki == case.plan.issuer.spki else None


@lint("L06", "design §6")
def dns_names_are_the_profiles(case: LeafCase) -> str | None:
    """DNS names stand only in a certificate whose profile has them."""
    if case.profile.dns_names or not case.plan.dns_names:
        return None
    return f"the profile {case.profile.name} has no DNS names"


@lint("L07", "X509-SVID §5.2, design §6")
def identity_is_in_the_profiles_room(case: LeafCase) -> str | None:
    """What lies under /meshca/ is issued with the profile of its room only, and with that profile nothing else is."""
    spiffe_id, room = case.plan.spiffe_id, case.profile.room
    if room:
        return None if spiffe_id.path.startswith(room) else f"the profile {case.profile.name} is for {room} only"
    reserved = is_reserved(spiffe_id) and not is_nobody(spiffe_id)  # that one is L03's
    return f"the profile {case.profile.name} is for nothing under /meshca/" if reserved else None


@lint("L08", "X509-SVID §4.1")
def profile_is_a_leafs(case: LeafCase) -> str | None:
    """A leaf has the profile of a leaf."""
    return f"{case.profile.name} is the profile of a CA" if case.profile.is_ca else None


@lint("L09", "RFC 5280 §4.1.2.6, RFC 1274 ub-user-identifier")
def subject_is_the_profiles(case: LeafCase) -> str | None:
    """The subject says the identity only where the profile has that, and only in at most 256 characters."""
    if not case.plan.names_subject:
        return None
    if not case.profile.subject:
        return f"the profile {case.profile.name} has an empty subject"
    size = len(str(case.plan.spiffe_id))
    return None if size <= _USER_ID_LIMIT else f"{size} characters are too many for a user ID"


@lint("B01", "RFC 5480 §2.1.1, SP 800-57 part 1 §5.6.1")
def key_is_strong(case: AnyCase) -> str | None:
    """The key is a point of P-256 or P-384 in its one encoding."""
    return "the key is neither P-256 nor P-384" if curve_of(case.plan.spki) is None else None


@lint("B02", "RFC 5280 §4.1.2.2")
def serial_is_positive_and_short(case: AnyCase) -> str | None:
    """The serial is positive and fits into 20 octets with its sign byte."""
    return None if 0 < case.plan.serial < _SERIAL_LIMIT else "the serial is not one of 19 bytes above zero"


@lint("B03", "RFC 5280 §4.1.2.5")
def times_can_be_encoded(case: AnyCase) -> str | None:
    """Times are whole seconds with a zone, in order, and end before the year 10000."""
    start, end = case.plan.not_before, case.plan.not_after
    if start.tzinfo is None or end.tzinfo is None or start.microsecond or end.microsecond:
        return "times need a zone and whole seconds"
    return None if start < end <= _END_OF_TIME else f"it would end ({end}) before it starts ({start})"


@lint("B04", "RFC 5280 §4.1.2.5, design §5")
def valid_now(case: AnyCase) -> str | None:
    """It is valid at the moment of signing: Envoy takes a future or expired one and then refuses every handshake."""
    plan = case.plan
    return None if plan.not_before <= case.now < plan.not_after else f"not valid at {case.now.isoformat()}"


@lint("B05", "boulder issuance, after CA/B BR §7.1.2.7")
def hardly_back_dated(case: AnyCase) -> str | None:
    """The start lies at most 60 s in the past (plus the second that was cut off), so that no time is made up."""
    age = case.now - case.plan.not_before
    return None if age < _OLDEST_START else f"back-dated by {age}"


@lint("B06", "design §7")
def life_is_within_the_profile(case: AnyCase) -> str | None:
    """It lives no longer than its profile allows, back-dating aside."""
    life = case.plan.not_after - case.plan.not_before
    return None if life <= case.profile.max_ttl + BACKDATING else f"{life} is longer than {case.profile.max_ttl}"


@lint("B07", "RFC 5280 §6.1.3, design §7")
def life_is_within_the_issuers(case: AnyCase) -> str | None:
    """It is valid only while its issuer is."""
    plan = case.plan
    if plan.issuer is None or (plan.issuer.not_before <= plan.not_before and plan.not_after <= plan.issuer.not_after):
        return None
    return f"its issuer is valid from {plan.issuer.not_before} to {plan.issuer.not_after}"


@lint("B08", "design §7")
def key_type_is_the_profiles(case: AnyCase) -> str | None:
    """The key is of a type that the profile allows."""
    curve = curve_of(case.plan.spki)  # None is B01's
    if curve is None or curve.key_type in case.profile.key_types:
        return None
    return f"{curve.key_type} is none of the profile {case.profile.name}: {', '.join(case.profile.key_types)}"


@lint("C01", "RFC 5280 §4.2.1.9, design §3")
def path_length_leaves_room(case: CaCase) -> str | None:
    """A root signs itself; an issuing CA stands under one that may have a CA below it."""
    issuer = case.plan.issuer
    if case.plan.role == "root":
        return None if issuer is None else "a root is signed by itself"
    if issuer is None:
        return "an issuing CA is signed by a root"
    return "its issuer may not have a CA below it" if issuer.path_length == 0 else None


@lint("C02", "X509-SVID §3.2")
def trust_domain_is_the_issuers(case: CaCase) -> str | None:
    """A CA stands under one of its own trust domain, or under one that names none."""
    issuer = case.plan.issuer
    if issuer is None or issuer.trust_domain in {None, case.plan.trust_domain}:
        return None
    return f"{case.plan.trust_domain} under an issuer of {issuer.trust_domain}"


@lint("C03", "RFC 5280 §4.2.1.10, design §5")
def name_constraint_can_be_checked(case: CaCase) -> str | None:
    """A URI constraint needs a host name: under one, BoringSSL refuses every leaf of a trust domain with '_'."""
    plan = case.plan
    if not plan.name_constraint or (_DNS_NAME.fullmatch(plan.trust_domain.name) and not _looks_like_ip(plan)):
        return None
    return f"trust domain {plan.trust_domain} is not a host name; leave the name constraint out"


@lint("C04", "RFC 5280 §4.1.2.6")
def subject_is_not_the_issuers(case: CaCase) -> str | None:
    """An issuing CA has a key, hence a name, of its own."""
    issuer = case.plan.issuer
    return "the key is the issuer's own" if issuer is not None and issuer.id == ca_id(case.plan.spki) else None


@lint("C05", "RFC 5280 §4.2.1.9, design §7")
def profile_is_the_roles(case: CaCase) -> str | None:
    """A CA has the profile of its role, and one that is signed here."""
    if case.profile.name == case.plan.role and not case.profile.read_only:
        return None
    return f"the profile {case.profile.name} is not that of our {case.plan.role} CA"


def is_host_name(name: str) -> bool:
    """Whether a certificate may hold this name: lower-case, no wildcard, no IP address, no dot of the root."""
    return len(name) <= _DNS_NAME_LIMIT and bool(_DNS_NAME.fullmatch(name)) and not name.rpartition(".")[2].isdigit()


def _looks_like_ip(plan: CaPlan) -> bool:
    # RFC 5280 §4.2.1.10: a URI constraint says nothing about a host that is an IP address.
    return plan.trust_domain.name.rpartition(".")[2].isdigit()


_BOTH: tuple[Lint[AnyCase], ...] = (
    key_is_strong,
    serial_is_positive_and_short,
    times_can_be_encoded,
    valid_now,
    hardly_back_dated,
    life_is_within_the_profile,
    life_is_within_the_issuers,
    key_type_is_the_profiles,
)
LEAF_LINTS: tuple[Lint[LeafCase], ...] = (
    identity_has_a_path,
    identity_is_of_the_issuers_trust_domain,
    nobody_is_never_issued,
    dns_names_are_host_names,
    key_is_not_the_issuers,
    dns_names_are_the_profiles,
    identity_is_in_the_profiles_room,
    profile_is_a_leafs,
    subject_is_the_profiles,
    *_BOTH,
)
CA_LINTS: tuple[Lint[CaCase], ...] = (
    path_length_leaves_room,
    trust_domain_is_the_issuers,
    name_constraint_can_be_checked,
    subject_is_not_the_issuers,
    profile_is_the_roles,
    *_BOTH,
)
