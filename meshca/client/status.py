"""gRPC status codes and our errors: one table, read in both directions.

The server's words arrive unchanged: an error text crosses the wire as the status message and becomes the message of the
error of the same kind on this side.
"""

from __future__ import annotations

import grpc

from meshca.errors import (
    ConflictError,
    ExhaustedError,
    InvalidInputError,
    MeshcaError,
    NotFoundError,
    RefusedError,
    UnauthenticatedError,
    UnavailableError,
)

OURS = "meshca-error"
"""Trailing metadata key: the status was made from an error of ours, not by the transport."""

KINDS: tuple[tuple[grpc.StatusCode, type[MeshcaError]], ...] = (
    (grpc.StatusCode.INVALID_ARGUMENT, InvalidInputError),
    (grpc.StatusCode.NOT_FOUND, NotFoundError),
    (grpc.StatusCode.FAILED_PRECONDITION, ConflictError),
    (grpc.StatusCode.UNAUTHENTICATED, UnauthenticatedError),
    (grpc.StatusCode.PERMISSION_DENIED, RefusedError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, ExhaustedError),
    (grpc.StatusCode.UNAVAILABLE, UnavailableError),
)
_KIND_OF_CODE = {code.value[0]: kind for code, kind in KINDS} | {
    grpc.StatusCode.ALREADY_EXISTS.value[0]: ConflictError,
    grpc.StatusCode.DEADLINE_EXCEEDED.value[0]: UnavailableError,
    grpc.StatusCode.CANCELLED.value[0]: UnavailableError,
}
_CODE_OF_KIND = {kind: code for code, kind in KINDS}


def code_of(error: Exception) -> grpc.StatusCode:
    """Return the status code of an error; what isn't ours is INTERNAL."""
    for kind in type(error).__mro__:
        if code := _CODE_OF_KIND.get(kind):
            return code
    return grpc.StatusCode.INTERNAL


def error_of(code: int, message: str) -> MeshcaError:
    """Return our error for a numeric status code; an unknown code gives the base class."""
    return _KIND_OF_CODE.get(code, MeshcaError)(message)
