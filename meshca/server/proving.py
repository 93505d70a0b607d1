"""How agents prove who they are: by what is configured beside join tokens.

Rules: what is brought is checked by pure functions (``attest``), here it is only read and sent; a JWKS is read anew
each time, so that a cluster's keys may rotate; nothing of what is brought stands in a message.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from meshca.attest import sts
from meshca.attest.aws import Allowed, AwsRequestError, check_request
from meshca.attest.jws import TokenError, parse_jwks
from meshca.attest.kubernetes import check_token, issuer_of
from meshca.authority.ports import Clock
from meshca.server.attestors import Attestors, Cluster, read_jwks
from meshca.spiffe.id import TrustDomain
from meshca.x509.csr import check_csr


@dataclass(frozen=True, slots=True)
class Proven:
    """Who it is, and what is used up by that."""

    agent_id: str
    token_hash: str = field(default="", repr=False)


Method = Callable[[bytes, bytes], Awaitable[Proven]]
"""Says whom a payload proves, given the CSR that came with it."""


def methods(
    attestors: Attestors, trust_domain: TrustDomain, clock: Clock, send: sts.Send = sts.send
) -> Mapping[str, Method]:
    """Return the methods that are configured, by their names."""
    found: dict[str, Method] = {}
    if attestors.clusters:
        found["k8s_sa"] = _kubernetes({c.expected.issuer: c for c in attestors.clusters}, clock.now)
    if attestors.roles:
        allowed = Allowed(str(trust_domain), attestors.regions, attestors.roles)
        found["aws_iam"] = _aws(allowed, clock.now, send)
    return found


def _kubernetes(clusters: Mapping[str, Cluster], now: Callable[[], datetime]) -> Method:
    async def prove(payload: bytes, _: bytes) -> Proven:
        token = _text(payload)
        cluster = clusters.get(issuer_of(token))
        if cluster is None:
            raise TokenError("the token is of no cluster that is configured")
        raw = await asyncio.to_thread(read_jwks, cluster.jwks)
        return Proven(check_token(token, parse_jwks(raw), cluster.expected, now()).agent_id)

    return prove


def _aws(allowed: Allowed, now: Callable[[], datetime], send: sts.Send) -> Method:
    async def prove(payload: bytes, csr: bytes) -> Proven:
        url, headers = _signed_request(payload)
        key = hashlib.sha256(check_csr(csr, None).spki).hexdigest()
        call = check_request(url, headers, allowed, key_sha256=key, now=now())
        return Proven(sts.identity(await asyncio.to_thread(send, call), allowed).agent_id)

    return prove


def _signed_request(payload: bytes) -> tuple[str, Mapping[str, str]]:
    try:
        said = json.loads(_text(payload))
    except ValueError:
        said = None  # without its cause: that one quotes what is a credential
    match said:
        case {"url": str(url), "headers": dict(headers)}:
            return url, {str(name): str(value) for name, value in headers.items()}
    raise AwsRequestError("not a signed request: a JSON object with url and headers")


def _text(payload: bytes) -> str:
    try:
        return payload.decode("ascii")
    except UnicodeDecodeError:
        raise TokenError("what was brought is not text") from None
