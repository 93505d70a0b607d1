"""The list of pods, from a server of our own that answers as a kubelet does, and from one that means harm."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes.pod_lists import BROUGHT, Lister, item, listed, listing, write_ca
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from unit.mesh.mesh_objects import examples

from meshca.attest import pods as module
from meshca.attest.pods import Pod, PodList, PodsUnavailableError, fetch_pods, parse_pods, pods_of_node
from meshca.errors import InvalidInputError, UnavailableError

UID, OTHER = "0f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b", "1f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b"
WEB = Pod(UID, "shop", "web-1", "web")


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Lister]:
    with listing(tmp_path, listed(WEB)) as found:
        yield found


def fetching(kubelet: Lister) -> Callable[[], bytes]:
    url = f"https://127.0.0.1:{kubelet.server_port}/pods"
    return fetch_pods(url, kubelet.account / "token", kubelet.account / "ca.crt")


def test_a_kubelet_is_asked_with_the_token(kubelet: Lister) -> None:
    pods = PodList(fetching(kubelet))
    assert pods.find(UID) == WEB
    assert kubelet.seen == [("/pods", f"Bearer {BROUGHT}")]
    assert pods.find(UID) == WEB
    assert len(kubelet.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 500])
def test_any_other_answer_is_none_and_not_followed(kubelet: Lister, status: int) -> None:
    kubelet.status = status
    with pytest.raises(PodsUnavailableError, match=f"HTTP {status}"):
        fetching(kubelet)()
    assert len(kubelet.seen) == 1


def test_an_endless_list_is_refused(kubelet: Lister, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", len(kubelet.body) - 1)
    with pytest.raises(PodsUnavailableError, match="more than"):
        fetching(kubelet)()


@pytest.mark.parametrize("missing", ["token", "ca.crt", "another-ca"])
def test_no_token_and_no_trust_are_errors_without_the_token(kubelet: Lister, missing: str) -> None:
    if missing == "another-ca":
        write_ca(kubelet.account)
    else:
        (kubelet.account / missing).unlink()
    with pytest.raises(PodsUnavailableError) as caught:
        fetching(kubelet)()
    assert BROUGHT not in str(caught.value)
    assert kubelet.seen == []


# -- the pods of our node, from the API server


def test_the_api_server_is_asked_for_the_pods_of_our_node_by_our_service_account(kubelet: Lister) -> None:
    kubelet.body = listed(WEB, node="node-1.eu")
    assert pods_of_node("node-1.eu", kubelet.environ, kubelet.account).find(UID) == WEB
    assert kubelet.seen == [("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1.eu", f"Bearer {BROUGHT}")]


@pytest.mark.parametrize("node", ["node-2", "node", "node-11", ""])
def test_a_pod_of_another_node_or_of_none_is_no_pod(kubelet: Lister, node: str) -> None:
    kubelet.body = listed(WEB, node=node)
    assert pods_of_node("node-1", kubelet.environ, kubelet.account).find(UID) is None
    assert len(kubelet.seen) == 1


@pytest.mark.parametrize(
    "node", ["", "Node", "a b", "a,metadata.namespace=x", "a&watch=1", "-a", "a.", "a..b", "a\n", "ä", "a" * 64]
)
def test_what_is_no_name_of_a_node_is_refused(node: str) -> None:
    with pytest.raises(InvalidInputError, match="--kubernetes-node"):
        pods_of_node(node, {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "443"})


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"])
def test_outside_of_a_pod_there_is_no_node(missing: str) -> None:
    with pytest.raises(InvalidInputError, match="leave it out elsewhere"):
        pods_of_node("a", {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "1", missing: ""})


def test_an_api_server_may_have_an_ipv6_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(module, "fetch_pods", lambda url, *_: asked.append(url))
    pods_of_node("a", {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)
    assert asked == ["https://[fd00::1]:443/api/v1/pods?fieldSelector=spec.nodeName%3Da"]


# -- who asks, and when


def test_an_event_loop_neither_asks_nor_waits_for_who_does() -> None:
    asking, answer = threading.Event(), threading.Event()

    def fetch() -> bytes:
        asking.set()
        assert answer.wait(20)
        return listed(WEB)

    pods = PodList(fetch)

    async def on_the_loop() -> None:
        assert pods.find(UID) is None
        assert not asking.is_set()
        waiting = asyncio.create_task(asyncio.to_thread(pods.find, UID))
        assert await asyncio.to_thread(asking.wait, 20)
        assert pods.find(UID) is None, "and at once, while somebody waits for the answer"
        answer.set()
        assert await waiting == WEB
        assert pods.find(UID) == WEB

    asyncio.run(on_the_loop())


def test_nobody_waits_for_long_behind_one_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    asking, answer = threading.Event(), threading.Event()

    def fetch() -> bytes:
        asking.set()
        assert answer.wait(20)
        return listed(WEB)

    pods = PodList(fetch)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pods.find, UID)
        assert asking.wait(20)
        assert pods.find(UID) is None
        answer.set()
        assert first.result() == WEB


def test_a_list_that_cannot_be_had_is_logged_once_a_second(kubelet: Lister) -> None:
    kubelet.status, now = 403, [0.0]
    pods = PodList(fetching(kubelet), lambda: now[0])
    with capture_logs() as logs:
        for moment in (0.0, 0.1, 0.9, 1.0, 1.9):
            now[0] = moment
            assert pods.find(UID) is None
    assert [entry["log_level"] for entry in logs] == ["warning", "warning"]
    assert all("HTTP 403" in entry["reason"] for entry in logs)
    assert BROUGHT not in repr(logs)


def test_one_that_is_not_there_is_asked_for_once_a_second() -> None:
    asked, now = [0.0], [100.0]

    def fetch() -> bytes:
        asked.append(now[0])
        return listed(WEB) if now[0] < 102 else listed(WEB, Pod(OTHER, "shop", "web-2", "web"))

    pods = PodList(fetch, lambda: now[0])
    for moment in (100.0, 100.5, 100.9, 101.0, 101.5, 102.0):
        now[0] = moment
        assert (pods.find(OTHER) is not None) is (moment == 102.0)
        assert pods.find(UID) == WEB
    assert asked[1:] == [100.0, 101.0, 102.0]


def test_a_kubelet_that_fails_takes_nothing_from_pods_known_already() -> None:
    answers: list[bytes | UnavailableError] = [listed(WEB), PodsUnavailableError("gone"), b"{}", listed()]
    now = [0.0]

    def fetch() -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    pods = PodList(fetch, lambda: now[0])
    assert pods.find(UID) == WEB
    for _ in range(2):
        now[0] += 2
        assert pods.find(OTHER) is None
        assert pods.find(UID) == WEB
    now[0] += 2
    assert pods.find(OTHER) is None
    assert answers == []
    now[0] += 0.5
    assert pods.find(UID) is None, "a list without it: the pod is gone"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"{}", b'{"items":{}}', b"\xff", b"[" * 100_000])
def test_what_is_no_list_of_pods_is_refused(raw: bytes) -> None:
    with pytest.raises(PodsUnavailableError):
        parse_pods(raw)


@pytest.mark.parametrize("odd", [None, 1, [], {}, {"metadata": []}, {"metadata": {"uid": UID, "name": 1}}, "pod"])
def test_an_item_that_says_too_little_is_no_pod(odd: object) -> None:
    assert parse_pods(json.dumps({"items": [odd, item(WEB)]}).encode()) == (WEB,)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["items", "metadata", "spec", "uid", "namespace", "name"]), inner)
    ),
    max_leaves=12,
)


@examples(100)
@given(_json)
def test_any_json_is_pods_or_an_error_of_ours(document: object) -> None:
    try:
        found = parse_pods(json.dumps(document).encode())
    except PodsUnavailableError:
        return
    assert all(pod.uid and pod.namespace and pod.name for pod in found)
