from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.ca import World, node
from fakes.server_world import signing_request

from meshca.authority.requests import Issued, IssueRequest, Refused
from meshca.delivery.ports import Leaf
from meshca.errors import InvalidInputError, MeshcaError, RefusedError, UnavailableError
from meshca.server.issuance import Issuance, Order
from meshca.server.metrics import Metrics


class Batches:
    """An authority that notes its batches, and can be held or made to fail."""

    def __init__(self) -> None:
        self.world = World()
        self.sizes: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None

    def issue(self, requests: Sequence[IssueRequest]) -> list[Issued | Refused]:
        self.open.wait(10)
        self.sizes.append(len(requests))
        if self.error:
            raise self.error
        return self.world.authority.issue(requests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world.authority, name)


@pytest.fixture
def batches() -> Batches:
    return Batches()


def issuance(batches: Batches) -> Issuance:
    return Issuance(batches, batches.world.clock, Metrics())  # type: ignore[arg-type]


def order(name: str = "web", csr: bytes = b"", ttl: timedelta | None = None) -> Order:
    return Order(node(name), "issue", "file", "uid:0", csr, ttl)


async def test_whoever_asks_alone_is_served_alone_and_who_waits_shares_a_batch(batches: Batches) -> None:
    queue = issuance(batches)
    await queue.one(order())
    batches.open.clear()
    waiting = [asyncio.create_task(queue.one(order())) for _ in range(31)]
    await asyncio.sleep(0.01)
    batches.open.set()
    leaves = await asyncio.gather(*waiting)
    assert len({leaf.serial for leaf in leaves}) == 31
    assert sum(batches.sizes) == 32
    assert len(batches.sizes) <= 4
    await queue.close()


async def test_without_a_csr_a_key_is_made_and_with_one_none(batches: Batches) -> None:
    queue = issuance(batches)
    made, theirs = await queue.many([order(), order(csr=signing_request("n").csr)])
    assert isinstance(made, Leaf)
    assert isinstance(theirs, Leaf)
    assert made.key_pem.startswith(b"-----BEGIN PRIVATE KEY")
    assert theirs.key_pem == b""
    assert x509.load_pem_x509_certificate(made.chain_pem).serial_number == int(made.serial, 16)
    assert b"PRIVATE" not in repr(made).encode()
    await queue.close()


async def test_a_request_gets_its_own_identity_as_subject_and_no_other(batches: Batches) -> None:
    queue = issuance(batches)
    own, anothers = await queue.many([order(csr=named_csr(str(node("web")))), order(csr=named_csr(str(node("other"))))])
    assert isinstance(own, Leaf)
    subject = x509.load_pem_x509_certificate(own.chain_pem).subject
    assert subject.rfc4514_string() == f"UID={node('web')}"
    assert isinstance(anothers, InvalidInputError)
    await queue.close()


def named_csr(identity: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.USER_ID, identity)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


async def test_a_wish_that_fails_fails_alone_and_answers_come_in_order(batches: Batches) -> None:
    queue = issuance(batches)
    batches.world.authority.suspend(node("bad"), "keyCompromise", "us")
    answers = await queue.many(
        [order(), order(csr=b"junk"), order("bad"), order(ttl=timedelta(microseconds=1)), order()]
    )
    kinds = [Leaf, InvalidInputError, RefusedError, InvalidInputError, Leaf]
    assert [isinstance(answer, kind) for answer, kind in zip(answers, kinds, strict=True)] == [True] * 5
    await queue.close()


@pytest.mark.parametrize(("raised", "seen"), [(UnavailableError("no disk"), "no disk"), (ValueError("x"), "log says")])
async def test_a_batch_that_fails_is_an_error_for_each_and_the_next_is_served(
    batches: Batches, raised: Exception, seen: str
) -> None:
    queue = issuance(batches)
    batches.error = raised
    for answer in await queue.many([order(), order()]):
        assert isinstance(answer, MeshcaError)
        assert seen in str(answer)
    batches.error = None
    assert isinstance(await queue.one(order()), Leaf)
    await queue.close()


async def test_whoever_goes_away_does_not_disturb_the_others(batches: Batches) -> None:
    queue = issuance(batches)
    batches.open.clear()
    going, staying = asyncio.create_task(queue.one(order())), asyncio.create_task(queue.one(order()))
    await asyncio.sleep(0)
    going.cancel()
    batches.open.set()
    assert isinstance(await staying, Leaf)
    await queue.close()


async def test_closing_finishes_what_was_asked_for(batches: Batches) -> None:
    queue = issuance(batches)
    batches.open.clear()
    waiting = [asyncio.create_task(queue.one(order())) for _ in range(5)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(queue.close())
    batches.open.set()
    await closing
    assert all(task.done() for task in waiting)
    await asyncio.gather(*waiting)


async def test_a_held_leaf_counts_only_for_its_holder_while_it_is_valid(batches: Batches) -> None:
    queue = issuance(batches)
    leaf = await queue.leaf(node("web"), "stream:1", "uid:0")
    assert (await queue.held(leaf.serial, node("web"), "stream:1")) is not None
    assert await queue.held(leaf.serial, node("web"), "stream:2") is None
    assert await queue.held(leaf.serial, node("other"), "stream:1") is None
    assert await queue.held("00", node("web"), "stream:1") is None
    batches.world.authority.revoke(leaf.serial, "superseded", "us")
    assert await queue.held(leaf.serial, node("web"), "stream:1") is None
    await queue.close()
