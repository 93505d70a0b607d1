"""The pods of a node, as its kubelet or the API server lists them.

Rules this module keeps:
- Namespace, name and service account of a pod never change, so a pod that was found is not asked for again.
- Nobody makes us ask without end: a pod that isn't there is asked for again after a second at the earliest.
- An event loop never asks and never waits for who does: there, what is remembered counts. Ask in a thread first.
- The list is bounded and read strictly; a pod that says too little is none, and so is one of another node.
- The server is checked against a CA and never followed elsewhere; the token is read anew each time, for it rotates.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from meshca.errors import InvalidInputError, UnavailableError

_log = structlog.get_logger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HOST, _PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NODE = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_MOST_BYTES = 64 * 1024 * 1024
_PATIENCE = 5.0
_PAUSE = 1.0


class PodsUnavailableError(UnavailableError):
    """The list of pods can't be had."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What a selector may ask of a pod."""

    uid: str
    namespace: str
    name: str
    service_account: str


class Pods(Protocol):
    """Who knows the pods of this node."""

    def find(self, uid: str) -> Pod | None:
        """Return the pod with this UID, or None if there is none or nobody can say."""


class PodList:
    """Remembers the pods that ``fetch`` lists (the bytes of a PodList), and asks again for one it doesn't know.

    With a ``node`` only pods of this node count, whatever is listed.
    """

    def __init__(
        self, fetch: Callable[[], bytes], monotonic: Callable[[], float] = time.monotonic, node: str = ""
    ) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._node = node
        self._pods: dict[str, Pod] = {}
        self._again_at = float("-inf")
        self._lock = threading.Lock()

    def find(self, uid: str) -> Pod | None:
        """Return the pod with this UID, or None if there is none or nobody can say."""
        found = self._pods.get(uid)  # replaced as a whole, so it is read without the lock
        if found is not None or _on_event_loop():
            return found
        # Whoever is behind one that asks waits, but not for as long as a dead server takes: threads are few.
        if not self._lock.acquire(timeout=_PAUSE):
            return None
        try:
            if uid not in self._pods and self._monotonic() >= self._again_at:
                self._ask()
        finally:
            self._lock.release()
        return self._pods.get(uid)

    def _ask(self) -> None:
        try:
            self._pods = {pod.uid: pod for pod in parse_pods(self._fetch(), self._node)}
        except UnavailableError as error:
            _log.warning("the pods of this node are not known", reason=str(error))
        self._again_at = self._monotonic() + _PAUSE


def pods_of_node(node: str, environ: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> PodList:
    """Return the pods of a node as the API server of the pod that we are lists them to this pod's service account.

    Raises:
        InvalidInputError: it is no name of a node, or we are in no pod.
    """
    if not _NODE.fullmatch(node):
        raise InvalidInputError(
            "this is no name of a node", field="--kubernetes-node", value=node, remedy="give the pod's spec.nodeName"
        )
    host, port = environ.get(_HOST, ""), environ.get(_PORT, "")
    if not host or not port:
        raise InvalidInputError(
            f"{_HOST} and {_PORT} don't say where the API server is",
            field="--kubernetes-node",
            value=node,
            remedy="it is for pods of a Kubernetes cluster, which have both; leave it out elsewhere",
        )
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    url = f"https://{server}/api/v1/pods?fieldSelector=spec.nodeName%3D{node}"
    return PodList(fetch_pods(url, account / "token", account / "ca.crt"), node=node)


def parse_pods(raw: bytes, node: str = "") -> tuple[Pod, ...]:
    """Return the pods of a PodList; with a ``node``, those that are bound to it.

    Raises:
        PodsUnavailableError: it is none.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise PodsUnavailableError("the list of pods is no JSON") from error
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise PodsUnavailableError("the list of pods has no items")
    here = (item for item in items if not node or _part(item, "spec").get("nodeName") == node)
    return tuple(pod for item in here if (pod := _pod(item)) is not None)


def fetch_pods(url: str, token_file: Path, ca_file: Path) -> Callable[[], bytes]:
    """Return what asks a kubelet (`https://NODE:10250/pods`) or an API server (`…/api/v1/pods?fieldSelector=…`)."""

    def fetch() -> bytes:
        import requests

        try:
            headers = {"Authorization": f"Bearer {token_file.read_text('ascii').strip()}"}
            with requests.Session() as session:
                session.trust_env = False  # no proxy and no .netrc: the token goes to this server alone
                with session.get(
                    url, headers=headers, verify=str(ca_file), timeout=_PATIENCE, allow_redirects=False, stream=True
                ) as reply:
                    return _body(reply, url)
        except (requests.RequestException, OSError, ValueError) as error:
            # Its text may quote the header.
            raise PodsUnavailableError(f"the list of pods can't be had: {type(error).__name__}", value=url) from None

    return fetch


def _body(reply: Any, url: str) -> bytes:
    if reply.status_code != 200:
        raise PodsUnavailableError(f"the list of pods can't be had: HTTP {reply.status_code}", value=url)
    raw = bytearray()
    for chunk in reply.iter_content(64 * 1024):
        raw += chunk
        if len(raw) > _MOST_BYTES:
            raise PodsUnavailableError(f"the list of pods has more than {_MOST_BYTES} bytes", value=url)
    return bytes(raw)


def _pod(item: object) -> Pod | None:
    metadata, spec = _part(item, "metadata"), _part(item, "spec")
    values = (metadata.get("uid"), metadata.get("namespace"), metadata.get("name"), spec.get("serviceAccountName"))
    # A static pod has no service account; it has its other selectors.
    uid, namespace, name, account = (value if isinstance(value, str) else "" for value in values)
    return Pod(uid, namespace, name, account) if uid and namespace and name else None


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _part(item: object, name: str) -> dict[str, object]:
    found = item.get(name) if isinstance(item, dict) else None
    return found if isinstance(found, dict) else {}
