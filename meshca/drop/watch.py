"""The newest value of a blocking iterator, for a caller that wants to wait no longer than a time.

The rules this module keeps:
- Only the newest value counts; what a slow caller missed is gone.
- When the iterator ends in an error, the caller gets that error once; asking again opens it again. Nothing retries by
  itself, so the caller's own pace is the pace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from meshca.errors import MeshcaError, UnavailableError

Value = TypeVar("Value")


class Watch(Generic[Value]):
    """Reads an iterator in a thread of its own."""

    def __init__(self, open_stream: Callable[[], Iterator[Value]]) -> None:
        self._open_stream = open_stream
        self._changed = threading.Condition()
        self._newest: Value | None = None
        self._error: MeshcaError | None = None
        self._running = False

    def take(self, seconds: float) -> Value | None:
        """Return the newest value not taken yet, or None when none comes in that time.

        Raises:
            MeshcaError: the stream has ended.
        """
        with self._changed:
            if not self._running and self._error is None:
                self._running = True
                threading.Thread(target=self._read, name="watch", daemon=True).start()
            self._changed.wait_for(lambda: self._newest is not None or self._error is not None, seconds)
            value, self._newest = self._newest, None
            if value is None and self._error is not None:
                error, self._error = self._error, None
                raise error
            return value

    def _read(self) -> None:
        end: MeshcaError = UnavailableError("the server has ended the stream")
        try:
            for value in self._open_stream():
                with self._changed:
                    self._newest = value
                    self._changed.notify_all()
        except MeshcaError as error:
            end = error
        except Exception as error:
            end = MeshcaError(f"the stream failed: {type(error).__name__}")
            raise
        finally:
            with self._changed:
                self._error = end
                self._running = False
                self._changed.notify_all()
