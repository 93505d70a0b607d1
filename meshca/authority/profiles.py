"""The profiles in force: the table of x509/profiles.py, made narrower by the realm's lives and by configuration.

Rules kept here:
- What a configuration says of a profile makes it narrower, or is an error that names the bound; nothing widens it.
- A profile that others sign with has no limits to set here.
- A leaf lives no longer than the realm's leaves, a CA no longer than the realm's CAs. Where a profile says less, that
  is the life, and the ratios of lives hold for what results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType

from meshca.authority.lifetimes import RATIO, LifetimeError, Lifetimes, format_duration
from meshca.errors import InvalidInputError
from meshca.x509.profiles import ADMIN, AGENT, ISSUING, PROFILES, ROOT, SVID, Profile

LIMITS = ("max_ttl", "key_types", "dns_names")
# What of the realm's lives bounds each profile; those that are absent are leaves.
_LIFE_OF = {ROOT.name: "root", ISSUING.name: "issuing"}
# Callers over TCP, of whom the ledger is asked at each call: a configuration may let them live longer than a leaf, up
# to the ratio that binds every leaf. An administrator comes once a day, not once an hour (ADR 16).
_TCP_CALLERS = frozenset({ADMIN.name, AGENT.name})
_USUAL = {ADMIN.name: timedelta(days=1)}


class ProfileError(InvalidInputError):
    """A limit is none, or would loosen its profile."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a configuration says of one profile; None: nothing."""

    max_ttl: timedelta | None = None
    key_types: tuple[str, ...] | None = None
    dns_names: bool | None = None


Configured = Mapping[str, Limits]
"""Limits by the names of profiles."""
NOTHING: Configured = MappingProxyType({})


def profile_named(name: str) -> Profile:
    """Return the profile of this name that can be configured.

    Raises:
        ProfileError: There is none, or others sign with it.
    """
    profile = PROFILES.get(name)
    if profile is None or profile.read_only:
        known = ", ".join(each.name for each in PROFILES.values() if not each.read_only)
        raise ProfileError("no profile of ours", field="profiles", value=name, remedy=f"known: {known}")
    return profile


def tightened(profile: Profile, limits: Limits) -> Profile:
    """Return the profile with these limits.

    Raises:
        ProfileError: One of them would loosen it.
    """
    where = f"profiles.{profile.name}"
    _require_no_longer(f"{where}.max_ttl", limits.max_ttl, profile)
    _require_some_of(f"{where}.key_types", limits.key_types, profile)
    if limits.dns_names and not profile.dns_names:
        raise ProfileError(
            "this profile has no DNS names", field=f"{where}.dns_names", value="true", remedy="write false"
        )
    return replace(
        profile,
        max_ttl=limits.max_ttl or profile.max_ttl,
        key_types=_in_order(profile.key_types, limits.key_types),
        dns_names=profile.dns_names if limits.dns_names is None else limits.dns_names,
    )


def profiles_in_force(lifetimes: Lifetimes, configured: Configured = NOTHING) -> Mapping[str, Profile]:
    """Return every profile as narrow as the lives and the configuration make it.

    Raises:
        ProfileError: A limit would loosen its profile.
        LifetimeError: A ratio of the lives that result does not hold.
    """
    for name in configured:
        profile_named(name)
    found = {
        name: tightened(profile.within(_life_of(name, lifetimes)), configured.get(name, Limits()))
        for name, profile in PROFILES.items()
        if name not in _TCP_CALLERS
    }
    share = found[ISSUING.name].max_ttl / RATIO
    found |= {name: _tcp_caller(name, lifetimes.leaf, share, configured.get(name, Limits())) for name in _TCP_CALLERS}
    lives_in_force(found)
    return MappingProxyType(found)


def _tcp_caller(name: str, leaf: timedelta, share: timedelta, limits: Limits) -> Profile:
    widest = PROFILES[name].within(max(leaf, share))
    usual = min(max(leaf, _USUAL.get(name, leaf)), widest.max_ttl)
    return tightened(widest, limits if limits.max_ttl else replace(limits, max_ttl=usual))


def lives_in_force(profiles: Mapping[str, Profile]) -> Lifetimes:
    """Return how long root, issuing CA and leaf live under these profiles.

    Raises:
        LifetimeError: A ratio does not hold.
    """
    root, issuing, leaf = (profiles[profile.name].max_ttl for profile in (ROOT, ISSUING, SVID))
    try:
        return Lifetimes(root, issuing, leaf)
    except LifetimeError as error:
        raise LifetimeError(
            f"under the profiles in force, {error.message}", field=error.field, value=error.value, remedy=error.remedy
        ) from error


def require_lives(lifetimes: Lifetimes) -> None:
    """Check the lives of a new realm against the table.

    Raises:
        ProfileError: One is longer than its profile allows.
    """
    for profile in (ROOT, ISSUING, SVID):
        field = "leaf" if profile is SVID else profile.name
        _require_no_longer(f"lifetimes.{field}", _life_of(profile.name, lifetimes), profile)


def _life_of(name: str, lifetimes: Lifetimes) -> timedelta:
    if PROFILES[name].read_only:
        return PROFILES[name].max_ttl
    life: timedelta = getattr(lifetimes, _LIFE_OF.get(name, "leaf"))
    return life


def _require_no_longer(field: str, life: timedelta | None, profile: Profile) -> None:
    if life is not None and life > profile.max_ttl:
        raise ProfileError(
            f"longer than the profile {profile.name} allows",
            field=field,
            value=format_duration(life),
            remedy=f"at most {format_duration(profile.max_ttl)}: a limit can be tightened, not loosened",
        )


def _require_some_of(field: str, key_types: tuple[str, ...] | None, profile: Profile) -> None:
    if key_types is None:
        return
    strange = [kind for kind in key_types if kind not in profile.key_types]
    if strange or not key_types:
        raise ProfileError(
            f"not one or more of the key types of the profile {profile.name}",
            field=field,
            value=", ".join(strange) or "none",
            remedy=f"choose among {', '.join(profile.key_types)}",
        )


def _in_order(known: tuple[str, ...], chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    return known if chosen is None else tuple(kind for kind in known if kind in chosen)
