"""What a gateway makes of a path, and what a router's routes then mean for the path that came in.

App Mesh sent a rewritten request through itself once more, so that the router's routes saw the new path. Here the two
are composed beforehand, and the gateway leads straight to the cluster: no hop, and no header that a stranger could set.

Rules kept here:
- A prefix that is rewritten ends at a slash: ``/x`` takes ``/x`` and ``/x/…``, not ``/xyz``, of which App Mesh made
  ``/yz``.
- A prefix becomes ``/`` where nothing is said; DISABLED leaves it; ``value`` and ``path.exact`` say what it becomes.
- What a router's regular expression takes behind the rewriting is worked out exactly (regexes.py) or is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from meshca.envoy import regexes
from meshca.envoy.matches import ANY_PATH, EXACT, PREFIX, REGEX, Match, Path
from meshca.mesh.spec.gateway_routes import HttpRewrite


class Rewrite(NamedTuple):
    """What a path becomes: its prefix, or (``prefix`` is None) the whole of it."""

    prefix: str | None
    to: str


class Form(NamedTuple):
    """One way in which a gateway route takes requests, and what their paths become there."""

    match: Match
    rewrite: Rewrite | None


def forms(match: Match, written: HttpRewrite | None) -> tuple[Form, ...]:
    """Return the ways of a gateway route; two where a prefix is rewritten that does not end at a slash."""
    if written is not None and written.path is not None:
        return (Form(match, Rewrite(None, written.path.exact)),)
    to = _new_prefix(match.path, written)
    if to is None or match.path == Path(PREFIX, to):
        return (Form(match, None),)
    prefix = match.path.value
    if prefix.endswith("/"):
        return (Form(match, Rewrite(prefix, to)),)
    inside = Form(match.at(Path(PREFIX, f"{prefix}/")), Rewrite(f"{prefix}/", to))
    return inside, Form(match.at(Path(EXACT, prefix)), Rewrite(None, to))


def compose(form: Form, inner: Match) -> Iterator[Form]:
    """Return what takes a request at the gateway that the route behind it takes after the rewriting; or nothing.

    Raises:
        UndecidedError: the route's regular expression cannot be judged behind this rewriting.
    """
    if form.rewrite is None:
        paths = _both(form.match.path, inner.path)
        if paths is not None:
            path, also = paths
            yield Form(form.match.beside(inner, path, (*form.match.also, *also)), None)
    else:
        swapped = _whole(form, inner) if form.rewrite.prefix is None else _swapped(form.rewrite, inner.path)
        if swapped is not None:
            met, rewrite = swapped
            yield Form(form.match.beside(inner, met or form.match.path, form.match.also), rewrite)


def apply(action: Any, match: Match, rewrite: Rewrite) -> None:
    """Write what a path becomes into a route's action."""
    if rewrite.prefix is not None and match.path.kind == PREFIX:
        action.prefix_rewrite = rewrite.to
    else:
        pattern = "^.*$" if rewrite.prefix is None else f"^{re.escape(rewrite.prefix)}"
        action.regex_rewrite.pattern.regex = pattern
        action.regex_rewrite.substitution = rewrite.to.replace("\\", "\\\\")


def _new_prefix(path: Path, written: HttpRewrite | None) -> str | None:
    if path.kind != PREFIX:
        return None
    rewrite = written.prefix if written is not None else None
    if rewrite is not None and rewrite.value is not None:
        return rewrite.value
    return None if rewrite is not None and rewrite.default_prefix == "DISABLED" else "/"


def _both(outer: Path, inner: Path) -> tuple[Path, tuple[Path, ...]] | None:
    """Return a path that is both, or None where none can be."""
    if ANY_PATH in (outer, inner):
        return (inner if outer == ANY_PATH else outer), ()
    if REGEX in (outer.kind, inner.kind):
        return (outer, (inner,)) if outer != inner else (outer, ())
    shorter, longer = sorted((outer, inner), key=lambda path: (len(path.value), path.kind == EXACT))
    if shorter.kind == EXACT:
        return (shorter, ()) if shorter == longer else None
    return (longer, ()) if longer.value.startswith(shorter.value) else None


def _whole(form: Form, inner: Match) -> tuple[Path | None, Rewrite] | None:
    """Judge a route by the one path that everything becomes."""
    assert form.rewrite is not None  # noqa: S101 - its caller's case
    path, to = inner.path, form.rewrite.to
    if path.kind == REGEX:
        taken = regexes.takes(path.value, to)
    else:
        taken = to == path.value if path.kind == EXACT else to.startswith(path.value)
    return (None, form.rewrite) if taken else None


def _swapped(rewrite: Rewrite, inner: Path) -> tuple[Path, Rewrite] | None:
    """Return the path that came in, and what it becomes, where the route asks for ``inner``."""
    prefix, to = rewrite.prefix or "", rewrite.to
    if inner.kind == REGEX:
        rest = regexes.after(inner.value, to)
        return None if rest is None else (Path(REGEX, f"{re.escape(prefix)}{rest}"), rewrite)
    if inner.kind == PREFIX and to.startswith(inner.value):
        return Path(PREFIX, prefix), rewrite
    if not inner.value.startswith(to):
        return None
    rest = inner.value.removeprefix(to)
    kept = Rewrite(prefix, to) if inner.kind == EXACT else Rewrite(f"{prefix}{rest}", inner.value)
    return Path(inner.kind, f"{prefix}{rest}"), kept
