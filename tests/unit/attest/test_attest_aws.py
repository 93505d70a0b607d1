"""GetCallerIdentity signed in advance: a stand-in for STS that checks signatures, and every request that differs."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import http.server
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import examples

from meshca.attest import sts
from meshca.attest.aws import (
    KEY_HEADER,
    SERVER_HEADER,
    Allowed,
    AwsCaller,
    AwsConfigurationError,
    AwsNotAllowedError,
    AwsRequestError,
    StsCall,
    check_request,
)
from meshca.attest.sts import StsError, identity, read_answer

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
KEY = hashlib.sha256(b"the key in the CSR").hexdigest()
ALLOWED = Allowed("example.org", frozenset({"eu-west-1", "cn-north-1"}), frozenset({"123456789012/mesh-task"}))
HOST = "sts.eu-west-1.amazonaws.com"
ACCESS, SECRET, SESSION = "ASIAQWERTYUIOPASDFGH", "secret", "IQoJb3Jp/Z2lu+X2Vj=="
TASK = "7e" * 16
ARN = f"arn:aws:sts::123456789012:assumed-role/mesh-task/{TASK}"
CALLER = AwsCaller("123456789012", ARN, "mesh-task", TASK)
HEADERS = {SERVER_HEADER: "example.org", KEY_HEADER: KEY}


def signature(host: str, parameters: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """Sign as AWS does (Signature Version 4, in the query)."""
    _, day, region, service, end = parameters["X-Amz-Credential"].split("/")
    signed = parameters["X-Amz-SignedHeaders"].split(";")
    values = {"host": host, **headers}
    canonical = "\n".join(
        [
            "GET",
            "/",
            urlencode(sorted(parameters.items()), quote_via=quote, safe="-_.~"),
            *(f"{name}:{values[name]}" for name in signed),
            "",
            ";".join(signed),
            hashlib.sha256(b"").hexdigest(),
        ]
    )
    scope = f"{day}/{region}/{service}/{end}"
    text = f"AWS4-HMAC-SHA256\n{parameters['X-Amz-Date']}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{SECRET}".encode()
    for part in (day, region, service, end, text):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def parameters(host: str = HOST, **changed: str) -> dict[str, str]:
    found = {
        "Action": "GetCallerIdentity",
        "Version": "2011-06-15",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{ACCESS}/20261125/eu-west-1/sts/aws4_request",
        "X-Amz-Date": "20261125T120000Z",
        "X-Amz-Expires": "60",
        "X-Amz-Security-Token": SESSION,
        "X-Amz-SignedHeaders": "host;x-meshca-key;x-meshca-server",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    return {"X-Amz-Signature": signature(host, found, HEADERS), **found}


def url(host: str = HOST, **changed: str) -> str:
    return f"https://{host}/?{urlencode(parameters(host, **changed))}"


def check(text: str, headers: Mapping[str, str] = HEADERS, allowed: Allowed = ALLOWED, now: datetime = NOW) -> StsCall:
    return check_request(text, headers, allowed, key_sha256=KEY, now=now)


def answer(arn: str = ARN, account: str = "123456789012") -> bytes:
    return f"""<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
    <Arn>{arn}</Arn>
    <UserId>AROAQWERTYUIOPASDFGHJ:{TASK}</UserId>
    <Account>{account}</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata><RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId></ResponseMetadata>
