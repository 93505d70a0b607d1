"""A connection to OpenBao or Vault. Any thread may use it.

Rules kept here:
- Every failure is a KeyUnavailableError that says what failed and what to do; it never carries a token, and causes that
  could are dropped.
- The token is renewed at half its life (`tend`), and a new one is fetched when it is refused; a refused login is not
  repeated for some seconds, since OpenBao locks a role out that fails too often.
- Each call has a time limit; after one that ran into it the next ones fail at once for a second, so that a batch waits
  once. A connection that broke is tried once more: a restart of OpenBao between two calls is no failure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import hvac
import requests
from hvac import exceptions as bao

from meshca.authority.ports import KeyUnavailableError
from meshca.keys.openbao_login import BaoSettings, Lease

TIME_LIMIT = 5.0
_AFTER_SILENCE, _AFTER_REFUSAL = 1.0, 10.0
_SHOWN = 160

T = TypeVar("T")


class BaoRefusedError(KeyUnavailableError):
    """OpenBao knows us or does not, and the answer is no."""


class BaoMissingError(KeyUnavailableError):
    """OpenBao has no such key, version or engine."""


class Bao:
    """OpenBao, logged in when first needed."""

    def __init__(
        self, settings: BaoSettings, *, monotonic: Callable[[], float] = time.monotonic, time_limit: float = TIME_LIMIT
    ) -> None:
        self._settings, self._monotonic, self._time_limit = settings, monotonic, time_limit
        self._session = requests.Session()
        # hvac takes these from a session that it is given, and the limit from the client.
        self._session.verify, self._session.cert = settings.verify, settings.client_certificate
        self._client = hvac.Client(
            url=settings.address,
            token="",
            timeout=time_limit,
            session=self._session,
            namespace=settings.namespace or None,
        )
        self._logging_in = threading.Lock()
        self._silent_until = self._refused_until = self._login_again_at = 0.0
        self._life = 0.0
        self._renew_at: float | None = None

    def __repr__(self) -> str:
        return f"Bao({self._settings.address})"

    def close(self) -> None:
        """Drop the connections."""
        self._session.close()

    def call(self, where: str, work: Callable[[Any], T]) -> T:
        """Run ``work`` with a client that is logged in; errors call what it works on ``where``.

        Raises:
            BaoRefusedError: OpenBao does not let us.
            BaoMissingError: It has nothing of that name.
            KeyUnavailableError: It does not answer, or not sensibly.
        """
        token = self._token(stale="")
        try:
            return self._tried(where, work)
        except BaoRefusedError:
            if not self._may_log_in_again() or self._token(stale=token) == token:
                raise
            return self._tried(where, work)

    def tend(self) -> None:
        """Renew the token if half of its life is over; call this now and then.

        Raises:
            KeyUnavailableError: It can neither be renewed nor replaced.
        """
        with self._logging_in:
            if self._renew_at is not None and self._monotonic() >= self._renew_at and not self._renewed():
                self._log_in()

    def _renewed(self) -> bool:
        """Renew the token; False if a new one is needed: it was refused, or nears the longest life that it may have."""
        repeatable = self._settings.login.repeatable
        try:
            lease = self._tried("token", lambda client: Lease.of(client.auth.token.renew_self()["auth"]))
        except BaoRefusedError:
            if not repeatable:
                raise
            return False
        seconds = lease.seconds or 0.0
        self._renew_at = self._monotonic() + seconds / 2
        return not repeatable or seconds >= self._life / 2

    def _may_log_in_again(self) -> bool:
        """Say whether a refusal may be the token's end; soon after a login it is a matter of policy."""
        return self._settings.login.repeatable and self._monotonic() >= self._login_again_at

    def _token(self, stale: str) -> str:
        """Return a token other than ``stale``, logging in where there is none."""
        with self._logging_in:
            if self._client.token == stale:
                self._log_in()
            return str(self._client.token)

    def _log_in(self) -> None:
        login, where = self._settings.login, f"{self._settings.login.method} login at {self._settings.address}"
        # What OpenBao answers to a login could repeat what it was sent, so none of it is shown.
        refusal = BaoRefusedError("OpenBao refuses it", field=where, remedy=login.remedy)
        if self._monotonic() < self._refused_until:
            raise refusal
        try:
            lease = self._tried(where, login.run)
        except (BaoRefusedError, BaoMissingError):
            self._refused_until = self._monotonic() + _AFTER_REFUSAL
            raise refusal from None
        self._client.token = lease.token
        if lease.seconds is None:
            lease = self._looked_up(lease)
        self._life = lease.seconds or 0.0
        helps = lease.renewable or login.repeatable
        self._renew_at = self._monotonic() + self._life / 2 if self._life and helps else None
        self._login_again_at = self._monotonic() + _AFTER_REFUSAL

    def _looked_up(self, lease: Lease) -> Lease:
        """Return how long a token holds that we did not log in for; it may not be allowed to ask."""

        def ask(client: Any) -> Lease:
            data = client.auth.token.lookup_self()["data"]
            return Lease(lease.token, float(data["ttl"]), bool(data.get("renewable")))

        try:
            return self._tried("token", ask)
        except (BaoRefusedError, BaoMissingError):
            return lease

    def _tried(self, where: str, work: Callable[[Any], T]) -> T:
        if self._monotonic() < self._silent_until:
            raise self._silence(where)
        try:
            try:
                return work(self._client)
            except requests.Timeout:
                raise
            except requests.exceptions.SSLError:
                raise
            except requests.ConnectionError:
                return work(self._client)
        except requests.Timeout:
            self._silent_until = self._monotonic() + _AFTER_SILENCE
            raise self._silence(where) from None
        except (requests.RequestException, bao.VaultError) as error:
            raise self._explained(error, where) from None  # a cause would carry requests with their headers
        except (LookupError, TypeError, ValueError, AttributeError):
            message = f"{self._settings.address} answers, but not as OpenBao does"
            raise KeyUnavailableError(message, field=where, remedy="check BAO_ADDR") from None

    def _silence(self, where: str) -> KeyUnavailableError:
        return KeyUnavailableError(
            f"OpenBao at {self._settings.address} did not answer within {self._time_limit:g} s",
            field=where,
            remedy="check its load and the network",
        )

    def _explained(self, error: Exception, where: str) -> KeyUnavailableError:
        address = self._settings.address
        for kind, raised, message, remedy in _EXPLANATIONS:
            if isinstance(error, kind):
                return raised(message.format(address=address) + self._words(error), field=where, remedy=remedy)
        return KeyUnavailableError(f"OpenBao at {address} failed{self._words(error)}", field=where, remedy=_SEE_LOG)

    def _words(self, error: Exception) -> str:
        """Return what OpenBao itself says; on one line, short, and without our token."""
        errors = getattr(error, "errors", None)
        text = " ".join(str(errors[0] if isinstance(errors, list) else errors).split()) if errors else ""
        if self._client.token:
            text = text.replace(str(self._client.token), "…")
        return f": {text[:_SHOWN]}" if text.isprintable() and text else ""


