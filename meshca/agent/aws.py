"""An agent with an AWS role: a GetCallerIdentity request, signed here and sent by the server (rules in ``attest.aws``).

Rules: the credentials never leave this process, only a signature that is good for one minute, for this trust domain and
for the key of the CSR beside it; they are found where AWS's own SDKs find them: environment, ECS (its container
credentials), EC2 (instance metadata, version 2 only).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from meshca.attest.aws import KEY_HEADER, SERVER_HEADER, SIGNED_HEADERS
from meshca.errors import UnavailableError

_ECS, _EC2 = "http://169.254.170.2", "http://169.254.169.254"
_ROLE_PATH = "/latest/meta-data/iam/security-credentials/"
_PATIENCE = 2.0
_SECONDS = "60"
_EMPTY = hashlib.sha256(b"").hexdigest()
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"})


class NoCredentialsError(UnavailableError):
    """There are no credentials of a role here."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Those of a role, for some hours."""

    access_key: str
    secret: str = field(repr=False)
    session: str = field(repr=False)


def signed_request(credentials: Credentials, region: str, trust_domain: str, key_sha256: str, now: datetime) -> bytes:
    """Return a payload: a URL signed over this trust domain and this key (AWS Signature Version 4, in the query)."""
    suffix = ".cn" if region.startswith("cn-") else ""
    host, moment = f"sts.{region}.amazonaws.com{suffix}", now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{region}/sts/aws4_request"
    parameters = {
        "Action": "GetCallerIdentity",
        "Version": "2011-06-15",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": _SECONDS,
        "X-Amz-SignedHeaders": ";".join(SIGNED_HEADERS),
        **({"X-Amz-Security-Token": credentials.session} if credentials.session else {}),
    }
    headers = {SERVER_HEADER: trust_domain, KEY_HEADER: key_sha256}
    query = urlencode(sorted(parameters.items()), quote_via=quote, safe="-_.~")
    said = {"host": host, **headers}
    lines = ["GET", "/", query, *(f"{name}:{said[name]}" for name in SIGNED_HEADERS), "", ";".join(SIGNED_HEADERS)]
    canonical = hashlib.sha256("\n".join([*lines, _EMPTY]).encode()).hexdigest()
    signature = f"AWS4{credentials.secret}".encode()
    for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{canonical}"):
        signature = hmac.digest(signature, part.encode(), "sha256")
    url = f"https://{host}/?{query}&X-Amz-Signature={signature.hex()}"
    return json.dumps({"url": url, "headers": headers}).encode()


def credentials(environ: Mapping[str, str] = os.environ) -> Credentials:
    """Return the credentials of this task's or instance's role.

    Raises:
        NoCredentialsError: There are none.
    """
    if access := environ.get("AWS_ACCESS_KEY_ID"):
        return Credentials(access, environ.get("AWS_SECRET_ACCESS_KEY", ""), environ.get("AWS_SESSION_TOKEN", ""))
    if (path := environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")) is not None:
        return _credentials(_get(f"{_ECS}{path}", {}))
    if (url := environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")) is not None:
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise NoCredentialsError("AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor of this host")
        return _credentials(_get(url, _authorization(environ)))
    token = _put(f"{_EC2}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    bearer = {"X-aws-ec2-metadata-token": token}
    role = _get(f"{_EC2}{_ROLE_PATH}", bearer).strip()
    return _credentials(_get(f"{_EC2}{_ROLE_PATH}{quote(role, safe='')}", bearer))


def _authorization(environ: Mapping[str, str]) -> dict[str, str]:
    token = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
    if file := environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        try:
            token = Path(file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise NoCredentialsError("the container's authorization token cannot be read", value=file) from None
    return {"Authorization": token} if token else {}


def _credentials(text: str) -> Credentials:
    try:
        said: Any = json.loads(text)
        return Credentials(said["AccessKeyId"], said["SecretAccessKey"], said.get("Token", ""))
    except (ValueError, KeyError, TypeError):
        # Without its cause: that one quotes what was read.
        raise NoCredentialsError("the credentials of the role cannot be read") from None


def _get(url: str, headers: Mapping[str, str]) -> str:
    return _ask("GET", url, headers)


def _put(url: str, headers: Mapping[str, str]) -> str:
    return _ask("PUT", url, headers)


def _ask(method: str, url: str, headers: Mapping[str, str]) -> str:
    import requests

    try:
        with requests.Session() as session:
            session.trust_env = False
            reply = session.request(method, url, headers=dict(headers), timeout=_PATIENCE, allow_redirects=False)
    except requests.RequestException as error:
        raise NoCredentialsError(f"no credentials of a role: {type(error).__name__}", value=url) from None
    if reply.status_code != 200:
        raise NoCredentialsError(f"no credentials of a role: HTTP {reply.status_code}", value=url)
    return reply.text
