"""The node that an Envoy says it is.

Rules kept here (App Mesh agent's `node.id`, design §2):
- Three forms: `mesh/<mesh>/<kind>/<name>`, the same with `<mesh>@<owner>`, and the full ARN; each may carry one further
  `/<instance>`.
- What is in none of these forms is None: it selects nothing. A parsed node grants nothing either; it only selects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshca.mesh.arn import ARN_PREFIX, parse_arn, parse_resource
from meshca.mesh.model import IDENTITY_KINDS, MESH, ObjectKey, ObjectNameError, require_name

_INSTANCE = re.compile(r"[!-.0-~]{1,255}")
_LONGEST = 2048


@dataclass(frozen=True, slots=True)
class NodeRef:
    """A virtual node or gateway, and which of its instances."""

    mesh: str
    kind: str
    name: str
    instance: str | None = None

    @property
    def key(self) -> ObjectKey:
        """Return the key of the object that is meant."""
        return ObjectKey(self.mesh, self.kind, "", self.name)

    def __str__(self) -> str:
        return f"mesh/{self.mesh}/{self.kind}/{self.name}"


def parse_node_id(text: str) -> NodeRef | None:
    """Return the node that a `node.id` names, or None where it has no form of App Mesh's."""
    if len(text) > _LONGEST:
        return None
    resource = parse_arn(text) if text.startswith(ARN_PREFIX) else parse_resource(text)
    if resource is None or resource.kind not in IDENTITY_KINDS:
        return None
    if resource.rest and not _INSTANCE.fullmatch(resource.rest):
        return None
    try:
        require_name(MESH, resource.mesh)
        require_name(resource.kind, resource.name)
    except ObjectNameError:
        return None
    return NodeRef(resource.mesh, resource.kind, resource.name, resource.rest or None)
