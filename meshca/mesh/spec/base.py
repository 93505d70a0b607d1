"""What every shape of a spec shares.

Rules kept here:
- A shape is frozen, strict (no number from a string, no bool from a number) and knows every key it may hold.
- Python names are snake_case, keys in specs are App Mesh's camelCase.
- A union holds exactly one of its members.
- What was not written is not written back: a dump leaves out what was not set.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

T = TypeVar("T")

_MOST_ITEMS = 5000
_NO_NAME = re.compile(r"[\s/\x00-\x1f\x7f-\x9f]")

Items = Annotated[tuple[T, ...], Strict(strict=False), Field(max_length=_MOST_ITEMS)]
"""A list in a spec: a tuple, since shapes are immutable, with strict members, and bounded against hostile input."""

Text = Annotated[str, StringConstraints(min_length=1)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Port = Annotated[int, Field(ge=1, le=65535)]
AtLeastOne = Annotated[int, Field(ge=1, le=4294967295)]
Count = Annotated[int, Field(ge=0, le=4294967295)]
"""Numbers that App Mesh bounds below alone, and Envoy keeps in 32 bits."""


def looked_up(text: str) -> str:
    """Return a name that can be looked up, or raise ``ValueError``."""
    if _NO_NAME.search(text):
        raise ValueError("a name that is looked up holds no space, slash or control character")
    return text


HostName = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(looked_up)]
"""A name that is looked up: App Mesh bounds it nowhere, but Envoy refuses a cluster whose name is none."""


class Shape(BaseModel):
    """A part of a spec with fixed keys."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    def plain(self) -> dict[str, Any]:
        """Return the spec as it was written: App Mesh's keys, nothing added."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class OneOf(Shape):
    """A union: exactly one member is present."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        present = self._present()
        if len(present) != 1:
            names = ", ".join(_alias(type(self), name) for name in type(self).model_fields)
            found = " and ".join(_alias(type(self), name) for name in present) or "none"
            raise ValueError(f"exactly one of {names} is needed, {found} is there")
        return self

    def _present(self) -> list[str]:
        return [name for name in type(self).model_fields if getattr(self, name) is not None]

    @property
    def chosen(self) -> str:
        """Return the Python name of the member that is present."""
        return self._present()[0]


def _alias(shape: type[BaseModel], name: str) -> str:
    return shape.model_fields[name].alias or name
