"""What `meshca apply` says beside the change itself: what would be sent, and how far Envoys have come with it.

The rules this module keeps:
- A NACK is said when it comes, in the Envoy's own words; the document at the end holds it as well.
- Done means acknowledged by every Envoy that the revision has changed something for; all else is exit code 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshca.cli.output import absent, note

if TYPE_CHECKING:
    from meshca.client.admin import AdminClient
    from meshca.client.values import Applied, Effect, EnvoyProgress

PATIENCE = 60.0
_ACKNOWLEDGED, _REJECTED = "acknowledged", "rejected"
_SIGNS = {"added": "+", "changed": "~", "removed": "-"}


def follow(client: AdminClient, applied: Applied, seconds: float, *, until_nack: bool) -> tuple[EnvoyProgress, ...]:
    """Wait for the Envoys that a revision concerns, or, ``until_nack``, for the first that rejects it."""
    rows: tuple[EnvoyProgress, ...] = ()
    told: set[tuple[str, str]] = set()
    for rows in client.watch_revision(applied.revision, seconds):
        for row in rows:
            if row.state == _REJECTED and (row.node_id, row.message) not in told:
                told.add((row.node_id, row.message))
                note(f"{row.node_id} has rejected revision {applied.revision}: {row.message}")
        if until_nack and any(row.state == _REJECTED for row in rows):
            break
    return rows


def is_change(applied: Applied) -> bool:
    """Tell whether an apply has made a revision."""
    return any(change.change != "unchanged" for change in applied.changes)


def failed(rows: Sequence[EnvoyProgress]) -> bool:
    """Tell whether somebody has not acknowledged."""
    return any(row.state != _ACKNOWLEDGED for row in rows)


def rejected(rows: Sequence[EnvoyProgress]) -> bool:
    """Tell whether somebody has rejected what was sent."""
    return any(row.state == _REJECTED for row in rows)


def progress_document(rows: Sequence[EnvoyProgress]) -> list[dict[str, object]]:
    """Return how far each Envoy has come, for programs."""
    return [
        {"node_id": row.node_id, "spiffe_id": row.spiffe_id, "state": row.state, "message": absent(row.message)}
        for row in rows
    ]


def progress_text(rows: Sequence[EnvoyProgress]) -> list[str]:
    """Return who has acknowledged and who not, for people."""
    done = sum(row.state == _ACKNOWLEDGED for row in rows)
    lines = [f"acknowledged by {done} of {len(rows)} Envoys"]
    return lines + [
        f"{row.state:<9} {row.node_id}{f': {row.message}' if row.message else ''}"
        for row in rows
        if row.state != _ACKNOWLEDGED
    ]


def effects_document(effects: Sequence[Effect]) -> list[dict[str, object]]:
    """Return what would be sent, for programs."""
    return [
        {
            "node": effect.node_id,
            "envoys": list(effect.envoys),
            "resources": [{"change": r.change, "type_url": r.type_url, "name": r.name} for r in effect.resources],
            "problem": absent(effect.problem),
        }
        for effect in effects
    ]


def effects_text(effects: Sequence[Effect]) -> list[str]:
    """Return what would be sent, for people."""
    lines: list[str] = []
    for effect in effects:
        count = len(effect.envoys)
        who = (
            "no Envoy connected"
            if not count
            else f"{count} Envoy{'s' if count > 1 else ''}: {', '.join(effect.envoys)}"
        )
        lines.append(f"would be sent to {effect.node_id} ({who}):")
        lines += [f"  {_SIGNS[r.change]} {r.type_url.rpartition('.')[2]} {r.name}" for r in effect.resources]
        if effect.problem:
            lines.append(f"  nothing else: {effect.problem}")
    return lines
