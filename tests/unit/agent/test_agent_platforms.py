"""Agents that prove who they are by their platform: a cluster's tokens, and a role that AWS vouches for."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import pytest
from fakes.server_world import FRONT_ID, server, shop, temporary_home
from fakes.tcp_callers import TD, address, agent_stub
from unit.attest import test_attest_aws as aws
from unit.attest import test_attest_kubernetes as kubernetes

from meshca.agent.aws import Credentials, NoCredentialsError, credentials, signed_request
from meshca.agent.identity import ByProof
from meshca.attest.aws import AwsRequestError, StsCall
from meshca.errors import InvalidInputError, RefusedError, UnauthenticatedError
from meshca.server.attestors import Attestors, read_attestors, written
from meshca.server.config import Config, ConfigError, parse_config, write_config
from meshca.server.proving import methods
from meshca.v1 import agent_pb2

if TYPE_CHECKING:
    from pathlib import Path

PROD = '[attest.kubernetes.prod]\nissuer = "x"\naudience = "y"\njwks = "/none"\n'
ROLE = Credentials(aws.ACCESS, aws.SECRET, aws.SESSION)


def cluster(jwks: Path) -> str:
    return f"""
[attest.kubernetes.prod]
issuer = "{kubernetes.ISSUER}"
audience = "{kubernetes.AUDIENCE}"
jwks = "{jwks}"
service_accounts = ["meshca:agent"]
"""


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    file = tmp_path / "jwks"
    file.write_text(json.dumps({"keys": [kubernetes.jwk_of_rsa("rsa")]}))
    return file


def now_claims(**changed: object) -> dict[str, object]:
    """Return good claims, valid now."""
    at = int(datetime.now(UTC).timestamp())
    return {**kubernetes.claims(), "iat": at, "nbf": at, "exp": at + 600, **changed}


async def test_a_pod_is_an_agent_by_its_service_account(jwks: Path) -> None:
    attestors = parse_config(cluster(jwks), "meshca.toml").attestors
    with temporary_home() as home:
        async with server(home, attestors=attestors) as (parts, admin):
            bundle = parts.state.snapshot.trust.bundle_pem
            brought = [kubernetes.token(now_claims())]
            method = ByProof("k8s_sa", lambda: bundle, lambda _, __: brought[0].encode())
            own = await method.attest(address(parts))
            again = await method.attest(address(parts))  # it may, whenever it has to
            expected = f"spiffe://shop.test/meshca/agent/k8s.prod.{kubernetes.CALLER.node}"
            assert str(own.spiffe_id) == str(again.spiffe_id) == expected
            assert [(row.method, row.state) for row in await admin.agents()] == [("k8s_sa", "attested")]

            for wrong in (
                now_claims(exp=int(datetime.now(UTC).timestamp()) - 1),
                now_claims(aud=["https://kubernetes.default.svc"]),
                now_claims(iss="https://elsewhere.example"),
            ):
                brought[0] = kubernetes.token(wrong)
                with pytest.raises(UnauthenticatedError):
                    await method.attest(address(parts))
            refused = [r for r in await admin.audit_tail(50) if r.outcome == "refused"]
            assert {(r.action, r.subject) for r in refused} == {("attest", "k8s_sa")}
            assert brought[0] not in repr(refused)

            # What its cluster is the parent of is behind it, and nothing of another cluster.
            await admin.apply(shop())
            await admin.register("back", ["unix:uid:1"], parent="k8s.other")
            await admin.register("front", ["unix:uid:1"], parent="k8s.prod")
            async with agent_stub(parts, own.identity) as (stub, _):
                told = await anext(aiter(stub.Watch(agent_pb2.WatchRequest())))
                assert [one.spiffe_id for one in told.holdings] == [FRONT_ID]
            assert [row.registrations for row in await admin.agents()] == [1]

            # Evicted, and its platform still vouches for it: it stays out until somebody lets it back.
            await admin.evict(f"k8s.prod.{kubernetes.CALLER.node}")
            brought[0] = kubernetes.token(now_claims())
            with pytest.raises(RefusedError, match="suspended"):
                await method.attest(address(parts))


def sts_stand_in(call: StsCall) -> bytes:
    """Answer as AWS does, if the signature is good."""
    sent, headers = dict(parse_qsl(urlsplit(call.url).query)), dict(call.headers)
    headers = {name.lower(): value for name, value in headers.items() if name != "Accept"}
    good = hmac.compare_digest(sent.pop("X-Amz-Signature"), aws.signature(headers.pop("host"), sent, headers))
    if not good:
        raise AwsRequestError("AWS refuses the signed request")
    return aws.answer()


async def test_a_task_is_an_agent_by_its_role() -> None:
    attestors = Attestors(regions=frozenset({"eu-west-1"}), roles=frozenset({"123456789012/mesh-task"}))
    with temporary_home() as home:
        async with server(home) as (parts, _):
            prove = methods(attestors, TD, parts.house.clock, sts_stand_in)["aws_iam"]
            from meshca.keys.requesting import new_request
            from meshca.x509.csr import check_csr

            _, csr = new_request()
            key = hashlib.sha256(check_csr(csr, None).spki).hexdigest()
            payload = signed_request(ROLE, "eu-west-1", "shop.test", key, parts.house.clock.now())
            assert (await prove(payload, csr)).agent_id == f"aws.123456789012.mesh-task.{aws.TASK}"
            assert aws.SECRET not in payload.decode()

            # Who steals it has another key, and another server another trust domain.
            with pytest.raises(AwsRequestError):
                await prove(payload, new_request()[1])
            other = signed_request(ROLE, "eu-west-1", "other.test", key, parts.house.clock.now())
            with pytest.raises(AwsRequestError):
                await prove(other, csr)
            forged = Credentials(aws.ACCESS, "guessed", aws.SESSION)
            with pytest.raises(AwsRequestError, match="refuses"):
                await prove(signed_request(forged, "eu-west-1", "shop.test", key, parts.house.clock.now()), csr)
            for junk in (b"", b"{}", b"[]", b'{"url": 1, "headers": {}}', b"\xff"):
                with pytest.raises(UnauthenticatedError):
                    await prove(junk, csr)


def test_credentials_are_found_where_the_sdks_find_them() -> None:
    found = credentials({"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S", "AWS_SESSION_TOKEN": "T"})
    assert (found.access_key, found.secret, found.session) == ("A", "S", "T")
    assert "S" not in repr(found).replace("Credentials", "")
    with pytest.raises(NoCredentialsError, match="neither https nor of this host"):
        credentials({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://evil.example/x"})


def test_the_configuration_reads_back_what_it_writes(jwks: Path) -> None:
    text = cluster(jwks) + '\n[attest.aws]\nregions = ["eu-west-1"]\nroles = ["123456789012/mesh-task"]\n'
    config = parse_config(text, "meshca.toml")

    assert parse_config(write_config(config), "meshca.toml") == config
    assert written(read_attestors({})) == []
    assert Config().attestors == read_attestors({})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[attest.other]\nx = 1', "attest.*other.*unknown key"),
        ('[attest.aws]\nregions = "eu-west-1"', "is a list of texts"),
        ('[attest.aws]\nroles = ["admin"]', "ACCOUNT/ROLE"),
        ('[attest.kubernetes.prod]\nissuer = "x"', "audience.*must be given"),
        (f'{PROD}service_accounts = ["a"]', "NAMESPACE:NAME"),
        (f'{PROD}service_accounts = ["a:b"]', "cannot read"),
        ('attest = 1', "is a section"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_said(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        parse_config(text, "meshca.toml")
    assert "meshca.toml:" in str(error.value)
    assert isinstance(error.value, InvalidInputError)
