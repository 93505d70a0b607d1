from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from meshca.x509.crl import CRL_LINTS
from meshca.x509.foreign import CHAIN_LINTS
from meshca.x509.lint import Lint
from meshca.x509.lints import CA_LINTS, LEAF_LINTS
from meshca.x509.profiles import PROFILES, Profile
from meshca.x509.readback import READBACK_LINTS

_PAGE = (Path(__file__).parents[3] / "docs/lints.md").read_text()
_LINTS: list[Lint[Any]] = [*LEAF_LINTS, *CA_LINTS, *READBACK_LINTS, *CRL_LINTS, *CHAIN_LINTS]
_ROWS = {(each.number, each.name, each.citation) for each in _LINTS}


@pytest.mark.parametrize(("number", "name", "citation"), sorted(_ROWS))
def test_every_lint_is_on_the_page(number: str, name: str, citation: str) -> None:
    assert f"| {number} | `{name}` | {citation} | " in _PAGE


def test_the_page_lists_no_other() -> None:
    assert _PAGE.count(" | `") == len(_ROWS)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_profile_is_on_the_page(profile: Profile) -> None:
    (row,) = re.findall(rf"^\| `{profile.name}`[^|]*\| (.+) \|$", _PAGE, re.MULTILINE)
    life, keys, names, usages, room, below = row.split(" | ")
    days = profile.max_ttl.days
    assert life == (f"{days // 365} y" if days >= 365 else f"{days} d")
    assert keys == ", ".join(profile.key_types)
    assert names == ("yes" if profile.dns_names else "no")
    assert usages == (", ".join(oid._name for oid in profile.extended_usages) or "-")
    assert room == ("the trust domain" if profile.is_ca else profile.room or "outside /meshca/")
    assert below == ("-" if profile.path_length is None else str(profile.path_length))
