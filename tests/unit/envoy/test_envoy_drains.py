from __future__ import annotations

from meshca.envoy.drains import UNRAISED, token


def test_a_token_changes_exactly_when_one_of_its_counters_is_raised() -> None:
    scopes = ["identity:a", "identity:b"]
    before = token({"identity:a": 1, "other": 1}, scopes)
    assert before == token({"identity:a": 1, "other": 2}, reversed(scopes))
    assert before != token({"identity:a": 2}, scopes)
    assert before != token({"identity:a": 1, "identity:b": 1}, scopes)


def test_admitting_one_more_who_was_never_drained_changes_nothing() -> None:
    epochs = {"identity:a": 3}
    assert token(epochs, ["identity:a"]) == token(epochs, ["identity:a", "identity:new"])
    assert token({}, []) == token({}, ["identity:new"]) == UNRAISED
