"""What cannot be worked out in a CloudFormation template."""

from __future__ import annotations


class EvaluationError(Exception):
    """A value cannot be worked out."""

    def __init__(self, offset: int, rule: str, value: str = "", remedy: str = "") -> None:
        super().__init__(rule)
        self.offset = offset
        self.rule = rule
        self.value = value
        self.remedy = remedy
