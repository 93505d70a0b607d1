from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.x509_material import DAY, NOW, SECOND, crl_plan, issuing, make_ca, make_crl, root, serial, sign

from meshca.x509 import crl as crl_module
from meshca.x509.checked import LintError, MisissueError, SpentPlanError
from meshca.x509.crl import CRL_LINTS, REASONS, CheckedCrl, RevokedEntry, check_crl, finish_crl


def test_a_crl_says_what_was_planned() -> None:
    entries = [RevokedEntry(serial(), NOW - timedelta(seconds=n), reason) for n, reason in enumerate(REASONS)]
    made = make_crl(issuing(), *entries, number=42)
    read = x509.load_pem_x509_crl(made.pem)
    assert read == x509.load_der_x509_crl(made.der)
    assert read.is_signature_valid(issuing().issuer.public_key)
    assert read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == made.number == 42
    assert (read.last_update_utc, read.next_update_utc) == (made.this_update, made.next_update)
    assert [each.serial_number for each in read] == [each.serial for each in entries]
    for each, entry in zip(read, entries, strict=True):
        assert each.revocation_date_utc == entry.revoked_at.replace(microsecond=0)
        flags = [extension.value.reason.value for extension in each.extensions]
        assert flags == ([] if entry.reason == "unspecified" else [entry.reason])


def test_an_empty_crl_leaves_the_list_out() -> None:
    assert len(x509.load_der_x509_crl(make_crl(root()).der)) == 0


def test_p384_signs_with_sha384() -> None:
    authority = make_ca(curve=ec.SECP384R1())
    read = x509.load_der_x509_crl(make_crl(authority).der)
    assert read.signature_hash_algorithm is not None
    assert read.signature_hash_algorithm.name == "sha384"


TWICE = RevokedEntry(5, NOW)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"number": -1}, "number_fits"),
        ({"number": 1 << 152}, "number_fits"),
        ({"this_update": NOW}, "updates_are_in_order"),
        ({"next_update": NOW.replace(microsecond=0) - DAY}, "updates_are_in_order"),
        ({"next_update": issuing().issuer.not_after + SECOND}, "next_update_is_within_the_issuers_life"),
        ({"revoked": (TWICE, TWICE)}, "serials_are_distinct"),
        ({"revoked": (RevokedEntry(0, NOW),)}, "serials_are_distinct"),
        ({"revoked": (RevokedEntry(1 << 152, NOW),)}, "serials_are_distinct"),
        ({"revoked": (RevokedEntry(5, NOW, "removeFromCRL"),)}, "reasons_are_known"),
        ({"revoked": (RevokedEntry(5, NOW, "Compromise"),)}, "reasons_are_known"),
    ],
)
def test_each_refusal_comes_from_its_own_lint(changes: dict[str, Any], name: str) -> None:
    plan = crl_plan(**changes)
    assert [each.name for each in CRL_LINTS if each.check(plan)] == [name]
    with pytest.raises(LintError, match=name):
        check_crl(plan)


def test_a_crl_is_signed_once_and_made_here_only() -> None:
    checked = check_crl(crl_plan())
    checked.spend()
    with pytest.raises(SpentPlanError):
        checked.spend()
    with pytest.raises(TypeError, match="check_crl"):
        CheckedCrl(object(), checked.plan, b"")


@pytest.mark.parametrize("signature", [b"", bytes(70)])
def test_junk_is_no_signature(signature: bytes) -> None:
    with pytest.raises(MisissueError, match="signature"):
        finish_crl(check_crl(crl_plan()), signature)


def test_another_cas_signature_is_refused() -> None:
    checked = check_crl(crl_plan(issuing()))
    with pytest.raises(MisissueError, match="signature"):
        finish_crl(checked, sign(root().key, checked.spend()))


@pytest.mark.parametrize(
    "other",
    [
        {"number": 2},
        {"next_update": issuing().issuer.not_after - SECOND},
        {"issuer": root().issuer},
        {"revoked": ()},
        {"revoked": (RevokedEntry(6, NOW),)},
        {"revoked": (RevokedEntry(5, NOW - SECOND),)},
        {"revoked": (RevokedEntry(5, NOW), RevokedEntry(6, NOW))},
    ],
)
def test_an_encoder_that_writes_something_else_is_caught(
    other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = crl_plan(issuing(), RevokedEntry(5, NOW))
    wrong = crl_module._tbs(crl_plan(issuing(), **{"revoked": plan.revoked, **other}))
    monkeypatch.setattr(crl_module, "_tbs", lambda _: wrong)
    with pytest.raises(LintError, match="V06"):
        check_crl(plan)


def test_bytes_that_are_no_crl_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crl_module, "_tbs", lambda _: b"\x30\x00")
    with pytest.raises(LintError, match="V00"):
        check_crl(crl_plan())
