"""An object as a document describes it: what every form leads to, and what is then checked in one way.

Rules kept here:
- The names and the spec are App Mesh's, whatever form they were written in; each part keeps the place it came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshca.mesh.tree import Subject

if TYPE_CHECKING:
    from meshca.mesh.tree import Node, Report


@dataclass(frozen=True, slots=True)
class NamedSpec:
    """The object that `-f KIND/NAME=` says a spec is."""

    kind: str
    name: str
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What the command line says about a text."""

    named: NamedSpec | None
    mesh: str | None


@dataclass(frozen=True, slots=True)
class Described:
    """An object as a document describes it, its spec unchecked."""

    kind: str
    mesh: str
    name: str
    parent: str
    spec: Node
    name_offset: int
    owner: Node | None = None
    tags: Node | None = None
    loose: bool = False
    """Whether numbers, truth values and text may stand for each other, as in CloudFormation."""


def agree(found: Described, context: Context, report: Report) -> bool:
    """Report and return False where the command line names another object than the document does."""
    named = context.named
    if named is None:
        return True
    said = (named.kind, named.parent or found.parent, named.name)
    if said == (found.kind, found.parent, found.name):
        return True
    rule = f"the file describes {found.kind} {found.name!r}, the command line {named.kind} {named.name!r}"
    report.error(found.name_offset, rule, Subject(remedy="leave KIND/NAME= out: the file names its objects itself"))
    return False
