"""The audit log on both databases: every way of tampering shows (design §3, issue 3 must-show 5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from store_examples import ISSUER, REALM, T0, authority, entry
from store_signer import CaSigner

from meshca.store import audit as audit_module
from meshca.store.audit import AuditLog, CheckpointPolicy
from meshca.store.checkpoints import Kept
from meshca.store.engine import Store, Transaction
from meshca.store.errors import StoreError
from meshca.store.ledger import SqlLedger
from meshca.store.times import moment
from meshca.store.trust import insert_authority

RECORDS = 8
ENDLESS = b'{"writer":"server","seq":1e400,"hash":"","at":1,"signer_id":"","signature":""}'


@pytest.fixture(scope="module")
def signer() -> CaSigner:
    return CaSigner(ISSUER)


@pytest.fixture
def policy(signer: CaSigner, tmp_path: Path) -> CheckpointPolicy:
    return CheckpointPolicy(lambda: signer, tmp_path / "audit.checkpoint", every_records=3, every=timedelta(minutes=1))


@pytest.fixture
def log(store: Store, signer: CaSigner, policy: CheckpointPolicy) -> AuditLog:
    """A log with eight records and checkpoints of records 1 and 6."""
    ledger, log = SqlLedger(store), AuditLog(store, policy)
    ledger.create_realm(REALM, [authority(ISSUER, "issuing", signer.certificate)], [], [entry("init")])
    log.checkpoint(T0)
    for number in range(5):
        ledger.record_audit([entry("issue", f"subject {number}", reason='"\u00e9\n')])
    log.checkpoint(T0)
    ledger.record_audit([entry("revoke"), entry("attest", outcome="refused")])
    return log


@pytest.fixture
def reopened(log: AuditLog, open_another: Callable[[str], Store], policy: CheckpointPolicy) -> AuditLog:
    """The same log as another process sees it, which has committed nothing itself."""
    return AuditLog(open_another("server"), policy)


def tamper(store: Store, *statements: str) -> None:
    def change(transaction: Transaction) -> None:
        for statement in statements:
            transaction.connection.execute(text(statement))

    store.write(change)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["nul", "surrogate"])
def test_text_that_a_database_refuses_takes_nothing_with_it(store: Store, policy: CheckpointPolicy, text: str) -> None:
    SqlLedger(store).record_audit([entry("issue", "before"), entry("attest", text, outcome="refused", reason=text)])
    log = AuditLog(store, policy)
    before, after = log.tail(2)
    assert before.subject == "before"
    assert after.subject == after.reason == {"a\0b": "a\\x00b"}.get(text, "a\\ud800b")
    assert log.verify().intact


def test_an_untouched_log_is_intact(log: AuditLog, reopened: AuditLog) -> None:
    assert (log.verify().findings, log.verify().records) == ((), RECORDS)
    assert reopened.verify().intact


def test_the_tail_comes_oldest_first(log: AuditLog) -> None:
    assert [(record.seq, record.action) for record in log.tail(2)] == [(7, "revoke"), (8, "attest")]
    assert [record.seq for record in log.tail(100)] == list(range(1, RECORDS + 1))


@pytest.mark.parametrize(
    ("statements", "finding"),
    [
        pytest.param(
            ["UPDATE audit SET reason = '\"\u00e8\n' WHERE seq = 3"],
            "server record 3: its fields do not match its hash",
            id="one-byte-changed",
        ),
        pytest.param(
            ["UPDATE audit SET at = at + 1 WHERE seq = 3"], "record 3: its fields do not match", id="time-changed"
        ),
        pytest.param(["DELETE FROM audit WHERE seq = 3"], "record 4: records 3 to 3 are missing", id="one-removed"),
        pytest.param(
            ["DELETE FROM audit WHERE seq = 3", "UPDATE audit SET seq = seq - 1 WHERE seq = 4"],
            "record 3: does not follow record 2",
            id="one-removed-and-renumbered",
        ),
        pytest.param(
            [
                "UPDATE audit SET seq = 99 WHERE seq = 3",
                "UPDATE audit SET seq = 3 WHERE seq = 4",
                "UPDATE audit SET seq = 4 WHERE seq = 99",
            ],
            "record 3: does not follow record 2",
            id="two-swapped",
        ),
        pytest.param(["DELETE FROM audit WHERE seq >= 5"], "the tail is cut", id="tail-cut"),
        pytest.param(["DELETE FROM audit"], "ends at record 0, but record 6 was known", id="all-removed"),
        pytest.param(
            ["DELETE FROM audit WHERE seq >= 5", "DELETE FROM audit_checkpoints WHERE seq = 6"],
            "the checkpoint of record 6 is in a file, but not in the database",
            id="tail-cut-with-its-checkpoint",
        ),
        pytest.param(
            ["UPDATE audit_checkpoints SET hash = previous FROM audit WHERE audit_checkpoints.seq = audit.seq"],
            "has a wrong signature",
            id="checkpoint-changed",
        ),
        pytest.param(
            ["UPDATE audit_checkpoints SET signer_id = 'unknown'"], "a CA that the ledger does not know", id="no-signer"
        ),
    ],
)
def test_each_way_of_tampering_is_found(store: Store, reopened: AuditLog, statements: list[str], finding: str) -> None:
    tamper(store, *statements)
    found = reopened.verify().findings
    assert any(finding in one for one in found), found


def test_a_tail_that_no_checkpoint_saw_is_missed_by_the_process_that_wrote_it(
    store: Store, log: AuditLog, reopened: AuditLog
) -> None:
    tamper(store, "DELETE FROM audit WHERE seq = 8")
    assert "record 8 was known: the tail is cut" in log.verify().findings[0]
    assert reopened.verify().intact  # nothing outside the table ever knew of record 8


def test_a_rewritten_tail_does_not_match_the_checkpoint(
    store: Store, log: AuditLog, reopened: AuditLog, open_another: Callable[[str], Store]
) -> None:
    tamper(store, "DELETE FROM audit WHERE seq >= 6")
    SqlLedger(open_another("server")).record_audit([entry("forged"), entry("forged")])
    assert reopened.verify().findings == ("server record 6: its hash is not the one in the checkpoint",)
    assert any("record 8 was known: the tail is cut" in one for one in log.verify().findings)


def test_a_writer_whose_tail_was_cut_leaves_a_gap_when_it_goes_on(
    store: Store, log: AuditLog, reopened: AuditLog
) -> None:
    tamper(store, "DELETE FROM audit WHERE seq >= 7")
    SqlLedger(store).record_audit([entry()])
    for one in (log, reopened):
        assert "server record 9: records 7 to 8 are missing" in one.verify().findings


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (None, "is missing"),
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"writer":1}', "is damaged"),
        (ENDLESS, "is damaged"),
        (b'["signature",' + b"[" * 100_000, "is damaged"),
    ],
)
def test_a_checkpoint_file_that_is_lost_or_damaged_shows(
    reopened: AuditLog, policy: CheckpointPolicy, content: bytes | None, finding: str
) -> None:
    policy.file.unlink()
    if content is not None:
        policy.file.write_bytes(content)
    assert reopened.verify().findings == (f"audit.checkpoint: the checkpoint file {finding}",)


def test_a_process_that_died_before_its_first_checkpoint_file_took_its_place_is_no_finding(
    store: Store, signer: CaSigner, policy: CheckpointPolicy
) -> None:
    SqlLedger(store).create_realm(REALM, [authority(ISSUER, "issuing", signer.certificate)], [], [entry("init")])
    AuditLog(store, policy).checkpoint(T0)
    beside = policy.file.rename(f"{policy.file}.new")
    reopened = AuditLog(store, policy)
    assert reopened.verify().intact
    beside.write_bytes(beside.read_bytes().replace(b'"seq":1', b'"seq":2'))
    assert reopened.verify().findings == ("audit.checkpoint: the checkpoint file is missing",)
    reopened.checkpoint(T0)
    assert not beside.exists()
    assert reopened.verify().intact


def test_two_deaths_around_the_first_checkpoint_file_are_no_finding(
    store: Store, signer: CaSigner, policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = SqlLedger(store)
    ledger.create_realm(REALM, [authority(ISSUER, "issuing", signer.certificate)], [], [entry("init")])
    AuditLog(store, policy).checkpoint(T0)
    policy.file.rename(f"{policy.file}.new")
    ledger.record_audit([entry()])

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(audit_module, "insert_checkpoint", die)  # its copy is staged, and never committed
        with pytest.raises(KeyboardInterrupt):
            AuditLog(store, policy).checkpoint(T0)
    assert AuditLog(store, policy).verify().intact


def test_a_forged_checkpoint_file_shows(reopened: AuditLog, policy: CheckpointPolicy) -> None:
    policy.file.write_bytes(policy.file.read_bytes().replace(b'"seq":6', b'"seq":5'))
    assert any("has a wrong signature" in one for one in reopened.verify().findings)


def test_a_copy_kept_elsewhere_is_checked_too(store: Store, reopened: AuditLog, policy: CheckpointPolicy) -> None:
    copy = Kept("copy", policy.file.read_bytes())
    assert reopened.verify([copy]).intact
    tamper(store, "DELETE FROM audit WHERE seq > 1", "DELETE FROM audit_checkpoints WHERE seq > 1")
    policy.file.unlink()
    assert any("the tail is cut" in one for one in reopened.verify([copy]).findings)
    assert "other: the checkpoint file is damaged" in reopened.verify([Kept("other", b"nothing")]).findings


def test_lines_of_the_log_are_checkpoints_too(store: Store, reopened: AuditLog, policy: CheckpointPolicy) -> None:
    own = json.loads(policy.file.read_bytes())
    lines = [{"event": "ready"}, {"event": "audit_checkpoint", "level": "info", **own}]
    log = Kept("log", b"\n".join(json.dumps(line).encode() for line in lines))
    assert reopened.verify([log]).intact
    tamper(store, "DELETE FROM audit WHERE seq > 5", "DELETE FROM audit_checkpoints WHERE seq > 5")
    policy.file.write_bytes(json.dumps(own | {"seq": 1}).encode())
    assert any(
        "server: the chain ends at record 5, but record 6 was known" in one for one in reopened.verify([log]).findings
    )


def test_a_checkpoint_outlives_the_ca_that_signed_it(
    store: Store, log: AuditLog, open_another: Callable[[str], Store], tmp_path: Path
) -> None:
    successor = CaSigner("cd" * 10)
    record = authority("cd" * 10, "issuing", successor.certificate)
    tamper(store, "UPDATE authorities SET state = 'removed'")
    store.write(lambda transaction: insert_authority(transaction.connection, record))
    SqlLedger(store).record_audit([entry("rotate")])
    policy = CheckpointPolicy(lambda: successor, tmp_path / "audit.checkpoint")
    assert AuditLog(store, policy).checkpoint(T0) is not None
    assert AuditLog(open_another("server"), policy).verify().intact
    with store.read() as connection:
        signers = connection.execute(text("SELECT DISTINCT signer_id FROM audit_checkpoints")).scalars().all()
    assert set(signers) == {ISSUER, "cd" * 10}


def test_every_record_is_exported_by_writer_and_number(
    store: Store, log: AuditLog, open_another: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    SqlLedger(open_another("replica")).record_audit([entry("issue")])
    monkeypatch.setattr(audit_module, "_EXPORTED", 3)
    pages = list(log.export())
    assert [len(page) for page in pages] == [3, 3, 3]
    records = [record for page in pages for record in page]
    assert [(record.writer, record.seq) for record in records] == [
        ("replica", 1),
        *(("server", n) for n in range(1, 9)),
    ]
    assert all(record.digest() == record.hash for record in records)
    newest = moment(records[-1].at)
    assert [record.seq for page in log.export(newest) for record in page if record.writer == "server"] == [7, 8]
    assert list(log.export(newest + timedelta(days=1))) == []


def test_the_checkpoint_file_is_private_and_replaced(log: AuditLog, policy: CheckpointPolicy) -> None:
    before = policy.file.stat()
    assert before.st_mode & 0o777 == 0o600
    checkpoint = log.checkpoint(T0)
    assert checkpoint is not None
    assert checkpoint.seq == RECORDS
    assert policy.file.stat().st_ino != before.st_ino
    assert log.checkpoint(T0) is None
    assert [path.name for path in policy.file.parent.glob("audit*")] == ["audit.checkpoint"]


def test_a_checkpoint_is_due_by_records_or_by_time(store: Store, log: AuditLog) -> None:
    minute = timedelta(minutes=1)
    assert log.checkpoint_if_due(T0 + minute / 2) is None
    assert log.checkpoint_if_due(T0 + minute) is not None
    assert log.checkpoint_if_due(T0 + 2 * minute) is None  # nothing new
    SqlLedger(store).record_audit([entry()] * 3)
    assert log.checkpoint_if_due(T0 + minute) is not None


def test_a_checkpoint_that_cannot_be_written_says_so(store: Store, signer: CaSigner, tmp_path: Path) -> None:
    SqlLedger(store).record_audit([entry()])
    log = AuditLog(store, CheckpointPolicy(lambda: signer, tmp_path / "absent" / "audit.checkpoint"))
    with pytest.raises(StoreError, match="the audit checkpoint cannot be written: No such file"):
        log.checkpoint(T0)


def test_an_empty_log_needs_no_checkpoint(store: Store, policy: CheckpointPolicy) -> None:
    log = AuditLog(store, policy)
    assert log.checkpoint(T0) is None
    assert (log.verify().records, log.verify().intact) == (0, True)


def test_each_writer_has_a_chain_of_its_own(
    log: AuditLog, open_another: Callable[[str], Store], policy: CheckpointPolicy
) -> None:
    other = open_another("replica")
    SqlLedger(other).record_audit([entry("issue")])
    assert log.verify().records == RECORDS + 1
    assert log.verify().intact
    tamper(other, "UPDATE audit SET actor = 'x' WHERE writer = 'replica'")
    assert log.verify().findings == ("replica record 1: its fields do not match its hash",)


def test_a_ca_whose_certificate_was_overwritten_does_not_stop_a_check(store: Store, reopened: AuditLog) -> None:
    junk = text("UPDATE authorities SET certificate = :junk")
    store.write(lambda transaction: transaction.connection.execute(junk, {"junk": b"junk"}) and None)
    assert any("has a wrong signature" in one for one in reopened.verify().findings)
