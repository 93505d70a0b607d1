"""A world for each test that asks for one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

from harness.world import World


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep whole worlds out of the everyday loop."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def bare_world() -> Iterator[World]:
    """An initialised home without a server."""
    made = World.make()
    yield made
    made.close()


@pytest.fixture
def world(bare_world: World) -> World:
    """An initialised home with a server."""
    return bare_world.start()


@pytest.fixture
def other_users() -> None:
    """Skip where this process may not run others as another user."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to run Envoys as users of their own")
