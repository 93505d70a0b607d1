"""The answer of AWS STS to GetCallerIdentity, and who it says is calling (rules A5 and A6 of ``attest.aws``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from xml.parsers import expat

from meshca.attest.aws import Allowed, AwsCaller, AwsNotAllowedError, AwsRequestError, StsCall
from meshca.errors import UnavailableError

_MOST_BYTES = 16 * 1024
_PATIENCE = 5.0
_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
_RESULT = ("GetCallerIdentityResponse", "GetCallerIdentityResult")
_ARN = re.compile(
    r"arn:aws(?:-cn|-us-gov)?:sts::(?P<account>[0-9]{12}):assumed-role/"
    r"(?P<role>[A-Za-z0-9_+=,.@-]{1,64})/(?P<session>[A-Za-z0-9_+=,.@-]{2,64})"
)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")  # SPIFFE-ID §2.2

Send = Callable[[StsCall], bytes]
"""What sends a call and returns the body of STS's answer, if that is 200."""


class StsError(UnavailableError):
    """STS does not answer, or not as it should."""


def identity(response: bytes, allowed: Allowed) -> AwsCaller:
    """Return who STS says has signed.

    Raises:
        StsError: it is not the answer of STS (A5).
        AwsNotAllowedError: that one may not be an agent (A5, A6).
    """
    said = _result(response)
    arn = said.get("Arn", "")
    found = _ARN.fullmatch(arn)
    if found is None:
        raise AwsNotAllowedError("only who has assumed a role may be an agent", field="arn", value=arn)
    if found["account"] != said.get("Account"):
        raise StsError("the answer of STS names two accounts")
    if f"{found['account']}/{found['role']}" not in allowed.roles:
        raise AwsNotAllowedError("this role may not be an agent", field="arn", value=arn)
    if not _SEGMENT.fullmatch(found["session"]) or set(found["session"]) == {"."}:
        raise AwsNotAllowedError("the session's name can't be part of a SPIFFE ID", field="arn", value=arn)
    return AwsCaller(found["account"], arn, found["role"], found["session"])


def send(call: StsCall) -> bytes:
    """Send a checked call to STS; the real ``Send``.

    Raises:
        StsError: it does not answer.
        AwsRequestError: it says that the signature is not good.
    """
    import requests

    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy and no .netrc
            with session.get(
                call.url, headers=dict(call.headers), timeout=_PATIENCE, allow_redirects=False, stream=True
            ) as reply:
                return read_answer(reply.status_code, reply.iter_content(4096))
    except requests.RequestException as error:
        # Its text would quote the URL, which is a credential.
        raise StsError(f"STS does not answer: {type(error).__name__}", value=call.host) from None


def read_answer(status: int, chunks: Iterable[bytes]) -> bytes:
    """Return the body of an answer that is 200 and small.

    Raises:
        StsError: it is not.
        AwsRequestError: STS refuses the request.
    """
    if status in {400, 401, 403}:
        raise AwsRequestError("AWS refuses the signed request", remedy="has it expired, or have the credentials?")
    if status != 200:
        raise StsError(f"STS answers HTTP {status}")
    raw = bytearray()
    for chunk in chunks:
        raw += chunk
        if len(raw) > _MOST_BYTES:
            raise StsError(f"STS answers more than {_MOST_BYTES} bytes")
    return bytes(raw)


class _Answer:
    """Collects the texts of the result's elements; whatever STS doesn't send ends the reading."""

    def __init__(self) -> None:
        self.path: list[str] = []
        self.said: dict[str, str] = {}

    def refuse(self, *_: object) -> None:
        raise StsError("the answer of STS declares what it should not")

    def start(self, name: str, _: object) -> None:
        namespace, _space, local = name.rpartition(" ")
        self.path.append(local if namespace == _NAMESPACE else "")
        if self._in_result():
            if local in self.said:
                raise StsError("the answer of STS says something twice")
            self.said[local] = ""

    def end(self, _: str) -> None:
        self.path.pop()

    def text(self, text: str) -> None:
        if self._in_result():
            self.said[self.path[-1]] += text

    def _in_result(self) -> bool:
        return len(self.path) == 3 and tuple(self.path[:2]) == _RESULT and self.path[2] != ""


def _result(response: bytes) -> dict[str, str]:
    if len(response) > _MOST_BYTES:
        raise StsError(f"STS answers more than {_MOST_BYTES} bytes")
    answer = _Answer()
    parser = expat.ParserCreate("utf-8", " ")
    parser.StartDoctypeDeclHandler = answer.refuse
    parser.EntityDeclHandler = answer.refuse
    parser.ProcessingInstructionHandler = answer.refuse
    parser.StartElementHandler = answer.start
    parser.EndElementHandler = answer.end
    parser.CharacterDataHandler = answer.text
    try:
        parser.Parse(response, True)
    except (expat.ExpatError, ValueError):
        raise StsError("the answer of STS is no XML") from None
    return answer.said
