"""Concurrent wishes for certificates, issued in batches. Implements ``delivery.ports.Issuing``.

Rules: whoever asks alone is served at once; who asks while a batch is being made joins the next one, so that many share
two commits; a wish that fails fails alone. Keys and CSR checks belong to the worker thread, not to the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from meshca.authority.authority import Authority
from meshca.authority.ports import Claim, Clock
from meshca.authority.requests import Issued, IssueRequest, Kind, Refused, profile_of
from meshca.delivery.ports import Leaf
from meshca.errors import ExhaustedError, MeshcaError, RefusedError, UnavailableError
from meshca.policy.hostnames import HostNames, decide_names
from meshca.server.metrics import Metrics
from meshca.spiffe.id import SpiffeId
from meshca.x509.csr import CsrKey, check_csr

_log = structlog.get_logger(__name__)

# Two, so that under load the results of one batch commit together with the intents of the next.
_WORKERS = 2
_MANY = 64
_LARGEST_BATCH = 256
_LINGER = 0.003
_LONGEST_QUEUE = 50_000
_CURVES = {"ec-p256": ec.SECP256R1, "ec-p384": ec.SECP384R1}


class DnsNamesRefusedError(RefusedError):
    """The node may not have one of the DNS names that it asked for."""


@dataclass(frozen=True, slots=True)
class Order:
    """A wish for a certificate; without a CSR a key is made for it."""

    spiffe_id: SpiffeId
    holder: str
    kind: Kind
    requested_by: str
    csr: bytes = field(default=b"", repr=False)
    ttl: timedelta | None = None
    dns_names: tuple[str, ...] = ()  # asked for, beside those in the CSR
    host_names: HostNames | None = None  # what the node may have; None: none at all
    token_hash: str = field(default="", repr=False)  # of a join token, which is used up for the CSR's key


@dataclass(slots=True, eq=False)
class _Waiting:
    order: Order
    answer: asyncio.Future[Leaf]


class Issuance:
    """The queue in front of the authority. Lives on one event loop."""

    def __init__(self, authority: Authority, clock: Clock, metrics: Metrics) -> None:
        self._authority = authority
        self._clock = clock
        self._metrics = metrics
        self._queue: deque[_Waiting] = deque()
        self._free = _WORKERS
        self._expected = 1
        self._lingering: asyncio.TimerHandle | None = None
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="issuance")

    async def leaf(self, spiffe_id: SpiffeId, holder: str, requested_by: str) -> Leaf:
        """Make a key and have it certified."""
        return await self.one(Order(spiffe_id, holder, "stream", requested_by))

    async def held(self, serial: str, spiffe_id: SpiffeId, holder: str) -> Leaf | None:
        """Return the leaf with this serial if it is this holder's, valid and not revoked."""
        record = await asyncio.to_thread(self._authority.certificate, serial)
        if record is None or (record.spiffe_id, record.holder) != (spiffe_id, holder):
            return None
        if record.status(self._clock.now()) != "valid":
            return None
        return Leaf(
            record.serial,
            record.spiffe_id,
            record.not_before,
            record.not_after,
            record.created_at,
            issuer_id=record.issuer_id,
        )

    async def one(self, order: Order) -> Leaf:
        """Have one certificate issued.

        Raises:
            MeshcaError: There is none.
        """
        return await self._enqueue(order)

    async def many(self, orders: Sequence[Order]) -> list[Leaf | MeshcaError]:
        """Have a batch issued; the answers come in order."""
        found = await asyncio.gather(*map(self._enqueue, orders), return_exceptions=True)
        return [_answer(item) for item in found]

    async def close(self) -> None:
        """Finish what was asked for; take no more."""
        while self._queue or self._free < _WORKERS:
            await asyncio.sleep(0.01)
        self._workers.shutdown()

    def _enqueue(self, order: Order) -> asyncio.Future[Leaf]:
        answer: asyncio.Future[Leaf] = asyncio.get_running_loop().create_future()
        if len(self._queue) >= _LONGEST_QUEUE:
            answer.set_exception(ExhaustedError("too many certificates are being waited for", remedy="try again later"))
            return answer
        self._queue.append(_Waiting(order, answer))
        self._pump_soon()
        return answer

    def _pump_soon(self) -> None:
        """Begin a batch once as many ask as are expected, or a moment later; alone, at once."""
        if not self._may_begin() or (self._lingering is not None and len(self._queue) < self._expected):
            return
        loop = asyncio.get_running_loop()
        if len(self._queue) >= self._expected:
            loop.call_soon(self._pump)
        else:
            self._lingering = loop.call_later(_LINGER, self._pump)

    def _may_begin(self) -> bool:
        """Whether a batch may begin now: one alone, a second beside it only where many wait."""
        return self._free == _WORKERS or bool(self._free and len(self._queue) >= _MANY)

    def _pump(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        while self._queue and self._may_begin():
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _LARGEST_BATCH))]
            self._free -= 1
            work = asyncio.get_running_loop().run_in_executor(self._workers, self._make, [w.order for w in batch])
            work.add_done_callback(lambda done, batch=batch: self._made(batch, done))  # type: ignore[misc]

    def _made(self, batch: Sequence[_Waiting], done: asyncio.Future[list[Leaf | MeshcaError]]) -> None:
        self._free += 1
        error = done.exception()
        if error is not None and not isinstance(error, MeshcaError):
            _log.error("issuing failed", exc_info=error)
            error = UnavailableError("issuing failed; the server's log says why")
        answers = [error] * len(batch) if error else done.result()
        for waiting, answer in zip(batch, answers, strict=True):
            self._tell(waiting, answer)
        # Whoever was answered may ask again, and shares the next batch with those who wait.
        self._expected = min(len(batch) + len(self._queue), _LARGEST_BATCH)
        if self._queue:
            self._pump_soon()

    def _tell(self, waiting: _Waiting, answer: Leaf | MeshcaError) -> None:
        if isinstance(answer, Leaf):
            self._metrics.issued.labels(waiting.order.kind).inc()
        else:
            self._metrics.refused.labels("issue").inc()
        if waiting.answer.cancelled():
            return
        if isinstance(answer, Leaf):
            waiting.answer.set_result(answer)
        else:
            waiting.answer.set_exception(answer)

    # ---- in a worker thread

    def _key_type(self, kind: Kind) -> str:
        return self._authority.profiles[profile_of(kind).name].key_types[0]

    def _make(self, orders: Sequence[Order]) -> list[Leaf | MeshcaError]:
        prepared = [_prepared(order, self._key_type(order.kind)) for order in orders]
        requests = [found.request for found in prepared if isinstance(found, _Prepared)]
        now = self._clock.now()
        results = iter(self._authority.issue(requests)) if requests else iter(())
        return [_leaf(found, next(results), now) if isinstance(found, _Prepared) else found for found in prepared]


