"""An agent that is a Kubernetes pod, known by its projected service-account token.

Rules kept here:
- K1 Issuer and audience are exactly those configured; a token for the API server, or for us and others, is refused.
- K2 It is valid now, and was given for a day at most: the tokens that Kubernetes extends to a year are not taken.
- K3 It is of an allowed service account, and bound to a pod and its node: it ends with the pod (Kubernetes 1.32 and
  later say the node; before, there is nothing that tells one agent from another).
- K4 Subject and private claims say the same.
- Who is who is decided here from the token alone: no call to the API server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from meshca.attest.jws import Jwks, TokenError, parse_token, verify
from meshca.errors import InvalidInputError, RefusedError

LONGEST_LIFE = timedelta(days=1)
_SKEW = timedelta(minutes=1)
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_CLUSTER = re.compile(_LABEL)
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LONGEST_NAME = 253


class ClusterError(InvalidInputError):
    """A cluster that can't be configured so."""


class NotAllowedError(RefusedError):
    """The token is good, and this service account may not be an agent."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a cluster's tokens must say; ``service_accounts`` are (namespace, name) of those that may be agents."""

    cluster: str
    issuer: str
    audience: str
    service_accounts: frozenset[tuple[str, str]]

    def __post_init__(self) -> None:
        # Without dots, so that the first dot behind it ends it in an agent's id.
        if not _CLUSTER.fullmatch(self.cluster):
            raise ClusterError("a cluster's name is a DNS label", field="cluster", value=self.cluster)
        if not self.issuer or not self.audience:
            raise ClusterError("issuer and audience must be given", field=f"cluster {self.cluster}")


@dataclass(frozen=True, slots=True)
class KubernetesCaller:
    """A pod whose token was checked."""

    cluster: str
    namespace: str
    service_account: str
    pod: str
    pod_uid: str
    node: str

    @property
    def agent_id(self) -> str:
        """Return the id of the agent: one a node."""
        return f"k8s.{self.cluster}.{self.node}"

    @property
    def group(self) -> str:
        """Return what all agents of this service account have in common."""
        return f"k8s.{self.cluster}"


def issuer_of(token: str) -> str:
    """Return which issuer a token claims, to choose whose keys it is checked with; nothing is believed yet.

    Raises:
        TokenError: it is no token.
    """
    issuer = parse_token(token).claims.get("iss")
    return issuer if isinstance(issuer, str) else ""


def check_token(token: str, keys: Jwks, expected: Expected, now: datetime) -> KubernetesCaller:
    """Return the pod that brings a token.

    Raises:
        TokenError: it is not a good token of this cluster (K1, K2, K4), or is bound to no pod and node (K3).
        NotAllowedError: it is, and its service account may not be an agent.
    """
    claims = verify(parse_token(token), keys)
    _require_audience(claims, expected)
    _require_valid(claims, now)
    private = _part(claims, "kubernetes.io")
    namespace = _text(private, "namespace")
    account = _text(_part(private, "serviceaccount"), "name")
    if claims.get("sub") != f"system:serviceaccount:{namespace}:{account}":
        raise TokenError("the token's subject and its kubernetes.io claims differ")
    if (namespace, account) not in expected.service_accounts:
        raise NotAllowedError(
            "this service account may not be an agent", field="service account", value=f"{namespace}:{account}"
        )
    pod = _part(private, "pod")
    pod_uid = pod.get("uid")
    if not isinstance(pod_uid, str) or not _UID.fullmatch(pod_uid):
        raise TokenError("the token's pod has no uid")
    node = _text(_part(private, "node"), "name")
    return KubernetesCaller(expected.cluster, namespace, account, _text(pod, "name"), pod_uid, node)


def _require_audience(claims: Mapping[str, Any], expected: Expected) -> None:
    """K1."""
    if claims.get("iss") != expected.issuer:
        raise TokenError(f"the token is not of the issuer {expected.issuer}")
    if claims.get("aud") not in (expected.audience, [expected.audience]):
        raise TokenError(
            f"the token's audience is not {expected.audience} alone",
            remedy=f"project it with serviceAccountToken.audience: {expected.audience}",
        )


def _require_valid(claims: Mapping[str, Any], now: datetime) -> None:
    """K2."""
    moment = now.timestamp()
    expires, issued = _time(claims, "exp"), _time(claims, "iat")
    not_before = _time(claims, "nbf") if "nbf" in claims else issued
    if moment >= expires:
        raise TokenError("the token has expired")
    if max(not_before, issued) > moment + _SKEW.total_seconds():
        raise TokenError("the token is not valid yet", remedy="compare the clocks of server and cluster")
    if expires - issued > LONGEST_LIFE.total_seconds():
        raise TokenError(
            f"the token was given for more than {LONGEST_LIFE.total_seconds():.0f} s",
            remedy="project it with serviceAccountToken.expirationSeconds: 600",
        )


def _time(claims: Mapping[str, Any], name: str) -> int | float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise TokenError(f"the token has no {name}, in seconds since 1970")
    return value


def _part(claims: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = claims.get(name)
    if not isinstance(found, dict):
        raise TokenError(
            f"the token says no {name}", remedy="use a token projected into a pod, of Kubernetes 1.32 or later"
        )
    return found


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not _NAME.fullmatch(value):
        raise TokenError(f"a {name} in the token's kubernetes.io claims is missing, or is no name in Kubernetes")
    return value
