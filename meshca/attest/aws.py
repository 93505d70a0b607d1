"""An agent with an AWS role (ECS, Fargate, EC2), known by a GetCallerIdentity request that it has signed in advance.

The agent signs a request to AWS STS and gives us its URL; we send it, and STS answers whose signature it is. So its
credentials never leave it, and we need none (as App Mesh's Envoys, Vault and EKS did it).

Rules kept here:
- A1 The request goes to an STS endpoint that is configured, with https, by GET to /, and is written anew from its
  checked parts: what we check is what we send.
- A2 It has exactly the parameters of GetCallerIdentity and of a signature, each once.
- A3 It is signed over this trust domain and over the key of the CSR beside it: another server can't use what we get,
  and who steals it gains a certificate for a key it hasn't.
- A4 It is young, and was signed for five minutes at most.
- A5 The answer is small XML without a DTD, of exactly STS's form; its account and role are among those allowed.
- A6 Only a role is an agent, never a user or the account's root. Who may assume the role chooses the session's name:
  on EC2 and ECS that is AWS itself, if the role's trust policy names these services alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from meshca.errors import InvalidInputError, RefusedError, UnauthenticatedError

SERVER_HEADER = "x-meshca-server"
KEY_HEADER = "x-meshca-key"
SIGNED_HEADERS = ("host", KEY_HEADER, SERVER_HEADER)

_MOST_URL_BYTES = 8192  # a session token alone may have 4 KiB
_LONGEST_LIFE = timedelta(minutes=5)
_SKEW = timedelta(minutes=1)
_ACTION = {"Action": "GetCallerIdentity", "Version": "2011-06-15", "X-Amz-Algorithm": "AWS4-HMAC-SHA256"}
_DATE = "%Y%m%dT%H%M%SZ"
_VALUES = {
    "X-Amz-Credential": re.compile(r"[A-Z0-9]{16,128}/[0-9]{8}/[a-z0-9-]{1,32}/sts/aws4_request"),
    "X-Amz-Date": re.compile(r"[0-9]{8}T[0-9]{6}Z"),
    "X-Amz-Expires": re.compile(r"[1-9][0-9]{0,3}"),
    "X-Amz-SignedHeaders": re.compile(re.escape(";".join(SIGNED_HEADERS))),
    "X-Amz-Signature": re.compile(r"[0-9a-f]{64}"),
    "X-Amz-Security-Token": re.compile(r"[A-Za-z0-9+/=_-]{1,6000}"),
}
_REQUIRED = (_ACTION.keys() | _VALUES.keys()) - {"X-Amz-Security-Token"}
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]")
_ROLE = re.compile(r"(?P<account>[0-9]{12})/(?P<role>[A-Za-z0-9_-]{1,64})")


class AwsRequestError(UnauthenticatedError):
    """The request that was signed in advance is not the one that is asked for."""


class AwsConfigurationError(InvalidInputError):
    """Regions or roles that can't be configured so."""


class AwsNotAllowedError(RefusedError):
    """AWS says who is calling, and it may not be an agent."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Who may be an agent of this trust domain: roles as ACCOUNT/ROLE, asked about at the STS of these regions."""

    trust_domain: str
    regions: frozenset[str]
    roles: frozenset[str]

    def __post_init__(self) -> None:
        for region in sorted(self.regions):
            if not _REGION.fullmatch(region):
                raise AwsConfigurationError("is no region of AWS", field="region", value=region)
        for role in sorted(self.roles):
            # A role's name may hold more; these would make two agents' ids alike.
            if not _ROLE.fullmatch(role):
                raise AwsConfigurationError(
                    "a role is ACCOUNT/ROLE, twelve digits and letters, digits, - and _", field="role", value=role
                )

    @property
    def hosts(self) -> frozenset[str]:
        """Return the STS endpoints that are asked."""
        return frozenset(f"sts.{region}.amazonaws.com{_suffix(region)}" for region in self.regions)


@dataclass(frozen=True, slots=True)
class StsCall:
    """A checked request, as it is sent: by GET, without a body, and never followed elsewhere."""

    host: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwsCaller:
    """Who AWS says has signed."""

    account: str
    arn: str
    role: str
    session: str

    @property
    def agent_id(self) -> str:
        """Return the id of the agent: one an instance (EC2) or task (ECS), whose id is the session's name."""
        return f"{self.group}.{self.session}"

    @property
    def group(self) -> str:
        """Return what all agents of this role have in common."""
        return f"aws.{self.account}.{self.role}"