_SEE_LOG = "see OpenBao's log"
_EXPLANATIONS: tuple[tuple[type[Exception], type[KeyUnavailableError], str, str], ...] = (
    (
        requests.exceptions.SSLError,
        KeyUnavailableError,
        "no trusted TLS connection to {address}",
        "name the CA file with BAO_CACERT, and use the host name that the certificate has",
    ),
    (
        requests.ConnectionError,
        KeyUnavailableError,
        "OpenBao at {address} cannot be reached",
        "start it, or correct BAO_ADDR",
    ),
    (bao.VaultDown, KeyUnavailableError, "OpenBao at {address} is sealed or standing by", "`bao operator unseal`"),
    (bao.VaultNotInitialized, KeyUnavailableError, "OpenBao at {address} is not initialised", "`bao operator init`"),
    (bao.Forbidden, BaoRefusedError, "OpenBao does not allow it", "check the token and its policy"),
    (bao.Unauthorized, BaoRefusedError, "OpenBao does not allow it", "check the token and its policy"),
    (bao.InvalidPath, BaoMissingError, "OpenBao has nothing there", "check name, engine and namespace"),
    (bao.InvalidRequest, BaoMissingError, "OpenBao cannot do that", "check name and version of the key"),
    (bao.RateLimitExceeded, KeyUnavailableError, "OpenBao limits our rate", "raise its quota for this path"),
    (bao.InternalServerError, KeyUnavailableError, "OpenBao at {address} has an internal error", _SEE_LOG),
    (bao.BadGateway, KeyUnavailableError, "OpenBao at {address} cannot reach what it needs", _SEE_LOG),
)
