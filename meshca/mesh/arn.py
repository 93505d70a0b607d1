"""App Mesh resource names, alone or as the last part of an ARN.

    mesh/<mesh>[@<owner>]/<kind>/<name>[/<rest>]
    arn:<partition>:appmesh:<region>:<account>:mesh/…

Rules kept here: parsing is exact, and what does not parse is None, never a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ARN_PREFIX = "arn:"
_ARN = re.compile(r"arn:aws[a-z-]*:appmesh:[a-z0-9-]*:(?:[0-9]{12})?:(?P<resource>mesh/.+)")
_RESOURCE = re.compile(
    r"mesh/(?P<mesh>[^/@]+)(?:@(?P<owner>[0-9]{12}))?/(?P<kind>[A-Za-z]+)/(?P<name>[^/]+)(?:/(?P<rest>.+))?"
)


@dataclass(frozen=True, slots=True)
class Resource:
    """The parts of a resource name."""

    mesh: str
    owner: str
    kind: str
    name: str
    rest: str = ""


def parse_resource(text: str) -> Resource | None:
    """Return the parts of `mesh/<mesh>[@<owner>]/<kind>/<name>[/<rest>]`."""
    match = _RESOURCE.fullmatch(text)
    if match is None:
        return None
    return Resource(match["mesh"], match["owner"] or "", match["kind"], match["name"], match["rest"] or "")


def parse_arn(text: str) -> Resource | None:
    """Return the parts of the resource that a full ARN names."""
    match = _ARN.fullmatch(text)
    return parse_resource(match["resource"]) if match else None
