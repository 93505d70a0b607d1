"""What a lint is: one numbered rule with its citation, which finds nothing or says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from meshca.errors import InvalidInputError

Case = TypeVar("Case")
# A rule for any case is also one for a leaf's.
Judged_contra = TypeVar("Judged_contra", contravariant=True)


class LintError(InvalidInputError):
    """A plan, or what it was encoded to, breaks a rule of its profile; nothing was signed."""

    def __init__(self, findings: Iterable[str]) -> None:
        self.findings = tuple(findings)
        super().__init__(f"refused by lint: {'; '.join(self.findings)}")


@dataclass(frozen=True, slots=True)
class Lint(Generic[Judged_contra]):
    """One rule; ``check`` returns None or what is wrong."""

    number: str
    citation: str
    check: Callable[[Judged_contra], str | None]

    @property
    def name(self) -> str:
        """The name of the rule, which is that of its function."""
        return self.check.__name__


def lint(number: str, citation: str) -> Callable[[Callable[[Case], str | None]], Lint[Case]]:
    """Make a lint out of a function."""

    def number_it(check: Callable[[Case], str | None]) -> Lint[Case]:
        return Lint(number, citation, check)

    return number_it


def require(lints: Iterable[Lint[Case]], case: Case) -> None:
    """Run every lint.

    Raises:
        LintError: one or more found something; all findings are in it.
    """
    findings = [(each, text) for each in lints if (text := each.check(case)) is not None]
    if findings:
        raise LintError(f"{each.number} {each.name} ({each.citation}): {text}" for each, text in findings)
