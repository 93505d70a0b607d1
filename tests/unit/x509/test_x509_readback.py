"""Each field that could be encoded wrongly is noticed, by its own lint, before anything is signed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.x509_material import HOUR, LEAF_PROFILE, NOW, SECOND, TD, ca_plan, leaf_plan, new_key, root, spki

from meshca.spiffe.id import SpiffeId
from meshca.x509 import der, encode, profile
from meshca.x509.checked import LintError, check_ca, check_leaf
from meshca.x509.plan import LeafPlan
from meshca.x509.profiles import ISSUING, ROOT
from meshca.x509.readback import READBACK_LINTS, read_leaf


def findings(plan: LeafPlan, tbs: bytes) -> list[str]:
    draft = read_leaf(plan, tbs)
    return [each.name for each in READBACK_LINTS if each.check(draft)]


@pytest.mark.parametrize(
    ("encoded", "names"),
    [
        ({"serial": 5}, ["serial_is_the_planned"]),
        ({"not_after": NOW.replace(microsecond=0) + HOUR + SECOND}, ["times_are_the_planned"]),
        ({"spiffe_id": SpiffeId.parse("spiffe://m.test/admin")}, ["extensions_are_those_of_the_profile"]),
        ({"dns_names": ("a.test",)}, ["extensions_are_those_of_the_profile"]),
        ({"names_subject": True}, ["subject_is_the_planned", "extensions_are_those_of_the_profile"]),
        ({"spki": spki(new_key())}, ["key_is_the_planned", "extensions_are_those_of_the_profile"]),
        ({"issuer": root().issuer}, ["issuer_is_the_issuers_subject", "extensions_are_those_of_the_profile"]),
    ],
)
def test_an_encoder_that_writes_something_else_is_caught(encoded: dict[str, Any], names: list[str]) -> None:
    plan = leaf_plan()
    assert findings(plan, encode.leaf_tbs(plan)) == []
    assert findings(plan, encode.leaf_tbs(replace(plan, **encoded))) == names


@pytest.mark.parametrize(
    ("place", "content", "name"),
    [
        (2, der.sequence(bytes.fromhex("06082a8648ce3d040303")), "algorithm_fits_the_issuers_key"),
        (5, root().issuer.subject, "subject_is_the_planned"),
    ],
    ids=["algorithm", "subject"],  # the same in every process, though the keys are not
)
def test_constant_fields_are_compared_as_well(place: int, content: bytes, name: str) -> None:
    plan = leaf_plan()
    fields = der.children(encode.leaf_tbs(plan))
    fields[place] = content
    assert findings(plan, der.sequence(*fields)) == [name]


@pytest.mark.parametrize(
    ("version", "rule"),
    [(b"", "R01 version_is_3"), (b"\xa0\x03\x02\x01\x00", "R00"), (b"\xa0\x03\x02\x01\x01", "R00")],
)
def test_another_version_is_caught(version: bytes, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_leaf(leaf_plan(), LEAF_PROFILE, NOW)  # the identity's specimen is read back once, and by the real encoder
    wrong = der.sequence(version, *der.children(encode.leaf_tbs(leaf_plan()))[1:])
    monkeypatch.setattr(encode, "leaf_tbs", lambda _: wrong)
    with pytest.raises(LintError, match=rule):
        check_leaf(leaf_plan(), LEAF_PROFILE, NOW)


def test_a_field_after_the_extensions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tbs = encode.leaf_tbs
    monkeypatch.setattr(encode, "leaf_tbs", lambda plan: der.sequence(*der.children(tbs(plan)), der.integer(1)))
    with pytest.raises(LintError, match="R00"):
        check_leaf(leaf_plan(), LEAF_PROFILE, NOW)


def test_a_wrong_profile_value_is_caught_for_its_specimen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder is made to write CA rights; `cryptography` reads them, and the profile wants none."""
    leaf_extensions, wrong = profile.leaf_extensions, {profile.LEAF_KEY_USAGE: profile.CA_KEY_USAGE}
    monkeypatch.setattr(
        encode, "leaf_extensions", lambda *plan: tuple(wrong.get(each, each) for each in leaf_extensions(*plan))
    )
    plan = leaf_plan(spiffe_id=SpiffeId(TD, "/specimen"))
    encode._extensions_without_key.cache_clear()
    with pytest.raises(LintError, match="R09"):
        check_leaf(plan, LEAF_PROFILE, NOW)
    encode._extensions_without_key.cache_clear()


def test_a_ca_is_read_back_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    tbs = encode.ca_tbs
    monkeypatch.setattr(encode, "ca_tbs", lambda plan: tbs(replace(plan, role="root")))
    with pytest.raises(LintError, match="R09"):
        check_ca(ca_plan(new_key(), root().issuer), ISSUING, NOW)


def test_a_ca_with_another_serial_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tbs = encode.ca_tbs
    monkeypatch.setattr(encode, "ca_tbs", lambda plan: tbs(replace(plan, serial=7)))
    with pytest.raises(LintError, match="R02 serial_is_the_planned"):
        check_ca(ca_plan(new_key(ec.SECP384R1())), ROOT, NOW)
