from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshca.x509.crl import CRL_LINTS
from meshca.x509.lint import Lint
from meshca.x509.lints import CA_LINTS, LEAF_LINTS
from meshca.x509.readback import READBACK_LINTS

_PAGE = (Path(__file__).parents[3] / "docs/lints.md").read_text()
_LINTS: list[Lint[Any]] = [*LEAF_LINTS, *CA_LINTS, *READBACK_LINTS, *CRL_LINTS]
_ROWS = {(each.number, each.name, each.citation) for each in _LINTS}


@pytest.mark.parametrize(("number", "name", "citation"), sorted(_ROWS))
def test_every_lint_is_on_the_page(number: str, name: str, citation: str) -> None:
    assert f"| {number} | `{name}` | {citation} | " in _PAGE


def test_the_page_lists_no_other() -> None:
    assert _PAGE.count(" | `") == len(_ROWS)
