from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.audit import AuditEntry
from meshca.server.refusals import Refusals


class Log:
    def __init__(self) -> None:
        self.now = 0.0
        self.entries: list[AuditEntry] = []
        self.refusals = Refusals(self.entries.append, lambda: self.now)


def test_the_first_refusal_is_written_at_once_and_the_rest_as_one_with_their_number() -> None:
    log = Log()
    for _ in range(1000):
        log.refusals.add("uid:1", "attest", "node", "no registration")
    assert [entry.reason for entry in log.entries] == ["no registration"]
    log.now = 10.0
    log.refusals.tick()
    assert [entry.reason for entry in log.entries][1:] == ["no registration (999 more within 10 s)"]
    log.refusals.add("uid:1", "attest", "node", "no registration")
    assert len(log.entries) == 3


def test_one_refusal_alone_is_one_record() -> None:
    log = Log()
    log.refusals.add("uid:1", "attest", "node", "why")
    log.refusals.flush()
    assert len(log.entries) == 1


@given(st.integers(1, 2000), st.integers(1, 40))
def test_whoever_varies_what_they_ask_for_cannot_fill_the_disk(requests: int, callers: int) -> None:
    log = Log()
    for number in range(requests):
        log.refusals.add(f"uid:{number % callers}", "attest", f"node {number}", "why")
    log.refusals.flush()
    assert len(log.entries) <= 17 * callers * 2
    assert len(log.entries) <= 1100
    said = sum(
        int(entry.reason.partition("(")[2].split()[0]) for entry in log.entries if " more within" in entry.reason
    )
    firsts = sum(" more within" not in entry.reason for entry in log.entries)
    assert said + firsts == requests


def test_a_long_subject_is_cut() -> None:
    log = Log()
    log.refusals.add("uid:1", "attest", "x" * 5000, "y" * 5000)
    assert len(log.entries[0].subject) == len(log.entries[0].reason) == 512
