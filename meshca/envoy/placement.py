"""Where one Envoy listens: what its operator chose with `envoy bootstrap`, told in node.metadata.

Rules kept here:
- Addresses are IP literals: Envoy binds no host names.
- The metadata comes from the Envoy, so it is parsed strictly: an unknown key or a wrong type is refused, never ignored.
- The egress side speaks with the node's identity for whoever reaches it; anything but loopback is warned about.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from meshca.errors import InvalidInputError

METADATA_KEY = "meshca"

_PORT = re.compile(r"[1-9][0-9]{0,4}")
_MAX_PORT = 65535
_MAX_TEXT = 64
_INTERCEPTED = "intercepted"
_KEYS = ("ingress", "egress", "app", _INTERCEPTED)


class PlacementError(InvalidInputError):
    """A placement breaks a rule."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The addresses of one Envoy; without an ingress port the node's own listener port is used."""

    ingress_host: str = "0.0.0.0"  # noqa: S104 - a sidecar's ingress serves the whole network, as App Mesh's did
    ingress_port: int | None = None
    egress_host: str = "127.0.0.1"
    app_host: str = "127.0.0.1"
    intercepted: bool = False
    """Whether the kernel sends all traffic here (iptables REDIRECT), as App Mesh's images had it."""

    @classmethod
    def parse(
        cls, ingress: str | None = None, egress: str | None = None, app: str | None = None, intercepted: str = "no"
    ) -> Placement:
        """Return the placement for ``HOST[:PORT]``, ``HOST``, ``HOST`` and ``yes`` as an operator writes them.

        Raises:
            PlacementError: one of them is no IP literal, the port is out of range, or it says neither yes nor no.
        """
        default = cls()
        host, port = (default.ingress_host, None) if ingress is None else _host_and_port(ingress)
        return cls(
            host,
            port,
            default.egress_host if egress is None else _ip(egress, "egress"),
            default.app_host if app is None else _ip(app, "app"),
            _yes_or_no(intercepted),
        )

    def metadata(self) -> dict[str, dict[str, str]]:
        """Return the node.metadata that says the same; `placement_of` reads it back."""
        host = f"[{self.ingress_host}]" if ":" in self.ingress_host else self.ingress_host
        ingress = host if self.ingress_port is None else f"{host}:{self.ingress_port}"
        intercepted = {_INTERCEPTED: "yes"} if self.intercepted else {}
        return {METADATA_KEY: {"ingress": ingress, "egress": self.egress_host, "app": self.app_host, **intercepted}}

    def warnings(self) -> tuple[str, ...]:
        """Return what an operator should know before using this placement."""
        if ipaddress.ip_address(self.egress_host).is_loopback:
            return ()
        return (f"egress on {self.egress_host}: whoever reaches this address speaks with the node's identity",)


def placement_of(metadata: Mapping[str, object]) -> Placement:
    """Return the placement that node.metadata tells; without any, the default.

    Raises:
        PlacementError: the metadata breaks a rule.
    """
    told = metadata.get(METADATA_KEY)
    if told is None:
        return Placement()
    if not isinstance(told, Mapping):
        raise PlacementError("is not an object", field=f"node.metadata.{METADATA_KEY}", value=str(told)[:_MAX_TEXT])
    if unknown := sorted(str(key) for key in told.keys() - set(_KEYS)):
        raise PlacementError(
            "unknown key", field=f"node.metadata.{METADATA_KEY}", value=unknown[0], remedy=", ".join(_KEYS)
        )
    return Placement.parse(**{str(key): _text(str(key), value) for key, value in told.items()})


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise PlacementError(
            f"is not a text of at most {_MAX_TEXT} characters",
            field=f"node.metadata.{METADATA_KEY}.{key}",
            value=str(value)[:_MAX_TEXT],
        )
    return value


def _host_and_port(text: str) -> tuple[str, int | None]:
    """Split ``HOST``, ``HOST:PORT`` and ``[HOST]:PORT``; an IPv6 with a port needs brackets (RFC 3986 §3.2.2)."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise PlacementError("is not HOST[:PORT]", field="ingress", value=text, remedy="write [::1]:15000")
        return _ip(host, "ingress"), _port(rest[1:]) if rest else None
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return _ip(host, "ingress"), _port(port)
    return _ip(text, "ingress"), None


def _ip(text: str, field: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise PlacementError(
            "is not an IP address", field=field, value=text, remedy="write an IP literal; Envoy binds no host names"
        ) from None
    if getattr(address, "scope_id", None):
        raise PlacementError("has a zone", field=field, value=text, remedy="write the address without %zone")
    return str(address)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > _MAX_PORT:
        raise PlacementError("the port is a number from 1 to 65535", field="ingress", value=text)
    return int(text)


def _yes_or_no(text: str) -> bool:
    if text not in {"yes", "no"}:
        raise PlacementError("is neither yes nor no", field=_INTERCEPTED, value=text)
    return text == "yes"
