"""Material for a caller that may not open the admin socket: SDS, as an attested process.

The rules this module keeps:
- Certificate and key are the server's, as for an Envoy; both secrets come over one stream, so they are of one moment.
- The server hears ACK once the files are in force, not before. Until then it sends nothing newer; where that lasts
  until the leaf has expired, the stream is begun anew, or a command that fails on an expired leaf would fail for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol

from meshca.client.sds import Secrets
from meshca.drop.material import Material, pkcs8
from meshca.drop.watch import Watch


class SecretsApi(Protocol):
    """What the adapter uses of ``SdsClient``."""

    def watch(self) -> Iterator[Secrets]:
        """Yield the secrets at once, then each change."""

    def acknowledge(self) -> None:
        """ACK the newest response."""

    def restart(self) -> None:
        """Begin the stream anew."""


class AttestedSource:
    """Material from ``run/meshca.sock``."""

    def __init__(self, api: SecretsApi, now: Callable[[], datetime]) -> None:
        self._api = api
        self._now = now
        self._watch = Watch(api.watch)
        self._owed: Material | None = None
        self._given: Material | None = None
        self._in_force = False

    def wait(self, seconds: float) -> Material | None:
        """Return new material when the server has pushed some."""
        secrets = self._watch.take(0.0 if self._owed else seconds)
        if secrets is not None:
            self._owed = Material(
                chain=secrets.chain,
                key=pkcs8(secrets.key),
                bundle=secrets.bundle,
                crl=secrets.crl,
                trust=f"version {secrets.version}",
                leaf_crl_only=secrets.leaf_crl_only,
            )
        if self._owed is None:
            self._restart_if_stuck()
            return None
        if self._owed == self._given:
            self._owed = None
            if self._in_force:
                self._api.acknowledge()
            return None
        self._owed.require_matching(self._now())
        self._given, self._owed = self._owed, None
        self._in_force = False
        return self._given

    def _restart_if_stuck(self) -> None:
        if self._given is not None and not self._in_force and self._given.leaf.not_valid_after_utc < self._now():
            self._api.restart()

    def acknowledge(self) -> None:
        """ACK the newest response, unless no material could be made of it yet."""
        self._in_force = True
        if self._owed is None:
            self._api.acknowledge()
