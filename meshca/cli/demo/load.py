"""Bounded load: a thread that asks again and again and counts what came back."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE = 0.005
_KEPT_ERRORS = 5


@dataclass
class Tally:
    """What a load has seen so far."""

    requests: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)

    def count(self, error: str) -> None:
        """Count one request; an empty error means that it was answered as it should be."""
        self.requests += 1
        if error:
            self.failed += 1
            if len(self.errors) < _KEPT_ERRORS:
                self.errors.append(error)


class Load:
    """Calls ``ask`` until told to stop, or for ``limit`` seconds at most."""

    def __init__(self, ask: Callable[[], str], limit: float = 120) -> None:
        self.tally = Tally()
        self._ask = ask
        self._limit = limit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        end = time.monotonic() + self._limit
        while not self._stop.is_set() and time.monotonic() < end:
            self.tally.count(self._ask())
            self._stop.wait(_PAUSE)


@dataclass(frozen=True)
class Answer:
    """One answer of an application, or why there was none."""

    status: int
    service: str = ""
    xfcc: str = ""
    error: str = ""


def get(
    address: tuple[str, int], host: str, path: str = "/", connection: http.client.HTTPConnection | None = None
) -> Answer:
    """Ask once for ``path`` with the Host header ``host``; on a new connection where none is given."""
    own = connection or http.client.HTTPConnection(*address, timeout=5)
    try:
        own.request("GET", path, headers={"Host": host})
        response = own.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        own.close()
        return Answer(0, error=f"{type(error).__name__}: {error}")
    else:
        if response.status != http.HTTPStatus.OK:
            return Answer(response.status, error=body.decode(errors="replace")[:120])
        answer = json.loads(body)
        return Answer(response.status, answer["service"], answer["xfcc"])
    finally:
        if connection is None:
            own.close()
