"""The errors that cross rooms.

MeshcaError
 ├─ InvalidInputError       the caller gave something that breaks a rule; nothing was changed
 ├─ NotFoundError           what the caller names does not exist
 ├─ ConflictError           it exists already, or its state does not allow this
 ├─ UnauthenticatedError    we do not know who is calling
 ├─ RefusedError            we know, and the answer is no
 ├─ ExhaustedError          a limit is reached; the same call may succeed later
 └─ UnavailableError        a part we need (store, key, disk) does not answer; the same call may succeed later

Rooms subclass these. The text of one of these may be shown to a stranger: it names field, value and remedy, and never
carries a secret. Every other exception is shown to a stranger as "internal error" only.
"""

from __future__ import annotations

_SHOWN_VALUE = 120


class MeshcaError(Exception):
    """An error whose words may be shown to whoever caused it."""

    def __init__(self, message: str, *, field: str = "", value: str = "", remedy: str = "") -> None:
        self.message = message
        self.field = field
        self.value = value
        self.remedy = remedy
        super().__init__(self.describe())

    def describe(self) -> str:
        """Return field, message, value and remedy as one line."""
        text = f"{self.field}: {self.message}" if self.field else self.message
        if self.value:
            text += f" (got {_shown(self.value)})"
        return f"{text}; {self.remedy}" if self.remedy else text


class InvalidInputError(MeshcaError):
    """The input breaks a rule; nothing was changed."""


class NotFoundError(MeshcaError):
    """What the caller names does not exist."""


class ConflictError(MeshcaError):
    """It exists already, or its state does not allow this."""


class UnauthenticatedError(MeshcaError):
    """The caller is not known."""


class RefusedError(MeshcaError):
    """The caller is known, and the answer is no."""


class ExhaustedError(MeshcaError):
    """A limit is reached; the same call may succeed later."""


class UnavailableError(MeshcaError):
    """A part that is needed does not answer; the same call may succeed later."""


def _shown(value: str) -> str:
    # repr, so that a newline or control character in hostile input cannot forge a log line.
    return repr(value) if len(value) <= _SHOWN_VALUE else repr(value[:_SHOWN_VALUE]) + "…"
