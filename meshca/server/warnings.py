"""What an operator should know, as ``status`` shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from meshca.delivery.snapshot import Snapshot
from meshca.policy.entitlement import Registration
from meshca.server.house import House


def warnings_of(house: House, snapshot: Snapshot) -> tuple[str, ...]:
    """Return the present warnings."""
    return tuple(_warnings(house, snapshot))


def _warnings(house: House, snapshot: Snapshot) -> Iterator[str]:
    for problem in house.authority.problems:
        yield f"{problem.what} fails since {problem.since.isoformat(timespec='seconds')}: {problem.reason}"
    if house.config.lifetimes != house.authority.lifetimes:
        lives = " ".join(f"{name}={life}" for name, life in house.authority.lifetimes.as_text().items())
        yield f"meshca.toml says other lifetimes than those made at init, which hold: {lives}"
    for registration in snapshot.registrations:
        if _holds_for_server(registration):
            yield (
                f"registration {registration.id} entitles the server's own uid {os.geteuid()} to "
                f"{registration.spiffe_id}: whoever runs as the server can have it"
            )
        if snapshot.mesh.identities.holder(registration.spiffe_id) is None:
            yield f"registration {registration.id} entitles nobody: no applied mesh has {registration.spiffe_id}"


def _holds_for_server(registration: Registration) -> bool:
    return any(str(selector) == f"unix:uid:{os.geteuid()}" for selector in registration.selectors)
