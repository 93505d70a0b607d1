"""``[attest…]`` of ``meshca.toml``: who, beside the holders of join tokens, may be an agent.

    [attest.kubernetes.CLUSTER]
    issuer = "https://kubernetes.default.svc.cluster.local"
    audience = "meshca"
    jwks = "/etc/meshca/cluster.jwks"
    service_accounts = ["meshca:agent"]

    [attest.aws]
    regions = ["eu-central-1"]
    roles = ["123456789012/mesh-agent"]

Rules: nobody may who isn't named here; what is wrong is an error whose ``field`` is the key that is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshca.attest.aws import Allowed
from meshca.attest.jws import JwksError, parse_jwks
from meshca.attest.kubernetes import Expected
from meshca.errors import InvalidInputError, UnavailableError

SECTION = "attest"
_KUBERNETES = ("issuer", "audience", "jwks", "service_accounts")
_AWS = ("regions", "roles")


class AttestorError(InvalidInputError):
    """The configuration of an attestor breaks a rule."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kubernetes cluster, and the file with its keys."""

    expected: Expected
    jwks: Path


@dataclass(frozen=True, slots=True)
class Attestors:
    """Who may be an agent, beside the holders of join tokens."""

    clusters: tuple[Cluster, ...] = ()
    regions: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()


NOBODY: Attestors = Attestors()


def read_attestors(document: object) -> Attestors:
    """Read what stands under ``[attest]``.

    Raises:
        InvalidInputError: It breaks a rule.
    """
    found = _section(document or {}, SECTION, ("kubernetes", "aws"))
    clusters = _section(found.get("kubernetes", {}), f"{SECTION}.kubernetes", None)
    aws = _section(found.get("aws", {}), f"{SECTION}.aws", _AWS)
    regions, roles = (frozenset(_texts(aws, f"{SECTION}.aws", key)) for key in _AWS)
    Allowed("check.test", regions, roles)
    return Attestors(tuple(_cluster(name, content) for name, content in clusters.items()), regions, roles)


def written(attestors: Attestors) -> list[str]:
    """Return the lines that ``read_attestors`` reads back as the same."""
    lines: list[str] = []
    for cluster in attestors.clusters:
        said, accounts = cluster.expected, sorted(":".join(one) for one in cluster.expected.service_accounts)
        lines += ["", f"[{SECTION}.kubernetes.{said.cluster}]", f"issuer = {json.dumps(said.issuer)}"]
        lines += [f"audience = {json.dumps(said.audience)}", f"jwks = {json.dumps(str(cluster.jwks))}"]
        lines.append(f"service_accounts = {json.dumps(accounts)}")
    if attestors.roles or attestors.regions:
        lines += ["", f"[{SECTION}.aws]", f"regions = {json.dumps(sorted(attestors.regions))}"]
        lines.append(f"roles = {json.dumps(sorted(attestors.roles))}")
    return lines


def read_jwks(path: Path) -> bytes:
    """Return what a file with keys holds.

    Raises:
        UnavailableError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror}", field="jwks") from error


def _cluster(name: str, content: object) -> Cluster:
    where = f"{SECTION}.kubernetes.{name}"
    said = _section(content, where, _KUBERNETES)
    for key in ("issuer", "audience", "jwks"):
        if not isinstance(said.get(key), str) or not said[key]:
            raise AttestorError("is text, and must be given", field=f"{where}.{key}")
    accounts = [tuple(account.split(":")) for account in _texts(said, where, "service_accounts")]
    if not accounts or any(len(account) != 2 or not all(account) for account in accounts):
        raise AttestorError("is a list of NAMESPACE:NAME", field=f"{where}.service_accounts")
    pairs = frozenset((account[0], account[1]) for account in accounts)
    cluster = Cluster(Expected(name, said["issuer"], said["audience"], pairs), Path(said["jwks"]))
    try:
        parse_jwks(read_jwks(cluster.jwks))  # what is wrong with it is said at the start
    except (JwksError, UnavailableError) as error:
        raise AttestorError(str(error), field=f"{where}.jwks", value=said["jwks"]) from error
    return cluster


def _section(content: object, where: str, known: tuple[str, ...] | None) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise AttestorError("is a section", field=where, remedy=f"write it as [{where}]")
    for key in content:
        if known is not None and key not in known:
            raise AttestorError("unknown key", field=f"{where}.{key}", remedy=f"[{where}] knows {', '.join(known)}")
    return content


def _texts(content: Mapping[str, Any], where: str, key: str) -> list[str]:
    value = content.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise AttestorError("is a list of texts", field=f"{where}.{key}", remedy='write it like ["a", "b"]')
    return value
