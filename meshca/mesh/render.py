"""Objects as App Mesh envelopes: what `get` shows, what the store keeps, and what applies again unchanged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from meshca.mesh.model import MESH, PARENT_KINDS

if TYPE_CHECKING:
    from meshca.mesh.model import MeshObject


def envelope(item: MeshObject) -> dict[str, Any]:
    """Return an object as its create-input: names, spec, and owner and tags where it has them."""
    found: dict[str, Any] = {"meshName": item.mesh}
    if item.parent:
        found[f"{PARENT_KINDS[item.kind]}Name"] = item.parent
    if item.kind != MESH:
        found[f"{item.kind}Name"] = item.name
    if item.owner:
        found["meshOwner"] = item.owner
    found["spec"] = item.spec.plain()
    if item.tags:
        found["tags"] = [{"key": tag.key, "value": tag.value} for tag in item.tags]
    return found


def canonical_json(item: MeshObject) -> str:
    """Return an envelope with its kind in one spelling: written in another order, the same text."""
    return json.dumps({"kind": item.kind, **envelope(item)}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
