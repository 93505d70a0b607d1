"""Where the root is, as text: what `init --upstream` and meshca.toml say.

    (empty)               a root that signs itself, made and rotated here
    files:DIR             a root that an operator brings: DIR/root.pem and DIR/root_key.pem
    openbao:pki[/MOUNT]   an OpenBao or Vault signs each issuing CA with its pki engine, mounted at pki or at MOUNT
    offline               an operator has each issuing CA signed elsewhere, and imports the chain

Rule: what is unknown is refused, never ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from meshca.errors import InvalidInputError

FORMS = "files:DIR, openbao:pki[/MOUNT], or offline"
_PKI = re.compile(r"openbao:pki(?:/(?P<mount>[\w.-]+(?:/[\w.-]+)*))?", re.ASCII)
_LONGEST = 1024


class UpstreamPlaceError(InvalidInputError):
    """The text names no upstream."""


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """The root is made here."""


@dataclass(frozen=True, slots=True)
class RootFiles:
    """A root and its key, in a folder."""

    folder: Path


@dataclass(frozen=True, slots=True)
class PkiMount:
    """A pki engine of OpenBao."""

    mount: str


@dataclass(frozen=True, slots=True)
class OfflineRoot:
    """A root that no machine reaches."""


UpstreamPlace = SelfSigned | RootFiles | PkiMount | OfflineRoot


def parse_upstream(text: str, what: str = "upstream") -> UpstreamPlace:
    """Read where the root is; errors call it ``what``.

    Raises:
        UpstreamPlaceError: It is none of the forms.
    """
    if not text:
        return SelfSigned()
    if text == "offline":
        return OfflineRoot()
    if len(text) <= _LONGEST and text.isprintable():
        if text.startswith("files:") and text != "files:":
            return RootFiles(Path(text.removeprefix("files:")))
        if match := _PKI.fullmatch(text):
            return PkiMount(match["mount"] or "pki")
    raise UpstreamPlaceError("no upstream that is known", field=what, value=text, remedy=f"write {FORMS}")