</GetCallerIdentityResponse>
""".encode()


# -- with a stand-in for STS


class Sts(http.server.BaseHTTPRequestHandler):
    """Answers as STS does to who has signed, and refuses whoever has not."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        sent = dict(parse_qsl(urlsplit(self.path).query, strict_parsing=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append(self.path)
        good = hmac.compare_digest(sent.pop("X-Amz-Signature"), signature(headers.pop("host"), sent, headers))
        body = answer() if good else b"<ErrorResponse/>"
        self.send_response(200 if good else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sts) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def send(call: StsCall, port: int) -> bytes:
    """Send a call to the stand-in instead of to AWS, else as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    split = urlsplit(call.url)
    assert (split.scheme, split.netloc) == ("https", call.host)
    connection.request("GET", f"{split.path}?{split.query}", headers=dict(call.headers))
    reply = connection.getresponse()
    try:
        return read_answer(reply.status, iter(lambda: reply.read(512), b""))
    finally:
        connection.close()


def test_who_has_signed_is_who_it_is(port: int) -> None:
    assert identity(send(check(url()), port), ALLOWED) == CALLER
    assert (CALLER.agent_id, CALLER.group) == (f"aws.123456789012.mesh-task.{TASK}", "aws.123456789012.mesh-task")


def test_what_is_sent_is_canonical_however_it_was_written(port: int) -> None:
    loose = url().replace("Action=GetCallerIdentity", "Action=%47etCaller%49dentity").replace("/?", "?")
    assert check(loose) == check(url())
    assert identity(send(check(loose), port), ALLOWED) == CALLER


@pytest.mark.parametrize("changed", [{"X_Amz_Date": "20261125T120001Z"}, {"X_Amz_Expires": "61"}])
def test_a_request_signed_otherwise_is_refused_by_sts(port: int, changed: dict[str, str]) -> None:
    own = parameters() | {name.replace("_", "-"): value for name, value in changed.items()}
    with pytest.raises(AwsRequestError, match="AWS refuses"):
        send(check(f"https://{HOST}/?{urlencode(own)}", now=NOW + timedelta(seconds=5)), port)


def test_a_request_signed_for_another_key_is_refused_by_sts(port: int) -> None:
    other = hashlib.sha256(b"the thief's key").hexdigest()
    call = check_request(url(), {SERVER_HEADER: "example.org", KEY_HEADER: other}, ALLOWED, key_sha256=other, now=NOW)
    with pytest.raises(AwsRequestError, match="AWS refuses"):
        send(call, port)


# -- requests


def without(name: str) -> str:
    left = {key: value for key, value in parameters().items() if key != name}
    return f"https://{HOST}/?{urlencode(left)}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(url("evil.example"), "none of the STS endpoints", id="other-host"),
        pytest.param(url("sts.amazonaws.com"), "none of the STS endpoints", id="global-endpoint"),
        pytest.param(url("sts.us-east-1.amazonaws.com"), "none of the STS endpoints", id="other-region"),
        pytest.param(url(f"{HOST}.evil.example"), "none of the STS endpoints", id="host-as-prefix"),
        pytest.param(url(f"evil.example/{HOST}"), "goes to /", id="host-in-the-path"),
        pytest.param(url(f"{HOST}:443"), "none of the STS endpoints", id="port"),
        pytest.param(url(f"{HOST}@evil.example"), "none of the STS endpoints", id="user"),
        pytest.param(url(f"evil@{HOST}"), "none of the STS endpoints", id="user-before"),
        pytest.param(url(HOST.upper()), "none of the STS endpoints", id="upper-case"),
        pytest.param(url(f"{HOST}."), "none of the STS endpoints", id="final-dot"),
        pytest.param(url("sts.cn-north-1.amazonaws.com"), "none of the STS endpoints", id="china-elsewhere"),
        pytest.param(url(f"evil.example\\@{HOST}"), "none of the STS endpoints", id="backslash"),
        pytest.param(url(f"[{HOST}"), "is no URL", id="bracket"),
        pytest.param(url().replace("https", "http"), "by https", id="no-tls"),
        pytest.param(url().replace("https", "file"), "by https", id="file"),
        pytest.param(url().replace("/?", "/x?"), "goes to /", id="path"),
        pytest.param(url().replace("/?", "//?"), "goes to /", id="two-slashes"),
        pytest.param(url().replace("/?", "/%2e?"), "goes to /", id="path-encoded"),
        pytest.param(url().replace("/?", "/;x?"), "goes to /", id="path-parameters"),
        pytest.param(url() + "#x", "goes to /", id="fragment"),
        pytest.param(url() + "#", "goes to /", id="empty-fragment"),
        pytest.param(url() + "&DurationSeconds=900", "none of GetCallerIdentity's", id="more"),
        pytest.param(url() + "&action=AssumeRole", "none of GetCallerIdentity's", id="another-case"),
        pytest.param(url() + "&Action=AssumeRole", "parameter twice", id="action-twice"),
        pytest.param(url() + "&Action=GetCallerIdentity", "parameter twice", id="the-same-twice"),
        pytest.param(url() + "&A%63tion=AssumeRole", "parameter twice", id="twice-encoded"),
        pytest.param(url() + "&x", "is no URL", id="no-value"),
        pytest.param(url() + ";Action=AssumeRole", "not", id="semicolon"),
        pytest.param(url() + "&".join(f"&{index}=" for index in range(20)), "is no URL", id="too-many"),
        pytest.param(url(Action="AssumeRole"), "Action of .* is not GetCallerIdentity", id="other-action"),
        pytest.param(url(Version="2012-01-01"), "Version", id="other-version"),
        pytest.param(url(X_Amz_Algorithm="AWS4-ECDSA-P256-SHA256"), "X-Amz-Algorithm", id="other-algorithm"),
        pytest.param(url(X_Amz_Credential=f"{ACCESS}/20261125/eu-west-1/s3/aws4_request"), "X-Amz-Credential", id="s3"),
        pytest.param(url(X_Amz_Credential=f"{ACCESS}/20261124/eu-west-1/sts/aws4_request"), "the day", id="other-day"),
        pytest.param(url(X_Amz_Date="2026-11-25"), "X-Amz-Date", id="date"),
        pytest.param(url(X_Amz_Date="20261125T996000Z"), "X-Amz-Date is no date", id="hour-99"),
        pytest.param(url(X_Amz_Expires="301"), "more than 300 s", id="long"),
        pytest.param(url(X_Amz_Expires="0"), "X-Amz-Expires", id="no-life"),
        pytest.param(url(X_Amz_Expires="-1"), "X-Amz-Expires", id="negative"),
        pytest.param(url(X_Amz_Expires="٦٠"), "X-Amz-Expires", id="digits-of-another-script"),
        pytest.param(url(X_Amz_SignedHeaders="host"), "X-Amz-SignedHeaders", id="headers-not-signed"),
        pytest.param(url(X_Amz_SignedHeaders="host;x-meshca-server"), "X-Amz-SignedHeaders", id="key-not-signed"),
        pytest.param(url(X_Amz_SignedHeaders="host;x-meshca-key"), "X-Amz-SignedHeaders", id="server-not-signed"),
        pytest.param(url(X_Amz_Security_Token=""), "X-Amz-Security-Token", id="empty-session"),
        pytest.param(url(X_Amz_Security_Token="a b"), "X-Amz-Security-Token", id="blank"),  # noqa: S106
        *(pytest.param(without(name), f"has no {name}", id=f"no-{name}") for name in parameters()
          if name != "X-Amz-Security-Token"),
        pytest.param("", "by https", id="nothing"),
        pytest.param(url().replace("https", "\thttps"), "printable", id="tab"),
        pytest.param(url().replace("/?", "/\n?"), "printable", id="newline"),
        pytest.param(url().replace("/?", "/ ?"), "printable", id="blank"),
        pytest.param(url().replace("eu-west", "eu-wést"), "printable", id="no-ascii"),
        pytest.param(url(X_Amz_Security_Token="x" * 8192), "at most 8192", id="long-url"),
    ],
)  # fmt: skip
def test_each_wrong_request_is_refused_for_itself_and_not_shown(text: str, says: str) -> None:
    with pytest.raises(AwsRequestError, match=says) as caught:
        check(text)
    assert ACCESS not in str(caught.value)
    assert SESSION not in str(caught.value)


def signature_headers(**changed: str) -> dict[str, str]:
    return HEADERS | {name.replace("_", "-"): value for name, value in changed.items()}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {SERVER_HEADER: "example.org"},
        {KEY_HEADER: KEY},
        signature_headers(x_meshca_server="other.org"),
        signature_headers(x_meshca_server="example.org\r\nx: y"),
        signature_headers(x_meshca_key=KEY.upper()),
        signature_headers(x_meshca_key="0" * 64),
        signature_headers(host="evil.example"),
        signature_headers(Authorization="x"),
        {SERVER_HEADER.upper(): "example.org", KEY_HEADER: KEY},
    ],
)
def test_headers_bind_the_request_to_this_server_and_this_key(headers: dict[str, str]) -> None:
    with pytest.raises(AwsRequestError, match="headers are not"):
        check(url(), headers)


@pytest.mark.parametrize(
    ("seconds", "says"), [(-61, "in the future"), (-60, ""), (0, ""), (59.9, ""), (60, "expired"), (3600, "expired")]
)
def test_a_request_is_young(seconds: float, says: str) -> None:
    now = NOW + timedelta(seconds=seconds)
    if not says:
        assert check(url(), now=now)
        return
    with pytest.raises(AwsRequestError, match=says):
        check(url(), now=now)


def test_nothing_is_allowed_by_default() -> None:
    with pytest.raises(AwsRequestError, match="allowed: none"):
        check(url(), allowed=Allowed("example.org", frozenset(), frozenset()))
    with pytest.raises(AwsNotAllowedError):
        identity(answer(), Allowed("example.org", frozenset({"eu-west-1"}), frozenset()))


def test_the_endpoint_is_that_of_the_region() -> None:
    assert ALLOWED.hosts == {HOST, "sts.cn-north-1.amazonaws.com.cn"}
    other = "sts.cn-north-1.amazonaws.com.cn"
    assert check(url(other)).host == other


@pytest.mark.parametrize("region", ["", "eu", "eu-west-1.evil.example/", "EU-WEST-1", "eu-west-1\n", "*"])
def test_a_region_is_one(region: str) -> None:
    with pytest.raises(AwsConfigurationError, match="no region"):
        Allowed("example.org", frozenset({region}), frozenset())


@pytest.mark.parametrize("role", ["", "mesh", "1/mesh", "123456789012/", "123456789012/*", "123456789012/a.b", "*/*"])
def test_a_role_is_one(role: str) -> None:
    with pytest.raises(AwsConfigurationError, match="ACCOUNT/ROLE"):
        Allowed("example.org", frozenset(), frozenset({role}))


def test_a_call_does_not_show_its_credential() -> None:
    assert ACCESS not in repr(check(url()))


_parts = st.sampled_from(
    ["https://", HOST, "/", "?", "&", "=", "#", "@", ":", "%", "\\", ".", "x", *parameters(), "Action"]
)


@examples(100)
@given(st.text(max_size=100) | st.lists(_parts, max_size=20).map("".join))
def test_any_text_is_refused_in_our_words(text: str) -> None:
    with pytest.raises(AwsRequestError):
        check(text)


@examples(100)
@given(st.integers(0, len(url()) - 1), st.characters(codec="ascii"))
def test_whatever_is_changed_the_call_goes_to_sts_and_asks_who_is_calling(position: int, character: str) -> None:
    text = url()
    try:
        call = check(text[:position] + character + text[position + 1 :])
    except AwsRequestError:
        return
    split = urlsplit(call.url)
    sent = dict(parse_qsl(split.query, strict_parsing=True))
    assert (split.scheme, split.netloc, split.path, split.fragment) == ("https", HOST, "/", "")
    assert (sent["Action"], sent["X-Amz-SignedHeaders"]) == ("GetCallerIdentity", "host;x-meshca-key;x-meshca-server")
    assert sent.keys() == parameters().keys()


# -- answers


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "arn:aws:iam::123456789012:root",
        "arn:aws:iam::123456789012:user/mesh-task",
        "arn:aws:iam::123456789012:role/mesh-task",
        "arn:aws:sts::123456789012:federated-user/mesh-task",
        f"{ARN}/more",
        ARN.rpartition("/")[0],
        ARN.replace("mesh-task", "mesh-task2"),
        ARN.replace("mesh-task", "Mesh-task"),
        ARN.replace("mesh-task", "mesh.task"),
        ARN.replace(TASK, "me@example.org"),
        ARN.replace(TASK, "a=b"),
        ARN.replace(TASK, ".."),
        ARN.replace(TASK, "x" * 65),
        ARN + "\n",
        " " + ARN,
        ARN.replace("arn:aws:", "arn:evil:"),
    ],
)
def test_only_an_allowed_role_with_a_usable_session_is_an_agent(arn: str) -> None:
    with pytest.raises(AwsNotAllowedError):
        identity(answer(arn), ALLOWED)


def test_the_same_role_of_another_account_is_refused() -> None:
    with pytest.raises(AwsNotAllowedError, match="this role"):
        identity(answer(ARN.replace("123456789012", "210987654321"), "210987654321"), ALLOWED)
    with pytest.raises(StsError, match="two accounts"):
        identity(answer(account="210987654321"), ALLOWED)


BOMB = b"""<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>"""


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(b"", "no XML", id="nothing"),
        pytest.param(b"{}", "no XML", id="json"),
        pytest.param(answer()[:-10], "no XML", id="cut"),
        pytest.param(answer() * 2, "no XML", id="two-documents"),
        pytest.param(BOMB + answer(), "declares", id="entities"),
        pytest.param(b'<!DOCTYPE x SYSTEM "file:///etc/passwd">' + answer(), "declares", id="external"),
        pytest.param(answer().replace(b"<Arn>", b"<?x y?><Arn>"), "declares", id="processing-instruction"),
        pytest.param(answer().replace(b"<Arn>", b"<Arn>&evil;"), "no XML", id="unknown-entity"),
        pytest.param(answer().replace(b"</UserId>", b"</UserId><Arn>x</Arn>"), "twice", id="arn-twice"),
        pytest.param(answer() + b" " * 16384, "more than", id="large"),
        pytest.param(b"\xff\xfe" + answer(), "no XML", id="other-encoding"),
        pytest.param(b"<a>" * 5000, "no XML", id="deep"),
    ],
)
def test_what_is_no_answer_of_sts_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(StsError, match=says):
        identity(raw, ALLOWED)


@pytest.mark.parametrize(
    "raw",
    [
        answer().replace(b"sts.amazonaws.com", b"evil.example"),
        answer().replace(b"GetCallerIdentityResponse", b"Other"),
        answer().replace(b"GetCallerIdentityResult", b"Other"),
        answer().replace(b"<Arn>", b"<x><Arn>").replace(b"</Arn>", b"</Arn></x>"),
        answer().replace(b"<Arn>", b"<Arn><x>").replace(b"</Arn>", b"</x></Arn>"),
        answer().replace(b"<Arn>", b'<Arn xmlns="">'),
    ],
)
def test_an_arn_elsewhere_is_none(raw: bytes) -> None:
    with pytest.raises(AwsNotAllowedError, match="assumed a role"):
        identity(raw, ALLOWED)


@examples(100)
@given(st.binary(max_size=200) | st.tuples(st.integers(0, len(answer()) - 1), st.binary(min_size=1, max_size=3)).map(
    lambda change: answer()[: change[0]] + change[1] + answer()[change[0] + 1 :]
))  # fmt: skip
def test_any_answer_is_that_role_or_an_error_of_ours(raw: bytes) -> None:
    try:
        found = identity(raw, ALLOWED)
    except (StsError, AwsNotAllowedError):
        return
    assert (found.account, found.role) == ("123456789012", "mesh-task")


@pytest.mark.parametrize(
    ("status", "error"),
    [(301, StsError), (302, StsError), (307, StsError), (204, StsError), (500, StsError), (503, StsError),
     (400, AwsRequestError), (401, AwsRequestError), (403, AwsRequestError)],
)  # fmt: skip
def test_only_200_is_an_answer(status: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_answer(status, [answer()])


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    read = []

    def endless() -> Iterator[bytes]:
        while True:
            read.append(1)
            yield bytes(4096)

    with pytest.raises(StsError, match="more than"):
        read_answer(200, endless())
    assert len(read) == 5


def test_sts_that_does_not_answer_is_an_error_without_the_credential() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Sts) as closed:
        port = closed.server_port
    with pytest.raises(StsError, match="does not answer") as caught:
        sts.send(StsCall("127.0.0.1", f"https://127.0.0.1:{port}/?X-Amz-Signature=abc", HEADERS))
    assert "abc" not in str(caught.value)
