"""The audit chain as arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from meshca.store.chain import GENESIS, ChainCheck, ChainRecord, Checkpoint, Head, checkpoint_statement, digest

TEXTS = st.text(max_size=20)


def chain(texts: list[str]) -> list[ChainRecord]:
    records: list[ChainRecord] = []
    previous = GENESIS
    for seq, subject in enumerate(texts, start=1):
        bare = ChainRecord("w", seq, seq, "actor", "issue", subject, "ok", "", previous, "")
        previous = bare.digest()
        records.append(replace(bare, hash=previous))
    return records


def findings(records: list[ChainRecord], *heads: Head) -> list[str]:
    check = ChainCheck("w")
    for head in heads:
        check.expect(head)
    for record in records:
        check.read(record)
    return check.finish()


@given(st.lists(TEXTS, max_size=6))
def test_a_whole_chain_has_no_findings(texts: list[str]) -> None:
    records = chain(texts)
    assert findings(records, *(Head(record.seq, record.hash) for record in records), Head()) == []


@given(st.lists(TEXTS, min_size=1, max_size=6), st.data())
def test_any_changed_field_is_found(texts: list[str], data: st.DataObject) -> None:
    records = chain(texts)
    where = data.draw(st.integers(0, len(records) - 1))
    name = data.draw(
        st.sampled_from(["writer", "at", "actor", "action", "subject", "outcome", "reason", "previous", "hash"])
    )
    value = data.draw(st.integers() if name == "at" else TEXTS)
    changed = replace(records[where], **{name: value})  # type: ignore[arg-type]
    assert (findings([*records[:where], changed, *records[where + 1 :]]) == []) == (changed == records[where])


@given(st.lists(TEXTS, min_size=2, max_size=6), st.data())
def test_a_removed_record_is_found_except_at_the_end_where_only_a_checkpoint_knows(
    texts: list[str], data: st.DataObject
) -> None:
    records = chain(texts)
    where = data.draw(st.integers(0, len(records) - 1))
    rest = records[:where] + records[where + 1 :]
    last = Head(records[-1].seq, records[-1].hash)
    assert (findings(rest) == []) == (where == len(records) - 1)
    assert findings(rest, last) != []


@given(st.tuples(TEXTS, st.integers(), TEXTS, TEXTS))
def test_the_hash_is_over_canonical_json(fields: tuple[str, int, str, str]) -> None:
    text = json.dumps(list(fields), ensure_ascii=True, separators=(",", ":"))
    assert digest(fields) == sha256(text.encode("ascii")).hexdigest()


def test_a_field_cannot_flow_into_its_neighbour() -> None:
    assert digest(("a", "bc")) != digest(("ab", "c"))
    assert digest(("1",)) != digest((1,))


def test_a_checkpoint_signs_every_field_of_it() -> None:
    checkpoint = Checkpoint("w", 5, "ab" * 32, 7, "ca", b"")
    assert checkpoint.statement() == checkpoint_statement("w", Head(5, "ab" * 32), 7, "ca")
    changes = [{"writer": "x"}, {"seq": 6}, {"hash": "cd" * 32}, {"at": 8}, {"signer_id": "cb"}]
    assert len({replace(checkpoint, **change).statement() for change in [{}, *changes]}) == 6  # type: ignore[arg-type]
