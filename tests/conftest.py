"""What all tests share: fakes on the path, and in CI no test may be skipped."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

sys.path.insert(0, str(Path(__file__).parent))

_IN_CI = os.environ.get("CI", "").lower() == "true"


# Files are handed out whole: those that take minutes come first, or the last of them would be waited for alone.
_LONGEST = (
    "test_contract_faults.py",
    "test_e2e_rotation.py",
    "test_e2e_upstreams.py",
    "test_e2e_expired.py",
    "test_e2e_clock.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by how long they take: the longest, what runs whole worlds, the rest."""
    longest = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: (longest.get(item.path.name, len(longest)), "e2e" not in item.path.parts))


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and in CI nothing may skip: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI."""
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure in CI."""
    report = yield
    _forbid_skip(report)
    return report
