"""One fault per case, and the one lint that has to find it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.x509_material import (
    DAY,
    HOUR,
    LEAF_PROFILE,
    NOW,
    SECOND,
    TD,
    ca_plan,
    ca_profile,
    issuing,
    leaf_plan,
    make_ca,
    new_key,
    root,
    spki,
)

from meshca.errors import InvalidInputError
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.spiffe.reserved import admin, nobody, server
from meshca.x509.checked import LintError, check_ca, check_leaf
from meshca.x509.crl import CRL_LINTS
from meshca.x509.lint import Lint
from meshca.x509.lints import CA_LINTS, LEAF_LINTS, CaCase, LeafCase
from meshca.x509.plan import BACKDATING, CaPlan, LeafPlan, validity
from meshca.x509.profiles import PROFILES
from meshca.x509.readback import READBACK_LINTS


def leaf_findings(plan: LeafPlan, now: datetime = NOW) -> list[str]:
    return [each.name for each in LEAF_LINTS if each.check(LeafCase(plan, LEAF_PROFILE, now))]


def ca_findings(plan: CaPlan, now: datetime = NOW) -> list[str]:
    return [each.name for each in CA_LINTS if each.check(CaCase(plan, ca_profile(plan), now))]


START = NOW.replace(microsecond=0) - BACKDATING
LEAF_FAULTS: list[Any] = [
    pytest.param({"spiffe_id": TD.id}, "identity_has_a_path", id="no-path"),
    pytest.param(
        {"spiffe_id": SpiffeId.parse("spiffe://other.test/a")},
        "identity_is_of_the_issuers_trust_domain",
        id="other-trust-domain",
    ),
    pytest.param({"spiffe_id": nobody(TD)}, "nobody_is_never_issued", id="nobody"),
    pytest.param({"dns_names": ("*.m.test",)}, "dns_names_are_host_names", id="wildcard"),
    pytest.param({"dns_names": ("Web.m.test",)}, "dns_names_are_host_names", id="upper-case"),
    pytest.param({"dns_names": ("web.m.test", "web.m.test")}, "dns_names_are_host_names", id="twice"),
    pytest.param({"dns_names": ("web.m.test\n",)}, "dns_names_are_host_names", id="newline"),
    pytest.param({"dns_names": (".".join(["a" * 63] * 4),)}, "dns_names_are_host_names", id="254-bytes"),
    pytest.param({"dns_names": ("10.0.0.1",)}, "dns_names_are_host_names", id="ip"),
    pytest.param({"dns_names": ("web.m.test.",)}, "dns_names_are_host_names", id="root-dot"),
    pytest.param({"dns_names": ("a_b.m.test",)}, "dns_names_are_host_names", id="underscore"),
    pytest.param({"spki": spki(new_key(ec.SECP224R1()))}, "key_is_strong", id="p-224"),
    pytest.param({"spki": b""}, "key_is_strong", id="no-key"),
    pytest.param({"serial": 0}, "serial_is_positive_and_short", id="serial-0"),
    pytest.param({"serial": -1}, "serial_is_positive_and_short", id="serial-negative"),
    pytest.param({"serial": 1 << 152}, "serial_is_positive_and_short", id="serial-20-bytes"),
    pytest.param({"not_before": START + SECOND / 2}, "times_can_be_encoded", id="half-second"),
    pytest.param({"not_before": START + BACKDATING + SECOND}, "valid_now", id="future"),
    pytest.param({"not_before": START - SECOND, "not_after": START + HOUR}, "hardly_back_dated", id="back-dated"),
    pytest.param(
        {"not_after": START + HOUR + BACKDATING + SECOND}, "life_is_within_the_profile", id="one-second-too-long"
    ),
]


@pytest.mark.parametrize(("changes", "name"), LEAF_FAULTS)
def test_each_refusal_of_a_leaf_comes_from_its_own_lint(changes: dict[str, Any], name: str) -> None:
    plan = leaf_plan(**changes)
    assert leaf_findings(plan) == [name]
    with pytest.raises(LintError, match=name) as caught:
        check_leaf(plan, LEAF_PROFILE, NOW)
    assert isinstance(caught.value, InvalidInputError)
    assert len(caught.value.findings) == 1


PROFILE_FAULTS: list[Any] = [
    pytest.param({"dns_names": False}, {"dns_names": ("web.m.test",)}, "dns_names_are_the_profiles", id="dns-name"),
    pytest.param(
        {"key_types": ("ec-p256",)},
        {"spki": spki(new_key(ec.SECP384R1()))},
        "key_type_is_the_profiles",
        id="key-type",
    ),
    pytest.param({"subject": False}, {"names_subject": True}, "subject_is_the_profiles", id="subject"),
    pytest.param(
        {},
        {"names_subject": True, "spiffe_id": SpiffeId.parse("spiffe://m.test/" + "a" * 241)},
        "subject_is_the_profiles",
        id="subject-too-long",
    ),
    pytest.param({}, {"spiffe_id": admin(TD, "ann")}, "identity_is_in_the_profiles_room", id="reserved"),
    pytest.param({"room": "/meshca/admin/"}, {}, "identity_is_in_the_profiles_room", id="admin-for-a-workload"),
    pytest.param(
        {"room": "/meshca/admin/"}, {"spiffe_id": server(TD, "a")}, "identity_is_in_the_profiles_room", id="other-room"
    ),
    pytest.param({"path_length": 0}, {}, "profile_is_a_leafs", id="profile-of-a-ca"),
    pytest.param({"max_ttl": HOUR - SECOND}, {}, "life_is_within_the_profile", id="shorter-life"),
]


@pytest.mark.parametrize(("limits", "changes", "name"), PROFILE_FAULTS)
def test_what_the_profile_does_not_allow_is_refused(limits: dict[str, Any], changes: dict[str, Any], name: str) -> None:
    profile = replace(LEAF_PROFILE, **limits)
    case = LeafCase(leaf_plan(**changes), profile, NOW)
    assert [each.name for each in LEAF_LINTS if each.check(case)] == [name]


@pytest.mark.parametrize("name", ["svid", "root", "intermediate"])
def test_a_ca_has_the_profile_of_its_role(name: str) -> None:
    with pytest.raises(LintError, match="C05 profile_is_the_roles"):
        check_ca(ca_plan(new_key(), root().issuer, not_after=NOW.replace(microsecond=0) + HOUR), PROFILES[name], NOW)


def test_a_good_leaf_has_no_findings() -> None:
    assert leaf_findings(leaf_plan()) == []
    assert leaf_findings(leaf_plan(dns_names=("web.m.test", "localhost"))) == []
    longest = SpiffeId.parse("spiffe://m.test/" + "a" * 240)
    assert leaf_findings(leaf_plan(names_subject=True, spiffe_id=longest)) == []
    assert leaf_findings(leaf_plan(spki=spki(new_key(ec.SECP384R1())))) == []


def test_a_leaf_does_not_carry_its_issuers_key() -> None:
    assert leaf_findings(leaf_plan(spki=issuing().issuer.spki)) == ["key_is_not_the_issuers"]


def test_an_expired_plan_is_refused() -> None:
    late = START + HOUR + BACKDATING
    assert leaf_findings(leaf_plan(), late) == ["valid_now", "hardly_back_dated"]


def test_a_leaf_ends_with_its_issuer() -> None:
    issuer = make_ca(root(), not_after=START + HOUR).issuer
    assert leaf_findings(leaf_plan(issuer=issuer)) == []  # capped by validity()
    assert leaf_plan(issuer=issuer).not_after == issuer.not_after
    outlived = leaf_plan(issuer=issuer, not_after=issuer.not_after + SECOND)
    assert leaf_findings(outlived) == ["life_is_within_the_issuers"]


def test_a_leaf_does_not_start_before_its_issuer() -> None:
    issuer = make_ca(root(), now=NOW, not_before=START + 5 * SECOND).issuer
    assert leaf_plan(issuer=issuer).not_before == issuer.not_before
    assert leaf_findings(leaf_plan(issuer=issuer)) == []
    assert leaf_findings(leaf_plan(issuer=issuer, not_before=START)) == ["life_is_within_the_issuers"]


def test_validity_is_back_dated_by_a_minute() -> None:
    when = validity(NOW, HOUR, None)
    assert (when.not_before, when.not_after) == (START, START + 60 * SECOND + HOUR)
    assert when.not_before.tzinfo is UTC


def test_all_findings_are_reported_together() -> None:
    with pytest.raises(LintError) as caught:
        check_leaf(leaf_plan(serial=0, spiffe_id=nobody(TD)), LEAF_PROFILE, NOW)
    assert [finding.split()[0] for finding in caught.value.findings] == ["L03", "B02"]


def bare(name: str) -> TrustDomain:
    return TrustDomain(name)


CA_FAULTS: list[Any] = [
    pytest.param("root", {"role": "issuing"}, "path_length_leaves_room", id="issuing-without-root"),
    pytest.param("issuing", {"role": "root"}, "path_length_leaves_room", id="root-under-root"),
    pytest.param("issuing", {"trust_domain": bare("x.test")}, "trust_domain_is_the_issuers", id="other-trust-domain"),
    pytest.param(
        "root",
        {"trust_domain": bare("a_b.test"), "name_constraint": True},
        "name_constraint_can_be_checked",
        id="underscore",
    ),
    pytest.param(
        "root", {"trust_domain": bare(".m"), "name_constraint": True}, "name_constraint_can_be_checked", id="dot-first"
    ),
    pytest.param(
        "root", {"trust_domain": bare("10.0.0.1"), "name_constraint": True}, "name_constraint_can_be_checked", id="ip"
    ),
    pytest.param("root", {"spki": spki(new_key(ec.SECP521R1()))}, "key_is_strong", id="p-521"),
    pytest.param("root", {"serial": 0}, "serial_is_positive_and_short", id="serial-0"),
    pytest.param("root", {"not_after": START + 3651 * DAY}, "life_is_within_the_profile", id="too-long"),
]


@pytest.mark.parametrize(("kind", "changes", "name"), CA_FAULTS)
def test_each_refusal_of_a_ca_comes_from_its_own_lint(kind: str, changes: dict[str, Any], name: str) -> None:
    plan = ca_plan(new_key(), root().issuer if kind == "issuing" else None, **changes)
    assert ca_findings(plan) == [name]
    with pytest.raises(LintError, match=name):
        check_ca(plan, ca_profile(plan), NOW)


def test_an_issuing_ca_has_no_ca_below_it() -> None:
    assert ca_findings(ca_plan(new_key(), issuing().issuer)) == ["path_length_leaves_room"]


def test_an_issuing_ca_has_a_key_of_its_own() -> None:
    assert ca_findings(ca_plan(root().key, root().issuer)) == ["subject_is_not_the_issuers"]


def test_good_cas_have_no_findings() -> None:
    assert ca_findings(ca_plan(new_key())) == []
    assert ca_findings(ca_plan(new_key(), root().issuer)) == []
    assert ca_findings(ca_plan(new_key(), trust_domain=bare("a_b.test"))) == []
    assert ca_findings(ca_plan(new_key(), name_constraint=True)) == []


def test_numbers_are_unique_and_cited() -> None:
    everything: list[Lint[Any]] = [*LEAF_LINTS, *CA_LINTS, *READBACK_LINTS, *CRL_LINTS]
    lints = {each.number: each for each in everything}
    assert len(lints) == len({each.name for each in lints.values()})
    assert all(each.citation and each.check.__doc__ for each in lints.values())