@dataclass(frozen=True, slots=True)
class _Prepared:
    request: IssueRequest
    key_pem: bytes = field(repr=False)


def _prepared(order: Order, key_type: str) -> _Prepared | MeshcaError:
    try:
        if order.csr:
            key, key_pem = check_csr(order.csr, order.spiffe_id), b""
        else:
            key, key_pem = _new_key(key_type)
        names = _granted(order, key)
    except MeshcaError as error:
        return error
    request = IssueRequest(
        order.spiffe_id,
        key.spki,
        order.ttl,
        order.holder,
        order.kind,
        order.requested_by,
        dns_names=names,
        names_subject=key.names_subject,
        claim=Claim(order.token_hash, hashlib.sha256(key.spki).hexdigest()) if order.token_hash else None,
    )
    return _Prepared(request, key_pem)


def _granted(order: Order, key: CsrKey) -> tuple[str, ...]:
    """Return the DNS names that the certificate will have."""
    asked = (*order.dns_names, *key.dns_names)
    if not asked:
        return ()
    if order.host_names is None:
        raise DnsNamesRefusedError("there are none for this kind of certificate", field="DNS name", value=asked[0])
    decision = decide_names(order.host_names, asked)
    if not decision.allowed:
        why = decision.reason
        raise DnsNamesRefusedError(
            f"not one of {order.spiffe_id}: {why.field} of {why.object} {why.text}",
            field="DNS name",
            value=", ".join(decision.refused),
            remedy="ask for the node's own host name, or none",
        )
    return decision.names


def _new_key(key_type: str) -> tuple[CsrKey, bytes]:
    key = ec.generate_private_key(_CURVES[key_type]())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return CsrKey(spki), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _leaf(prepared: _Prepared, result: Issued | Refused, now: datetime) -> Leaf | MeshcaError:
    if isinstance(result, Refused):
        return result.error
    made = result.certificate
    return Leaf(
        serial=made.serial,
        spiffe_id=made.spiffe_id,
        not_before=made.not_before,
        not_after=made.not_after,
        signed_at=now,
        chain_pem=result.chain_pem,
        key_pem=prepared.key_pem,
        issuer_id=made.issuer_id,
    )


def _answer(found: Leaf | BaseException) -> Leaf | MeshcaError:
    if isinstance(found, Leaf | MeshcaError):
        return found
    raise found
