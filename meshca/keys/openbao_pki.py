"""OpenBao's or Vault's pki engine as the upstream: it certifies our issuing CAs, and has CRLs of its own.

Rules kept here:
- It signs with the mount's default issuer; what comes back is handed on as it is, and judged elsewhere.
- It is asked for no longer a life than its own chain has, for it would grant one.
- Answers are bounded in number and size before they are read.
- While it was silent when CRLs were last fetched, it is not asked for certificates: whoever does that keeps others from
  changing trust meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.authority.ports import KeyUnavailableError
from meshca.authority.upstreams import Certification, UpstreamError
from meshca.keys.openbao_client import Bao, BaoMissingError, BaoRefusedError
from meshca.x509.carequest import request_pem
from meshca.x509.foreign import MAX_CHAIN
from meshca.x509.foreigncrl import LARGEST_CRL
from meshca.x509.issuer import CaCertificate
from meshca.x509.plan import BACKDATING
from meshca.x509.unreadable import UNREADABLE

_MOST_ISSUERS = 64
_LARGEST_CERTIFICATE = 32 * 1024
_SILENCE_COUNTS = 70.0  # longer than the longest tick, with which CRLs are fetched
_FROM_NOW = timedelta(seconds=5)  # between asking and signing


class PkiUpstream:
    """One pki mount. Any thread may call it."""

    def __init__(self, bao: Callable[[], Bao], mount: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bao = bao
        self._mount = mount
        self._monotonic = monotonic
        self._silence: tuple[KeyUnavailableError, float] | None = None
        self._issuers: dict[str, bytes] = {}  # certificates by OpenBao's own names
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"PkiUpstream({self._mount})"

    def require_ready(self) -> None:
        """Check that the mount answers and has an issuer.

        Raises:
            KeyUnavailableError: It does not.
            UpstreamError: What it shows is no chain.
        """
        if self._silence is not None and self._monotonic() - self._silence[1] < _SILENCE_COUNTS:
            raise self._silence[0]
        self._own_chain()

    def certify(self, wanted: Certification) -> tuple[bytes, ...]:
        """Have a request signed, and return our certificate and those above it.

        Raises:
            KeyUnavailableError: OpenBao does not answer, or does not let us.
            UpstreamError: The answer is no chain.
        """
        own = self._own_chain()
        end = min(certificate.not_valid_after_utc for certificate in own)
        life = min(wanted.life, end - wanted.now - _FROM_NOW)
        if life <= timedelta(0):
            raise UpstreamError(f"the upstream's own chain ended at {end.isoformat()}", field=self._mount)
        fields = {
            "csr": request_pem(wanted.csr).decode(),
            "common_name": wanted.common_name,
            "organization": wanted.organization,
            "uri_sans": wanted.uri,
            "exclude_cn_from_sans": True,
            "max_path_length": 0,
            "ttl": f"{int(life.total_seconds())}s",
            "not_before_duration": f"{int(BACKDATING.total_seconds())}s",
            "format": "pem",
        }
        path = f"{self._mount}/root/sign-intermediate"
        try:
            data = self._call(path, lambda client: client.adapter.post(f"/v1/{path}", json=fields)["data"])
        except BaoRefusedError as error:
            if error.field != path:  # it was the login
                raise
            remedy = f'allow `path "{path}" {{ capabilities = ["create", "update"] }}` in the policy of a valid token'
            raise BaoRefusedError(error.message, field=path, remedy=remedy) from None
        return _unique(_der(text, path) for text in self._texts(data, path))

    def crls(self, cas: Sequence[CaCertificate]) -> tuple[bytes, ...]:
        """Return the CRLs of those CAs that are issuers of this mount.

        OpenBao answers with an internal error where an issuer's key is elsewhere (a root above the mount's own CA,
        say): beside others that have a CRL, such a one has none.

        Raises:
            KeyUnavailableError: OpenBao does not answer, or has none at all.
        """
        wanted = {ca.certificate for ca in cas}
        names = [name for name, certificate in self._listed().items() if certificate in wanted]
        found, refusal = [], None
        for name in names:
            try:
                found.append(self._crl(name))
            except KeyUnavailableError as error:
                refusal = error
        if refusal is not None and not found:
            raise refusal
        return _unique(crl for crl in found if crl)

    def _own_chain(self) -> list[x509.Certificate]:
        path = f"{self._mount}/issuer/default/json"
        return [x509.load_der_x509_certificate(_der(text, path)) for text in self._texts(self._get(path), path)]

    def _texts(self, data: Any, path: str) -> list[str]:
        """Return the certificate of an answer and those of its chain."""
        try:
            texts = [data["certificate"], *(data.get("ca_chain") or [])]
        except (LookupError, TypeError, AttributeError):
            texts = []
        if not texts or len(texts) > MAX_CHAIN + 1 or not all(isinstance(text, str) for text in texts):
            remedy = f"see that the default issuer of the mount {self._mount} has its whole chain, and is no longer"
            raise UpstreamError("the answer is no chain of certificates", field=path, remedy=remedy)
        return texts

    def _listed(self) -> dict[str, bytes]:
        try:
            with self._lock:
                found = dict(self._known_issuers())
        except (BaoRefusedError, BaoMissingError):
            raise
        except KeyUnavailableError as error:
            self._silence = (error, self._monotonic())
            raise
        self._silence = None
        return found

    def _known_issuers(self) -> dict[str, bytes]:
        """Return the certificates of the mount's issuers; each is asked for once."""
        path = f"{self._mount}/issuers"
        names = self._call(path, lambda client: client.adapter.list(f"/v1/{path}")["data"]["keys"])
        for name in list(names)[:_MOST_ISSUERS]:
            if isinstance(name, str) and name.replace("-", "").isalnum() and name not in self._issuers:
                where = f"{self._mount}/issuer/{name}/json"
                self._issuers[name] = _der(self._texts(self._get(where), where)[0], where)
        self._issuers = {name: found for name, found in self._issuers.items() if name in names}
        return self._issuers

    def _crl(self, name: str) -> bytes:
        path = f"{self._mount}/issuer/{name}/crl/der"
        content = self._call(path, lambda client: bytes(client.adapter.get(f"/v1/{path}").content))
        return content if len(content) <= LARGEST_CRL else b""

    def _get(self, path: str) -> Any:
        return self._call(path, lambda client: client.adapter.get(f"/v1/{path}")["data"])

    def _call(self, path: str, work: Callable[[Any], Any]) -> Any:
        return self._bao().call(path, work)


def _der(text: str, path: str) -> bytes:
    try:
        if len(text) > _LARGEST_CERTIFICATE:
            raise ValueError("too long")
        return x509.load_pem_x509_certificate(text.encode()).public_bytes(Encoding.DER)
    except UNREADABLE as error:
        raise UpstreamError("a certificate of the answer cannot be read", field=path) from error


def _unique(ders: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(ders))
