from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.lifetimes import LifetimeError, Lifetimes
from meshca.authority.profiles import Limits, ProfileError, profiles_in_force, require_lives, tightened
from meshca.x509.profiles import KEY_TYPES, PROFILES, Profile

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
OURS = [profile for profile in PROFILES.values() if not profile.read_only]

limits = st.builds(
    Limits,
    max_ttl=st.none() | st.integers(1, 40 * 365 * 86_400).map(lambda seconds: timedelta(seconds=seconds)),
    key_types=st.none() | st.lists(st.sampled_from([*KEY_TYPES, "rsa-2048"]), max_size=3).map(tuple),
    dns_names=st.none() | st.booleans(),
)


def is_within(narrow: Profile, wide: Profile) -> bool:
    """Say whether all that one profile allows the other allows, too."""
    same = replace(narrow, max_ttl=wide.max_ttl, key_types=wide.key_types, dns_names=wide.dns_names) == wide
    return (
        same
        and narrow.max_ttl <= wide.max_ttl
        and set(narrow.key_types) <= set(wide.key_types)
        and bool(narrow.key_types)
        and narrow.dns_names <= wide.dns_names
    )


@given(st.sampled_from(OURS), limits)
def test_no_configuration_loosens_a_profile(profile: Profile, wanted: Limits) -> None:
    error: ProfileError | None = None
    try:
        found = tightened(profile, wanted)
    except ProfileError as caught:
        error = caught
    if error is not None:
        assert error.field.startswith(f"profiles.{profile.name}.")
        assert error.value
        assert error.remedy
        return
    assert is_within(found, profile)
    assert wanted.max_ttl in {None, found.max_ttl}
    assert wanted.key_types is None or set(wanted.key_types) == set(found.key_types)
    assert wanted.dns_names in {None, found.dns_names}


def test_the_realms_lives_bound_the_profiles() -> None:
    found = profiles_in_force(Lifetimes())
    assert {name: profile.max_ttl for name, profile in found.items()} == {
        "svid": HOUR,
        "server": HOUR,
        "agent": HOUR,
        "admin": DAY,
        "root": 3650 * DAY,
        "intermediate": PROFILES["intermediate"].max_ttl,
        "issuing": 30 * DAY,
    }
    assert all(is_within(profile, PROFILES[name]) for name, profile in found.items())


def test_a_caller_over_tcp_may_live_longer_than_a_leaf_and_no_longer_than_any_leaf_may() -> None:
    found = profiles_in_force(Lifetimes(), {"admin": Limits(max_ttl=10 * DAY), "agent": Limits(max_ttl=7 * DAY)})
    assert (found["admin"].max_ttl, found["agent"].max_ttl, found["svid"].max_ttl) == (10 * DAY, 7 * DAY, HOUR)
    with pytest.raises(ProfileError, match=r"profiles.admin.max_ttl: longer .* \(got '11d'\); at most 10d"):
        profiles_in_force(Lifetimes(), {"admin": Limits(max_ttl=11 * DAY)})
    with pytest.raises(ProfileError, match=r"profiles.server.max_ttl"):
        profiles_in_force(Lifetimes(), {"server": Limits(max_ttl=2 * HOUR)})
    # The ratio is that of the issuing CA in force; a realm of short lives has administrators of short lives.
    short = {"issuing": Limits(max_ttl=6 * HOUR)}
    assert profiles_in_force(Lifetimes(), short)["admin"].max_ttl == 2 * HOUR
    with pytest.raises(ProfileError, match="at most 2h"):
        profiles_in_force(Lifetimes(), {**short, "agent": Limits(max_ttl=3 * HOUR)})
    assert profiles_in_force(Lifetimes(), {"admin": Limits(max_ttl=HOUR / 2)})["admin"].max_ttl == HOUR / 2


def test_a_limit_beyond_the_realms_life_is_an_error() -> None:
    with pytest.raises(ProfileError, match=r"profiles.svid.max_ttl: longer .* \(got '2h'\); at most 1h"):
        profiles_in_force(Lifetimes(), {"svid": Limits(max_ttl=2 * HOUR)})


def test_ratios_hold_for_what_results() -> None:
    assert profiles_in_force(Lifetimes(), {"issuing": Limits(max_ttl=3 * HOUR)})["issuing"].max_ttl == 3 * HOUR
    with pytest.raises(LifetimeError, match=r"lifetimes.leaf: under the profiles in force, longer than a third"):
        profiles_in_force(Lifetimes(), {"issuing": Limits(max_ttl=2 * HOUR)})


def test_what_is_not_signed_here_cannot_be_configured() -> None:
    for name in ("intermediate", "leaf", ""):
        with pytest.raises(ProfileError, match="no profile of ours"):
            profiles_in_force(Lifetimes(), {name: Limits()})


def test_a_new_realm_stays_within_the_table() -> None:
    require_lives(Lifetimes(root=30 * 365 * DAY, issuing=10 * 365 * DAY, leaf=90 * DAY))
    with pytest.raises(ProfileError, match=r"lifetimes.root: longer than the profile root allows \(got '31y'\)"):
        require_lives(Lifetimes(root=31 * 365 * DAY))
    with pytest.raises(ProfileError, match=r"lifetimes.leaf: .*at most 90d"):
        require_lives(Lifetimes(issuing=300 * DAY, leaf=100 * DAY))


def test_an_older_realm_of_longer_lives_is_capped_and_goes_on() -> None:
    old = Lifetimes(root=99 * 365 * DAY, issuing=300 * DAY, leaf=100 * DAY)
    found = profiles_in_force(old)
    assert (found["root"].max_ttl, found["svid"].max_ttl) == (30 * 365 * DAY, 90 * DAY)


def test_every_leaf_has_the_same_usages() -> None:
    """X509-SVID §4.4; the encoder counts on it: the extension is encoded once."""
    leaves = [profile for profile in PROFILES.values() if not profile.is_ca]
    assert {profile.extended_usages for profile in leaves} == {PROFILES["svid"].extended_usages}
    assert [profile.name for profile in leaves] == ["svid", "server", "agent", "admin"]
