"""The desk's own waiting: for those whose leaf was revoked to have another."""

from __future__ import annotations

import asyncio

from fakes.delivery_world import Hall

from meshca.xds.resource import SDS


async def test_a_revoked_leaf_is_replaced_once_its_holder_has_acknowledged_another() -> None:
    hall = Hall(entitled=["back"])
    view = await hall.open("back")
    old = (await view.fetch(SDS, frozenset({"default"}), {})).resources
    hall.desk.revoked({old["default"].version}, suspended=False)
    waiting = asyncio.create_task(hall.desk.replaced(5))
    await view.next_change()
    view.acknowledged(SDS, old)  # comes late, and says nothing of the new one
    await asyncio.sleep(0)
    assert not waiting.done()
    new = (await view.fetch(SDS, frozenset({"default"}), {})).resources
    view.acknowledged(SDS, new)
    assert await waiting


async def test_a_holder_that_does_not_answer_holds_nothing_up() -> None:
    hall = Hall(entitled=["back"])
    view = await hall.open("back")
    old = (await view.fetch(SDS, frozenset({"default"}), {})).resources
    hall.desk.revoked({old["default"].version}, suspended=False)
    assert not await hall.desk.replaced(0.01)
    assert await hall.desk.replaced(5)  # forgotten: the next revocation does not wait for it again


async def test_without_a_holder_nobody_is_waited_for() -> None:
    hall = Hall(entitled=["back"])
    hall.desk.revoked({"ab"}, suspended=False)
    assert await hall.desk.replaced(5)
