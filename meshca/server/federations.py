"""What the stored federations mean, and how an administrator's wish becomes one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import urlsplit

import structlog

from meshca.errors import InvalidInputError, MeshcaError
from meshca.spiffe import foreign, reserved
from meshca.spiffe.foreign import ForeignBundle
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.store.federation import HTTPS_SPIFFE, HTTPS_WEB, Endpoint, Federation

_log = structlog.get_logger(__name__)

_LONGEST_URL = 2048
_URL = re.compile(r"https://[!-~]+")

parsed = lru_cache(maxsize=128)(foreign.parse)


def bundles_of(federations: Iterable[Federation]) -> Mapping[TrustDomain, ForeignBundle]:
    """Return the bundles of federated trust domains; one without roots vouches for nobody, and is left out."""
    found: dict[TrustDomain, ForeignBundle] = {}
    for federation in federations:
        trust_domain = federation.endpoint.trust_domain
        try:
            bundle = parsed(federation.bundle, trust_domain) if federation.bundle else None
        except MeshcaError as error:  # a stricter version of ourselves
            _log.error("a stored bundle is not to be believed", trust_domain=str(trust_domain), reason=str(error))
            continue
        if bundle is not None and bundle.roots:
            found[trust_domain] = bundle
    return MappingProxyType(found)


def endpoint_of(trust_domain: str, url: str, profile: str, endpoint_id: str) -> Endpoint:
    """Read where a bundle is to be had (SPIFFE Federation §5.1, §5.2).

    Raises:
        InvalidInputError: It breaks a rule.
    """
    named = TrustDomain(trust_domain)
    profile = profile or HTTPS_SPIFFE
    if profile not in {HTTPS_SPIFFE, HTTPS_WEB}:
        raise InvalidInputError("no such profile", field="profile", value=profile, remedy="https_spiffe or https_web")
    if profile == HTTPS_WEB:
        if endpoint_id:
            raise InvalidInputError("https_web knows its server by its host name", field="endpoint-id")
        return Endpoint(named, _require_url(url), profile)
    server = SpiffeId.parse(endpoint_id) if endpoint_id else reserved.federation(named)
    if server.is_trust_domain:
        raise InvalidInputError("a server's SPIFFE ID has a path", field="endpoint-id", value=endpoint_id)
    return Endpoint(named, _require_url(url), profile, server)


def _require_url(url: str) -> str:
    """Raise unless it is https, to a host, without user and fragment (SPIFFE Federation §5.2.1)."""
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and parts.username is None and parts.password is None and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not _URL.fullmatch(url) or len(url) > _LONGEST_URL or "#" in url or "\\" in url:
        raise InvalidInputError(
            "not the URL of a bundle endpoint (SPIFFE Federation §5.2.1)",
            field="url",
            value=url,
            remedy="write it like https://host:8444/ , without user, password and fragment",
        )
    return url
