"""What certificates in AWS Certificate Manager become: `--map-arn ARN=NAME`, `--map-arn ARN=auto`, `--map-arn auto`.

Rules kept here:
- A mapped certificate becomes the SDS secret NAME; `auto` is the node's own identity (`default`).
- Mapped authorities become the trust bundle NAME, one for all of a list; `auto` is our own (`ROOTCA`).
- What is not mapped stays; `notes.py` says that it is not read, and what is served instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshca.errors import InvalidInputError
from meshca.mesh.arn import ARN_PREFIX
from meshca.mesh.tree import Member, Node, Report, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

AUTO = "auto"
_OWN_CERTIFICATE = "default"
_OWN_TRUST = "ROOTCA"


@dataclass(frozen=True, slots=True)
class ArnMap:
    """Secret names by the ARN that they take the place of."""

    names: Mapping[str, str] = field(default_factory=dict)
    all_auto: bool = False

    def __bool__(self) -> bool:
        return self.all_auto or bool(self.names)

    def replace(self, spec: Node, report: Report, subject: str) -> None:
        """Replace what is mapped in the spec of a node or gateway."""
        if not self:
            return
        for holder in _with_acm(spec):
            acm = holder.members()["acm"]
            arns = _arns(acm.node)
            own = _OWN_TRUST if "certificateAuthorityArns" in acm.node.members() else _OWN_CERTIFICATE
            names = {self._name(arn, own) for arn in arns}
            found = sorted(name for name in names if name is not None)
            if None in names:
                continue
            if len(found) > 1:
                several = " and ".join(found)
                rule = f"the authorities of one list become one secret, --map-arn says {several}"
                report.error(acm.offset, rule, Subject(subject, value=", ".join(arns)))
            elif found:
                secret = Node(acm.node.offset, {"secretName": Member(acm.node.offset, Node(acm.node.offset, found[0]))})
                holder.value = {"sds": Member(acm.offset, secret)}

    def _name(self, arn: str, own: str) -> str | None:
        name = self.names.get(arn, AUTO if self.all_auto else None)
        return own if name == AUTO else name


def parse_arn_map(arguments: Sequence[str]) -> ArnMap:
    """Return what `--map-arn` says.

    Raises:
        InvalidInputError: one is neither ARN=NAME nor `auto`.
    """
    names: dict[str, str] = {}
    for argument in arguments:
        arn, equals, name = argument.partition("=")
        if argument == AUTO:
            continue
        if not (equals and name and arn.startswith(ARN_PREFIX)):
            raise InvalidInputError(
                "is not ARN=NAME",
                field="--map-arn",
                value=argument,
                remedy="write arn:…=SECRET, arn:…=auto, or auto for all",
            )
        names[arn] = name
    return ArnMap(names, AUTO in arguments)


def _with_acm(node: Node) -> Iterator[Node]:
    """Yield each `certificate` and `trust` that is from ACM."""
    for key, member in list(node.members().items()):
        if key in {"certificate", "trust"} and set(member.node.members()) == {"acm"}:
            yield member.node
        else:
            yield from _with_acm(member.node)
    for item in node.items():
        yield from _with_acm(item)


def _arns(acm: Node) -> list[str]:
    one = acm.text("certificateArn")
    several = acm.child("certificateAuthorityArns")
    found = [item.value for item in several.items()] if several is not None else []
    return [arn for arn in ([one] if one else found) if isinstance(arn, str)]
