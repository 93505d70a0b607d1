"""What a port serves: the proof that a program has taken up its new certificate.

The rules this module keeps:
- The port has to show exactly the new leaf, with a chain that is good under the new bundle and CRLs, several times in a
  row: old workers of a server that has been told to reload may answer for a moment longer.
- Our own certificate is shown where the port asks for one, so that mutual TLS is no obstacle.
- Everything has a deadline. What a port sends is compared, never trusted.
"""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.drop.layouts import Layout
from meshca.drop.material import CRL_FILE, Material, serial_text
from meshca.drop.timing import Timer
from meshca.errors import MeshcaError

Protocol = Literal["tls", "postgres"]

IN_A_ROW = 3
_PAUSE = 0.05
_HANDSHAKE = 2.0
# PostgreSQL's protocol, "SSLRequest": eight bytes, of which these are the second half; the answer is S or N.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class NotServedError(MeshcaError):
    """The port does not serve the new certificate; the files are in place, and the reload will be tried again."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that is to serve what was dropped."""

    host: str
    port: int
    protocol: Protocol = "tls"
    server_name: str = ""
    timeout: float = 10.0

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def require_served(port: Port, material: Material, files: Path, layout: Layout, timer: Timer) -> None:
    """Look now whether the port serves the material, which lies in ``files``.

    Raises:
        NotServedError: it does not.
    """
    context = _context(material, files, layout)
    wanted = material.leaf.public_bytes(Encoding.DER)
    for number in range(IN_A_ROW):
        if number:
            timer.sleep(_PAUSE)
        if problem := _problem(port, context, wanted):
            raise NotServedError(f"{port} does not serve certificate {material.serial}: {problem}")


def _context(material: Material, files: Path, layout: Layout) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Whose name it is was decided when it was issued; here the very certificate is compared.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    check = ssl.VERIFY_CRL_CHECK_LEAF if material.leaf_crl_only else ssl.VERIFY_CRL_CHECK_CHAIN
    context.verify_flags |= check
    context.load_verify_locations(cafile=str(files / layout.bundle))
    context.load_verify_locations(cafile=str(files / CRL_FILE))
    context.load_cert_chain(str(files / layout.certificate), str(files / layout.key))
    return context


def _problem(port: Port, context: ssl.SSLContext, wanted: bytes) -> str:
    """Return why the port does not serve the certificate, or nothing."""
    try:
        served = _served(port, context)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is refused: {error.verify_message}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
    return "" if served == wanted else f"it serves {_serial(served)}"


def _served(port: Port, context: ssl.SSLContext) -> bytes:
    with socket.create_connection((port.host, port.port), timeout=_HANDSHAKE) as plain:
        if port.protocol == "postgres":
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                raise ValueError("PostgreSQL does not offer TLS there")
        with context.wrap_socket(plain, server_hostname=port.server_name or None) as secured:
            return secured.getpeercert(binary_form=True) or b""


def _serial(der: bytes) -> str:
    try:
        return f"certificate {serial_text(x509.load_der_x509_certificate(der))}"
    except ValueError:
        return "a certificate that cannot be read"
