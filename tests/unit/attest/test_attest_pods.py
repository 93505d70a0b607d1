"""The list of pods, from a server of our own that answers as a kubelet does, and from one that means harm."""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import examples

from meshca.attest import pods as module
from meshca.attest.pods import Pod, PodList, PodsUnavailableError, fetch_pods, parse_pods
from meshca.errors import UnavailableError

UID, OTHER = "0f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b", "1f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b"
WEB = Pod(UID, "shop", "web-1", "web")
BROUGHT = "the-token-of-the-agent"


def item(pod: Pod) -> dict[str, object]:
    metadata = {"uid": pod.uid, "namespace": pod.namespace, "name": pod.name, "labels": {"a": "b"}}
    return {"metadata": metadata, "spec": {"serviceAccountName": pod.service_account, "containers": []}}


def listed(*pods: Pod) -> bytes:
    return json.dumps({"kind": "PodList", "apiVersion": "v1", "items": [item(pod) for pod in pods]}).encode()


class Kubelet(http.server.BaseHTTPRequestHandler):
    """Lists one pod to who brings the token."""

    status: ClassVar[int] = 200
    body: ClassVar[bytes] = listed(WEB)
    seen: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization", "")))
        self.send_response(self.status)
        self.send_header("Location", "https://127.0.0.1:1/elsewhere")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubelet")])
    start = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(start - dt.timedelta(hours=1))
        .not_valid_after(start + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "ca.pem").write_bytes(certificate.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(private)
    (tmp_path / "token").write_text(f"{BROUGHT}\n")
    return tmp_path


@pytest.fixture
def url(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Kubelet, "seen", [])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kubelet) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}/pods"
        server.shutdown()
        thread.join()


def test_a_kubelet_is_asked_with_the_token(url: str, folder: Path) -> None:
    pods = PodList(fetch_pods(url, folder / "token", folder / "ca.pem"))
    assert pods.find(UID) == WEB
    assert Kubelet.seen == [("/pods", f"Bearer {BROUGHT}")]
    assert pods.find(UID) == WEB
    assert len(Kubelet.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 500])
def test_any_other_answer_is_none_and_not_followed(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(Kubelet, "status", status)
    with pytest.raises(PodsUnavailableError, match=f"HTTP {status}"):
        fetch_pods(url, folder / "token", folder / "ca.pem")()


def test_an_endless_list_is_refused(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", len(Kubelet.body) - 1)
    with pytest.raises(PodsUnavailableError, match="more than"):
        fetch_pods(url, folder / "token", folder / "ca.pem")()


@pytest.mark.parametrize("missing", ["token", "ca.pem", "another-ca"])
def test_no_token_and_no_trust_are_errors_without_the_token(url: str, folder: Path, missing: str) -> None:
    if missing == "another-ca":
        import certifi

        (folder / "ca.pem").write_bytes(Path(certifi.where()).read_bytes())
    else:
        (folder / missing).unlink()
    with pytest.raises(PodsUnavailableError) as caught:
        fetch_pods(url, folder / "token", folder / "ca.pem")()
    assert BROUGHT not in str(caught.value)
    assert Kubelet.seen == []


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
