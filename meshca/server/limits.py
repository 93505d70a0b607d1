"""``[profiles.NAME]`` of ``meshca.toml``: limits of a profile, each of which makes it narrower.

Rules: what would loosen a profile, or is of another type, is an error whose ``field`` is the key that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from meshca.authority.lifetimes import format_duration, parse_duration
from meshca.authority.profiles import Limits, ProfileError, profile_named, tightened


def read_limits(name: str, content: Mapping[str, Any]) -> Limits:
    """Read the limits of one profile.

    Raises:
        InvalidInputError: There is no such profile, or a limit is none or would loosen it.
    """
    profile = profile_named(name)
    limits = Limits(
        max_ttl=_duration(content.get("max_ttl")),
        key_types=_texts(content.get("key_types")),
        dns_names=_truth(content.get("dns_names")),
    )
    try:
        tightened(profile, limits)
    except ProfileError as error:
        key = error.field.removeprefix(f"profiles.{name}.")
        raise ProfileError(error.message, field=key, value=error.value, remedy=error.remedy) from error
    return limits


def written(limits: Limits) -> Iterator[str]:
    """Yield the lines that `read_limits` reads back as the same limits."""
    if limits.max_ttl is not None:
        yield f'max_ttl = "{format_duration(limits.max_ttl)}"'
    if limits.key_types is not None:
        yield "key_types = [" + ", ".join(f'"{kind}"' for kind in limits.key_types) + "]"
    if limits.dns_names is not None:
        yield f"dns_names = {str(limits.dns_names).lower()}"


def _duration(value: object) -> timedelta | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ProfileError(f"is text, not {type(value).__name__}", field="max_ttl", remedy='write it like "30m"')
    return parse_duration(value, field="max_ttl")


def _texts(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ProfileError("is a list of texts", field="key_types", remedy='write it like ["ec-p256"]')
    return tuple(value)


def _truth(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ProfileError("is true or false", field="dns_names", remedy="write it without quotes")
