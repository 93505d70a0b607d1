"""Callers that are entitled by more than user and groups: who is refused, and what happens when it holds no longer."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.delivery_world import Hall, node_id, spiffe_id
from unit.attest.processes import PYTHON, connecting, program

from meshca.attest.executable import FileId, running_file
from meshca.attest.process import AttestationError, Process
from meshca.attest.selectors import selectors
from meshca.delivery.callers import NotEntitledError
from meshca.delivery.view import LiveView
from meshca.policy.entitlement import Registration, Selector
from meshca.policy.selector import parse_selector
from meshca.xds.resource import SDS

MINE = f"unix:uid:{os.geteuid()}"
HERE = f"unix:path:{Path(sys.executable).resolve()}"
FRONT = str(spiffe_id("front"))


def registration(*texts: str) -> Registration:
    return Registration("1", spiffe_id("front"), frozenset(parse_selector(text) for text in texts))


def hall_for(*texts: str) -> Hall:
    """Give a desk that we come to as a process whose program is known, with one registration of these selectors."""
    hall = Hall()
    hall.callers["us"] = replace(hall.process(), executable=running_file(os.getpid()))
    hall.change(registrations=(registration(*texts),))
    return hall


class Facts:
    """Reads what a test says, and remembers in which thread."""

    def __init__(self, hall: Hall, *texts: str) -> None:
        self.texts = texts
        self.threads: list[bool] = []
        hall.desk._read = self

    def __call__(self, process: Process, registrations: Iterable[Registration] = ()) -> frozenset[Selector]:
        self.threads.append(threading.current_thread() is threading.main_thread())
        return selectors(process) | {parse_selector(text) for text in self.texts}


async def fetch(view: LiveView) -> object:
    return (await view.fetch(SDS, frozenset({"default"}), {})).resources


async def test_who_runs_the_program_is_served() -> None:
    view = await hall_for(MINE, HERE).open()
    assert view.spiffe_id == FRONT
    assert await fetch(view)


@pytest.mark.parametrize("texts", [(MINE, "unix:path:/opt/other"), ("unix:uid:4711", HERE)])
async def test_who_does_not_is_refused_and_audited(texts: tuple[str, ...]) -> None:
    hall = hall_for(*texts)
    with pytest.raises(NotEntitledError):
        await hall.open()
    assert [refusal[:2] for refusal in hall.notes.refusals] == [(f"uid:{os.geteuid()}", "attest")]


@pytest.mark.parametrize("executable", [None, FileId(1, 1)])
async def test_who_has_become_the_program_since_is_refused_and_audited(executable: FileId | None) -> None:
    hall = hall_for(MINE, HERE)
    hall.callers["us"] = replace(hall.callers["us"], executable=executable)
    with pytest.raises(NotEntitledError):
        await hall.open()
    assert len(hall.notes.refusals) == 1


async def test_a_number_used_again_is_refused_and_audited() -> None:
    hall = hall_for(MINE, HERE)
    hall.callers["us"] = replace(hall.callers["us"], start_time=1)
    with pytest.raises(AttestationError, match="is not the one that connected"):
        await hall.open()
    assert len(hall.notes.refusals) == 1


async def test_a_real_process_loses_its_key_when_it_becomes_another_program(tmp_path: Path) -> None:
    ours = program(tmp_path / "opt")
    hall = hall_for(MINE, f"unix:path:{ours}")
    with connecting(ours) as caller:
        hall.callers["us"] = caller.process
        view = await hall.open()
        assert await fetch(view)
        (tmp_path / "idle.py").write_text("import sys; print('running', flush=True); sys.stdin.read()")
        assert caller.order(f"exec {PYTHON} -I -S {tmp_path}/idle.py") == "running"
        hall.desk.rotate(spiffe_id("front"))
        with pytest.raises(AttestationError, match="no longer has what entitled it"):
            await fetch(view)
        assert hall.notes.refusals == [(f"uid:{os.geteuid()}", "attest", node_id("front"))]


async def test_a_key_is_not_released_to_who_has_lost_what_entitled_it() -> None:
    hall = hall_for(MINE, "systemd:unit:web.service")
    facts = Facts(hall, "systemd:unit:web.service")
    view = await hall.open()
    assert await fetch(view)
    facts.texts = ()
    hall.desk.rotate(spiffe_id("front"))
    with pytest.raises(AttestationError, match="no longer has what entitled it"):
        await fetch(view)
    assert len(hall.notes.refusals) == 1


async def test_what_is_slow_is_read_off_the_event_loop_first() -> None:
    hall = hall_for(MINE, "k8s:ns:shop")
    facts = Facts(hall, "k8s:ns:shop")
    await hall.open()
    assert facts.threads == [False, True]
    facts.threads.clear()
    hall.change(registrations=(registration(MINE, "systemd:unit:a.service"), registration(MINE, "k8s:ns:shop")))
    await asyncio.sleep(0)
    while len(facts.threads) < 2:
        await asyncio.sleep(0.001)
    assert facts.threads == [False, True]


async def test_a_change_of_slow_registrations_ends_the_stream_of_who_is_entitled_no_more() -> None:
    hall = hall_for(MINE, "k8s:ns:shop")
    Facts(hall, "k8s:ns:shop")
    view = await hall.open()
    hall.change(registrations=(registration(MINE, "k8s:ns:other"),))
    with pytest.raises(NotEntitledError):
        await asyncio.wait_for(view.next_change(), 20)
    with pytest.raises(NotEntitledError):
        await fetch(view)
    assert len(hall.notes.refusals) == 1


async def test_what_is_quick_is_read_at_once() -> None:
    hall = hall_for(MINE, "systemd:unit:web.service")
    facts = Facts(hall, "systemd:unit:web.service")
    await hall.open()
    assert facts.threads == [True]