def check_request(url: str, headers: Mapping[str, str], allowed: Allowed, *, key_sha256: str, now: datetime) -> StsCall:
    """Return the call to make for a request signed in advance; ``key_sha256`` is of the CSR's public key (SPKI, hex).

    Raises:
        AwsRequestError: it breaks one of A1 to A4; the message holds nothing of it.
    """
    host, parameters = _parts(url, allowed)
    _require_parameters(parameters)
    _require_headers(headers, allowed, key_sha256)
    _require_young(parameters, now)
    query = urlencode(sorted(parameters.items()), quote_via=quote, safe="-_.~")
    sent = {"Host": host, SERVER_HEADER: allowed.trust_domain, KEY_HEADER: key_sha256, "Accept": "text/xml"}
    return StsCall(host, f"https://{host}/?{query}", sent)


def _parts(url: str, allowed: Allowed) -> tuple[str, dict[str, str]]:
    """A1, A2."""
    # Printable ASCII: urlsplit would drop tabs and newlines, and then we would not have checked what was written.
    if len(url) > _MOST_URL_BYTES or not url.isascii() or not url.isprintable() or " " in url:
        raise AwsRequestError(f"the signed request is a URL of at most {_MOST_URL_BYTES} printable characters")
    try:
        split = urlsplit(url)
        pairs = parse_qsl(split.query, keep_blank_values=True, strict_parsing=True, max_num_fields=16)
    except ValueError:
        raise AwsRequestError("the signed request is no URL") from None
    if (split.scheme, split.path, split.fragment) not in {("https", "/", ""), ("https", "", "")} or "#" in url:
        raise AwsRequestError("the signed request goes to / of STS by https")
    if split.netloc not in allowed.hosts:
        shown = ", ".join(sorted(allowed.hosts)) or "none"
        raise AwsRequestError(f"the signed request goes to none of the STS endpoints that are allowed: {shown}")
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise AwsRequestError("the signed request has a parameter twice")
    return split.netloc, parameters


def _require_parameters(parameters: Mapping[str, str]) -> None:
    """A2, and that exactly our headers are signed (A3)."""
    if parameters.keys() - _REQUIRED - {"X-Amz-Security-Token"}:
        raise AwsRequestError("the signed request has a parameter that is none of GetCallerIdentity's")
    for name in sorted(_REQUIRED - parameters.keys()):
        raise AwsRequestError(f"the signed request has no {name}")
    for name, value in parameters.items():
        wrong = value != _ACTION[name] if name in _ACTION else not _VALUES[name].fullmatch(value)
        if wrong:
            wanted = _ACTION.get(name) or _VALUES[name].pattern.replace("\\", "")
            raise AwsRequestError(f"{name} of the signed request is not {wanted}")
    if parameters["X-Amz-Credential"].split("/")[1] != parameters["X-Amz-Date"][:8]:
        raise AwsRequestError("the signed request's date and the day of its credential differ")


def _require_headers(headers: Mapping[str, str], allowed: Allowed, key_sha256: str) -> None:
    """A3."""
    if dict(headers) != {SERVER_HEADER: allowed.trust_domain, KEY_HEADER: key_sha256}:
        raise AwsRequestError(
            f"the signed request's headers are not {SERVER_HEADER}: {allowed.trust_domain} and {KEY_HEADER}: the "
            "SHA-256 of the key in the CSR"
        )


def _require_young(parameters: Mapping[str, str], now: datetime) -> None:
    """A4."""
    try:
        signed = datetime.strptime(parameters["X-Amz-Date"], _DATE).replace(tzinfo=UTC)
    except ValueError:
        raise AwsRequestError("the signed request's X-Amz-Date is no date") from None
    life = timedelta(seconds=int(parameters["X-Amz-Expires"]))
    if life > _LONGEST_LIFE:
        raise AwsRequestError(f"the request was signed for more than {_LONGEST_LIFE.total_seconds():.0f} s")
    if signed > now + _SKEW:
        raise AwsRequestError("the request was signed in the future", remedy="compare the clocks of agent and server")
    if now >= signed + life:
        raise AwsRequestError("the signed request has expired")


def _suffix(region: str) -> str:
    return ".cn" if region.startswith("cn-") else ""
