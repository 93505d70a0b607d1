"""A server of our own that lists pods over TLS as a kubelet or an API server does, or as one that means harm would."""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshca.attest.pods import Pod

BROUGHT = "the-token-of-the-agent"


def item(pod: Pod, node: str = "") -> dict[str, object]:
    """Return a pod as it stands in a list."""
    metadata = {"uid": pod.uid, "namespace": pod.namespace, "name": pod.name, "labels": {"a": "b"}}
    spec = {"serviceAccountName": pod.service_account, "containers": []} | ({"nodeName": node} if node else {})
    return {"metadata": metadata, "spec": spec}


def listed(*pods: Pod, node: str = "") -> bytes:
    """Return a PodList."""
    items = [item(pod, node) for pod in pods]
    return json.dumps({"kind": "PodList", "apiVersion": "v1", "items": items}).encode()


class Lister(http.server.ThreadingHTTPServer):
    """Answers every request with this body, and remembers who asked."""

    def __init__(self, body: bytes, account: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.body = body
        self.seen: list[tuple[str, str]] = []
        self.account = account
        """Where the token of a service account and the CA of this server lie."""

    @property
    def environ(self) -> dict[str, str]:
        """Return what a pod of the cluster is told of this server."""
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.server_port)}

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Lister

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization", "")))
        self.send_response(self.server.status)
        self.send_header("Location", f"https://127.0.0.1:{self.server.server_port}/elsewhere")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def listing(folder: Path, body: bytes) -> Iterator[Lister]:
    """Run a lister; ``folder`` becomes that of the service account."""
    write_ca(folder)
    (folder / "token").write_text(f"{BROUGHT}\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "key.pem")
    with Lister(body, folder) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def write_ca(folder: Path) -> None:
    """Write a new CA of 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubelet")])
    start = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start - dt.timedelta(hours=1))
        .not_valid_after(start + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(certificate.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
