"""What was found in the input: errors, warnings and notes, each with its place, its rule and a remedy.

Rules kept here:
- All findings of a run are collected and shown; nobody mends one to meet the next.
- A finding names file, line, column, object and field as far as they are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from meshca.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["error", "warning", "note"]

_SHOWN_VALUE = 120
_SHOWN_FINDINGS = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about the input."""

    severity: Severity
    rule: str
    """What holds and was broken, as a sentence."""
    object: str = ""
    """The object concerned, e.g. `mesh/shop/virtualNode/cart`."""
    field: str = ""
    """The path within its spec, e.g. `spec.listeners[0].tls.mode`."""
    value: str = ""
    remedy: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self._place()}{self.severity}: {self._subject()}{self.rule}{self._value()}{self._remedy()}"

    def _place(self) -> str:
        if not self.file:
            return ""
        return f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: "

    def _subject(self) -> str:
        subject = " ".join(_printable(part) for part in (self.object, self.field) if part)
        return f"{subject}: " if subject else ""

    def _value(self) -> str:
        return f" (got {self.value[:_SHOWN_VALUE]!r})" if self.value else ""

    def _remedy(self) -> str:
        return f"; {self.remedy}" if self.remedy else ""


def _printable(text: str) -> str:
    """Return a text in which no character can forge a line of the report; of a value ``repr`` makes the same."""
    return text if text.isprintable() else repr(text)[1:-1]


class SpecError(InvalidInputError):
    """A spec was refused; all findings say why."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        errors = [finding for finding in self.findings if finding.severity == "error"]
        lines = [str(finding) for finding in errors[:_SHOWN_FINDINGS]]
        if len(errors) > _SHOWN_FINDINGS:
            lines.append(f"… and {len(errors) - _SHOWN_FINDINGS} more")
        super().__init__("\n".join(lines))


def require_no_error(findings: Iterable[Finding]) -> None:
    """Raise ``SpecError`` with all findings where one of them is an error."""
    every = tuple(findings)
    if any(finding.severity == "error" for finding in every):
        raise SpecError(every)
