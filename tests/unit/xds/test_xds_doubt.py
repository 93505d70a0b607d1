"""What was rejected is remembered, asked for again once per reason, and never in the same bytes."""

from __future__ import annotations

from meshca.xds.doubt import Doubt
from meshca.xds.resource import SDS, Resource


def secret(name: str, content: str = "1") -> Resource:
    return Resource(SDS, name, "v", f"{name} {content}".encode())


def reword(resource: Resource, attempt: int) -> Resource:
    return Resource(SDS, resource.name, resource.version, resource.body + b"#%d" % attempt)


def rejected(*resources: Resource) -> Doubt:
    doubt = Doubt()
    batch = {resource.name: resource for resource in resources}
    doubt.reject(batch, batch)
    return doubt


def test_one_alone_is_at_fault_and_not_asked_for_again() -> None:
    doubt = rejected(secret("a"))

    assert doubt
    assert doubt.concerns(secret("a"))
    assert not doubt.concerns(secret("a", "2"))
    assert not doubt.again


def test_of_several_each_may_be_asked_for_once_more() -> None:
    assert rejected(secret("a"), secret("b")).again == {"a", "b"}


def test_both_what_was_meant_and_the_words_sent_are_remembered() -> None:
    doubt = Doubt()
    words = reword(secret("a"), 1)
    doubt.reject({"a": secret("a")}, {"a": words})

    assert doubt.remembers(secret("a"))
    assert doubt.remembers(words)


def test_what_is_accepted_is_history() -> None:
    doubt = rejected(secret("a"), secret("b"))
    doubt.accept(["a"])

    assert doubt.names == {"b"}
    assert not doubt.remembers(secret("a"))
    assert doubt.remembers(secret("b"))


def test_what_is_no_longer_wanted_is_out_of_doubt_and_still_remembered() -> None:
    doubt = rejected(secret("a"))
    doubt.forget(["a"])

    assert not doubt
    assert doubt.remembers(secret("a"))


def test_an_attempt_is_spent_in_words_that_were_not_rejected() -> None:
    doubt = rejected(secret("a"), secret("b"))
    taken = {reword(secret("a"), attempt).digest for attempt in (1, 2)}

    assert doubt.spend(secret("a"), taken, reword) == reword(secret("a"), 3)
    assert doubt.again == {"b"}


def test_what_cannot_be_reworded_is_not_sent() -> None:
    assert rejected(secret("a")).spend(secret("a"), (), lambda resource, _attempt: resource) is None


def test_a_new_reason_allows_one_more_attempt() -> None:
    doubt = rejected(secret("a"))
    doubt.ask_again()

    assert doubt.again == {"a"}


def test_a_new_stream_is_a_reason() -> None:
    doubt = Doubt()
    doubt.inherit(secret("a"))

    assert doubt.concerns(secret("a"))
    assert doubt.again == {"a"}
