"""The subscription case by case: nonces, names, rejections, reconnects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from meshca.xds.messages import Accepted, Rejected, Request, Response
from meshca.xds.resource import CDS, LDS, RDS, SDS, Resource
from meshca.xds.subscription import Subscription

both = pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])


def secret(name: str, content: str = "1", type_url: str = SDS) -> Resource:
    return Resource(type_url, name, f"v{content}", f"{name} {content}".encode())


def reword(resource: Resource, attempt: int) -> Resource:
    return Resource(resource.type_url, resource.name, resource.version, resource.body + b"#%d" % attempt)


class Server:
    """A subscription with a source behind it, as a stream drives it."""

    def __init__(self, *, delta: bool = False, type_url: str = SDS, held_back: Iterable[str] = ()) -> None:
        self.subscription = Subscription(type_url, delta=delta)
        self.type_url = type_url
        self.delta = delta
        self.source: dict[str, Resource] = {}
        self.nacked: set[str] = set(held_back)
        self.confirmed: dict[str, Resource] = {}
        self.nonces = 0

    def has(self, *resources: Resource) -> None:
        self.source.update({resource.name: resource for resource in resources})
        self.subscription.change()

    def loses(self, name: str) -> None:
        del self.source[name]
        self.subscription.change()

    def hears(
        self,
        names: Iterable[str] = (),
        nonce: str = "",
        error: str | None = None,
        *,
        drop: Iterable[str] = (),
        held: Mapping[str, str] | None = None,
    ) -> Accepted | Rejected | None:
        request = Request(self.type_url, nonce, error, frozenset(names), frozenset(drop), held or {})
        verdict = self.subscription.receive(request)
        if isinstance(verdict, Rejected):
            self.nacked |= {resource.digest for resource in verdict.resources.values()}
        return verdict

    def says(self) -> Response | None:
        if not self.subscription.ready:
            return None
        while questions := self.subscription.ask():
            for names in questions:
                found = {n: r for n, r in self.source.items() if names is None or n in names}
                if had := self.subscription.offer(found, frozenset(self.nacked)):
                    self.confirmed.update(had.resources)
        self.nonces += 1
        nonce = f"n{self.nonces}"
        return self.subscription.next_response(nonce, reword) or self.subscription.next_removal(nonce)

    def must_say(self) -> Response:
        response = self.says()
        assert response is not None
        return response

    def sent(self) -> list[str]:
        return [resource.name for resource in self.must_say().resources]


def names_of(response: Response) -> list[str]:
    return [resource.name for resource in response.resources]


# -- nonces


@both
@pytest.mark.parametrize("nonce", ["", "of-a-former-stream"])
def test_the_first_request_is_answered_whatever_nonce_it_carries(delta: bool, nonce: str) -> None:
    server = Server(delta=delta)
    server.has(secret("a"))

    assert server.hears(["a"], nonce) is None
    assert server.sent() == ["a"]


@both
def test_a_first_request_that_looks_like_a_rejection_rejects_nothing(delta: bool) -> None:
    server = Server(delta=delta)
    server.has(secret("a"))

    assert server.hears(["a"], "of-a-former-stream", "bad") is None
    assert server.sent() == ["a"]
    assert not server.subscription.doubt


@both
def test_a_stale_nonce_means_nothing(delta: bool) -> None:
    server = Server(delta=delta)
    server.has(secret("a"))
    server.hears(["a"])
    response = server.must_say()

    assert server.hears([] if delta else ["a"], "stale", "bad") is None
    assert server.says() is None
    assert server.subscription.version_acked == ""
    assert isinstance(server.hears([] if delta else ["a"], response.nonce), Accepted)


def test_names_under_a_stale_nonce_wait_for_the_request_that_repeats_them() -> None:
    server = Server()
    server.has(secret("a"), secret("b"))
    server.hears(["a"])
    first = server.must_say()
    server.hears(["a", "b"], "stale")

    assert server.says() is None
    server.hears(["a", "b"], first.nonce)
    assert server.sent() == ["b"]


@both
def test_an_acknowledgement_is_not_answered(delta: bool) -> None:
    server = Server(delta=delta)
    server.has(secret("a"))
    server.hears(["a"])
    response = server.must_say()
    verdict = server.hears([] if delta else ["a"], response.nonce)

    assert verdict == Accepted({"a": secret("a")}, response.version)
    assert server.subscription.version_acked == response.version
    assert server.says() is None
    assert not server.subscription.pending


@both
def test_the_same_acknowledgement_twice_counts_once(delta: bool) -> None:
    server = Server(delta=delta)
    server.has(secret("a"))
    server.hears(["a"])
    nonce = server.must_say().nonce
    server.hears([] if delta else ["a"], nonce)

    assert server.hears([] if delta else ["a"], nonce) is None


# -- rejections


@both
@pytest.mark.parametrize("type_url", [SDS, RDS, CDS, LDS])
def test_a_rejection_is_not_answered_with_the_same(delta: bool, type_url: str) -> None:
    server = Server(delta=delta, type_url=type_url)
    server.has(secret("a", type_url=type_url))
    server.hears(["a"])
    response = server.must_say()
    verdict = server.hears([] if delta else ["a"], response.nonce, "bad certificate")

    assert isinstance(verdict, Rejected)
    assert verdict.message == "bad certificate"
    assert server.says() is None
    server.subscription.change()  # something else has changed: no reason to send this again
    assert server.says() is None
    assert server.subscription.version_acked == ""


@both
@pytest.mark.parametrize("type_url", [SDS, RDS, CDS, LDS])
def test_after_a_rejection_the_next_different_content_is_sent(delta: bool, type_url: str) -> None:
    server = Server(delta=delta, type_url=type_url)
    server.has(secret("a", type_url=type_url))
    server.hears(["a"])
    server.hears([] if delta else ["a"], server.must_say().nonce, "bad")
    assert server.says() is None
    server.has(secret("a", "2", type_url))
    response = server.must_say()

    assert response.resources == (secret("a", "2", type_url),)
    assert isinstance(server.hears([] if delta else ["a"], response.nonce), Accepted)
    assert server.subscription.version_acked == response.version
    assert not server.subscription.doubt


@both
def test_a_rejection_without_words_is_one(delta: bool) -> None:
    server = Server(delta=delta)
    server.has(secret("a"))
    server.hears(["a"])

    assert isinstance(server.hears([] if delta else ["a"], server.must_say().nonce, ""), Rejected)


@both
def test_the_repaired_secret_goes_alone_and_first(delta: bool) -> None:
    server = Server(delta=delta)
    server.has(secret("context"), secret("leaf"), secret("other"))
    wanted = ["context", "leaf", "other"]
    again = [] if delta else wanted
    server.hears(wanted)
    server.hears(again, server.must_say().nonce)
    server.has(secret("leaf", "bad"))
    server.hears(again, server.must_say().nonce, "KEY_VALUES_MISMATCH")
    assert server.says() is None
    server.has(secret("context", "2"), secret("leaf", "2"), secret("other", "2"))
    first = server.must_say()

    assert names_of(first) == ["leaf"]
    assert server.says() is None, "nothing goes along with it"
    server.hears(again, first.nonce)
    assert server.sent() == ["context", "other"], "with nothing in doubt the others go together again"


@both
def test_bytes_the_node_rejected_on_another_stream_are_sent_in_other_words_and_alone(delta: bool) -> None:
    bad = secret("b")
    server = Server(delta=delta, held_back=[bad.digest])
    server.has(secret("a"), bad)
    server.hears(["a", "b"])
    first = server.must_say()
    server.hears([] if delta else ["a", "b"], first.nonce)
    second = server.must_say()

    assert first.resources == (secret("a"),)
    assert names_of(second) == ["b"]
    assert second.resources[0].digest != bad.digest
    assert second.resources[0].version == bad.version


def test_a_secret_rejected_again_in_other_words_waits_for_other_content() -> None:
    server = Server(held_back=[secret("a").digest])
    server.has(secret("a"))
    server.hears(["a"])
    rounds = 0
    while response := server.says():
        rounds += 1
        assert rounds < 5, "it spins"
        server.hears(["a"], response.nonce, "bad")

    assert rounds == 1
    server.has(secret("a", "2"))
    assert server.must_say().resources == (secret("a", "2"),)


# -- names


def test_order_and_repetition_of_names_mean_nothing() -> None:
    server = Server()
    server.has(secret("a"), secret("b"))
    server.hears(["b", "a", "b", ""])
    response = server.must_say()
    server.hears(["a", "b"], response.nonce)

    assert sorted(names_of(response)) == ["a", "b"]
    assert server.says() is None


@both
def test_no_names_in_the_first_request_mean_everything(delta: bool) -> None:
    server = Server(delta=delta)
    server.has(secret("a"), secret("b"))
    server.hears()
    response = server.must_say()
    server.hears([], response.nonce)
    assert sorted(names_of(response)) == ["a", "b"]
    server.has(secret("c"))

    assert server.sent() == ["c"]


def test_no_names_after_some_mean_nothing_any_more() -> None:
    server = Server()
    server.has(secret("a"))
    server.hears(["a"])
    server.hears([], server.must_say().nonce)
    server.has(secret("a", "2"), secret("b"))

    assert server.says() is None
    server.hears(["b"], "n1")
    assert server.sent() == ["b"]


def test_everything_narrowed_to_an_absent_name_before_the_answer_is_not_answered_with_nothing() -> None:
    server = Server()
    server.has(secret("b"))
    server.hears()
    server.hears(["a"])

    assert server.says() is None
    server.has(secret("a"))
    assert server.sent() == ["a"]


@both
def test_everything_is_answered_even_if_there_is_nothing(delta: bool) -> None:
    server = Server(delta=delta)
    server.hears()

    assert server.must_say().resources == ()
    assert server.says() is None


@both
def test_a_name_that_comes_into_being_later_is_sent_then(delta: bool) -> None:
    server = Server(delta=delta)
    server.hears(["a"])
    before = server.says()
    assert before is None or before.removed == ("a",)
    if before is not None:
        server.hears([], before.nonce)
    server.has(secret("a"))

    assert server.sent() == ["a"]


@pytest.mark.parametrize("type_url", [CDS, LDS])
def test_listeners_and_clusters_come_as_the_full_set_in_sotw(type_url: str) -> None:
    server = Server(type_url=type_url)
    server.has(secret("a", type_url=type_url), secret("b", type_url=type_url))
    server.hears()
    server.hears([], server.must_say().nonce)
    server.has(secret("b", "2", type_url))
    changed = server.must_say()
    server.hears([], changed.nonce)
    server.loses("a")

    assert names_of(changed) == ["a", "b"]
    assert server.sent() == ["b"]


# -- delta


def test_delta_sends_only_what_changed_and_says_what_is_gone() -> None:
    server = Server(delta=True)
    server.has(secret("a"), secret("b"))
    server.hears(["a", "b"])
    server.hears([], server.must_say().nonce)
    server.has(secret("b", "2"))
    changed = server.must_say()
    server.hears([], changed.nonce)
    server.loses("a")
    gone = server.must_say()

    assert names_of(changed) == ["b"]
    assert (gone.resources, gone.removed) == ((), ("a",))
    server.hears([], gone.nonce)
    assert server.says() is None


def test_delta_a_name_subscribed_to_again_is_answered_again() -> None:
    server = Server(delta=True)
    server.has(secret("a"))
    server.hears(["a"])
    server.hears([], server.must_say().nonce)
    server.hears(["a"])

    assert server.sent() == ["a"]


def test_delta_unsubscribed_names_are_not_sent() -> None:
    server = Server(delta=True)
    server.has(secret("a"), secret("b"))
    server.hears(["a", "b"])
    server.hears([], server.must_say().nonce)
    server.hears([], drop=["a"])
    server.has(secret("a", "2"), secret("b", "2"))

    assert server.sent() == ["b"]


def test_delta_reconnect_with_present_versions_sends_nothing_and_confirms_them() -> None:
    server = Server(delta=True)
    server.has(secret("a"), secret("b"))
    server.hears(["a", "b"], held={"a": "v1", "b": "v1"})

    assert server.subscription.held == {"a": "v1", "b": "v1"}
    assert server.says() is None
    assert server.confirmed.keys() == {"a", "b"}


def test_delta_reconnect_sends_what_changed_meanwhile_and_what_is_gone() -> None:
    server = Server(delta=True)
    server.has(secret("a", "2"), secret("b"))
    server.hears(["a", "b", "gone"], held={"a": "v1", "b": "v1", "gone": "v1"})
    changed = server.must_say()
    server.hears([], changed.nonce)

    assert names_of(changed) == ["a"]
    assert server.must_say().removed == ("gone",)
    assert server.confirmed.keys() == {"b"}


def test_delta_reconnect_of_a_wildcard_sends_nothing_it_has() -> None:
    server = Server(delta=True, type_url=LDS)
    server.has(secret("a", type_url=LDS))
    server.hears(held={"a": "v1"})

    assert server.says() is None
    server.has(secret("b", type_url=LDS))
    assert server.sent() == ["b"]


def test_delta_held_version_of_rejected_bytes_confirms_nothing() -> None:
    server = Server(delta=True, held_back=[secret("a").digest])
    server.has(secret("a"))
    server.hears(["a"], held={"a": "v1"})
    response = server.must_say()

    assert not server.confirmed
    assert response.resources[0].digest != secret("a").digest


# -- what the client has kept


def test_what_is_taken_back_before_the_client_let_go_of_it_counts_as_accepted() -> None:
    server = Server(type_url=RDS)
    server.has(secret("a", type_url=RDS))
    server.hears(["a"])
    server.hears(["a"], server.must_say().nonce)
    server.loses("a")
    assert server.says() is None
    server.confirmed.clear()

    server.has(secret("a", type_url=RDS))

    assert server.says() is None
    assert set(server.confirmed) == {"a"}


def test_what_is_under_way_or_was_rejected_does_not_count_as_accepted() -> None:
    server = Server(type_url=RDS)
    server.has(secret("a", type_url=RDS))
    server.hears(["a"])
    nonce = server.must_say().nonce
    server.subscription.change()
    server.subscription.lose_patience()
    assert server.says() is None
    server.hears(["a"], nonce, "bad")
    server.subscription.change()
    assert server.says() is None
    assert not server.confirmed
