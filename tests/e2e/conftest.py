"""A world for each test that asks for one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

from harness.places import Options, place
from harness.world import World


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep whole worlds out of the everyday loop."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def root_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Options]:
    """Where the roots of this session are."""
    with place(os.environ.get("MESHCA_TEST_CA", "file"), tmp_path_factory.mktemp("place")) as options:
        yield options


@pytest.fixture
def make_world(root_place: Options) -> Iterator[Callable[..., World]]:
    """Make worlds with options for `meshca init`; they end with the test."""
    made: list[World] = []

    def make(*options: str, **named: str) -> World:
        made.append(World.make(*root_place(), *options, **named))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def bare_world(make_world: Callable[..., World]) -> World:
    """An initialised home without a server."""
    return make_world()


@pytest.fixture
def world(bare_world: World) -> World:
    """An initialised home with a server."""
    return bare_world.start()


@pytest.fixture
def other_users() -> None:
    """Skip where this process may not run others as another user."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to run Envoys as users of their own")
