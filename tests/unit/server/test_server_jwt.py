"""JWT-SVIDs on a whole server; the client is the public one wherever it can be, and PyJWT reads what HTTP says."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import urllib.request
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import grpc
import jwt
import pytest
from fakes.server_world import BACK, BACK_ID, FRONT, FRONT_ID, server, shop, shop_with, temporary_home
from fakes.workload_client import Workload, public_client
from spiffe import TrustDomain, WorkloadApiClient
from spiffe.bundle.jwt_bundle.jwt_bundle_set import JwtBundleSet
from spiffe.workloadapi.errors import FetchJwtSvidError, ValidateJwtSvidError

from meshca.authority.lifetimes import Lifetimes
from meshca.server.parts import Parts

SHOP = TrustDomain("shop.test")
_BRISK = Lifetimes(root=timedelta(seconds=90), issuing=timedelta(seconds=30), leaf=timedelta(seconds=10))


def _kids(bundles: JwtBundleSet) -> set[str]:
    bundle = bundles.get_bundle_for_trust_domain(SHOP)
    assert bundle is not None
    return set(bundle.jwt_authorities)


def _kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def _refusal(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


def _http(parts: Parts, path: str) -> Any:
    with urllib.request.urlopen(f"http://{parts.condition.http}{path}", timeout=10) as answer:
        return json.load(answer)


async def test_the_public_client_fetches_and_validates_tokens() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT, BACK)
            client = public_client(home.mesh_socket)
            try:
                token = await asyncio.to_thread(client.fetch_jwt_svid, {"db"})
                every = await asyncio.to_thread(client.fetch_jwt_svids, {"db", "cache"})
                valid = await asyncio.to_thread(client.validate_jwt_svid, token.token, "db")
                bundles = await asyncio.to_thread(client.fetch_jwt_bundles)
                with pytest.raises(ValidateJwtSvidError):
                    await asyncio.to_thread(client.validate_jwt_svid, token.token, "cache")
            finally:
                client.close()
            assert str(token.spiffe_id) == str(valid.spiffe_id) == BACK_ID
            assert [str(each.spiffe_id) for each in every] == [BACK_ID, FRONT_ID]
            assert every[0].audience == {"db", "cache"}
            assert _kids(bundles) == {_kid(token.token)}
            issued = [record for record in await admin.audit_tail(20) if record.action == "issue-jwt"]
            assert len(issued) == 4  # without a SPIFFE ID: one for each identity
            assert {record.actor for record in issued} == {f"uid:{os.getuid()}"}


async def test_a_token_is_for_one_who_may_be_it_and_says_for_whom() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            (svid,) = await workload.tokens("db", spiffe_id=FRONT_ID)
            assert (svid.spiffe_id, svid.hint) == (FRONT_ID, FRONT)
            assert await _refusal(workload.tokens("db", spiffe_id=BACK_ID)) is grpc.StatusCode.PERMISSION_DENIED
            refused = [record for record in await admin.audit_tail(20) if record.outcome == "refused"]
            assert [(record.action, record.subject) for record in refused] == [("deliver", BACK_ID)]
            for audience in ((), ("",), ("x" * 513,), tuple("abcdefghi")):
                assert await _refusal(workload.tokens(*audience)) is grpc.StatusCode.INVALID_ARGUMENT
            assert await _refusal(workload.tokens("db", spiffe_id="front")) is grpc.StatusCode.INVALID_ARGUMENT


async def test_every_call_wants_the_header_and_an_identity() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            calls: list[Callable[[Any], Awaitable[object]]] = [
                lambda header: workload.tokens("db", header=header),
                lambda header: workload.validate("a.b.c", "db", header),
                lambda header: workload.jwt_bundles(header).next(),
            ]
            for call in calls:
                assert await _refusal(call(())) is grpc.StatusCode.INVALID_ARGUMENT
            (entry,) = await admin.registrations()
            await admin.unregister(entry.id)
            header = (("workload.spiffe.io", "true"),)
            for call in calls:
                assert await _refusal(call(header)) is grpc.StatusCode.PERMISSION_DENIED


async def test_claims_come_back_and_what_is_not_to_be_believed_does_not() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            (svid,) = await workload.tokens("db")
            found = await workload.validate(svid.svid, "db")
            assert found.spiffe_id == FRONT_ID
            claims = dict(found.claims)
            assert (claims["sub"], claims["aud"]) == (FRONT_ID, "db")
            assert claims["exp"] - claims["iat"] == 300
            head, payload, signature = svid.svid.split(".")
            for token in ("", "x", f"{head}.{payload}.", f"{head}.{payload}.{signature[::-1]}", svid.svid * 100):
                assert await _refusal(workload.validate(token, "db")) is grpc.StatusCode.INVALID_ARGUMENT
            for audience in ("", "DB"):
                assert await _refusal(workload.validate(svid.svid, audience)) is grpc.StatusCode.INVALID_ARGUMENT
            assert await _refusal(workload.validate("x" * (5 << 20), "db")) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_suspended_node_gets_no_token_and_what_it_has_is_not_valid() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT, BACK)
            (svid,) = await workload.tokens("db", spiffe_id=FRONT_ID)
            await admin.revoke(node=FRONT)
            assert await _refusal(workload.tokens("db", spiffe_id=FRONT_ID)) is grpc.StatusCode.PERMISSION_DENIED
            assert [one.spiffe_id for one in await workload.tokens("db")] == [BACK_ID]
            assert await _refusal(workload.validate(svid.svid, "db")) is grpc.StatusCode.INVALID_ARGUMENT
            await admin.resume(FRONT)
            assert (await workload.validate(svid.svid, "db")).spiffe_id == FRONT_ID


class Following:
    """The public client's watch of the JWT bundles."""

    def __init__(self, client: WorkloadApiClient) -> None:
        self.told: queue.Queue[JwtBundleSet | Exception] = queue.Queue()
        self._handle = client.stream_jwt_bundles(self.told.put, self.told.put)

    async def next(self) -> JwtBundleSet:
        """Return the next set."""
        found = await asyncio.to_thread(self.told.get, timeout=10)
        assert isinstance(found, JwtBundleSet), found
        return found

    def stop(self) -> None:
        """Stop watching."""
        self._handle.cancel()


async def test_the_public_client_follows_a_rotation_and_is_waited_for() -> None:
    with temporary_home(_BRISK) as home:
        async with server(home) as (parts, admin):
            await shop_with(admin, FRONT)
            client = public_client(home.mesh_socket)
            following = Following(client)
            try:
                first = await following.next()
                token = await asyncio.to_thread(client.fetch_jwt_svid, {"db"})
                wanted = await admin.rotate_authority("jwt")
                second = await following.next()
                assert _kids(second) == {wanted, _kid(token.token)} > _kids(first)
                assert {one.id for one in (await admin.authorities()).jwt} == _kids(second)
                async with asyncio.timeout(20):
                    async for progress in parts.rotations.watch(wanted):
                        assert progress.holders == 1
                        last = progress
                assert last.record.state == "active"
                assert _kid((await asyncio.to_thread(client.fetch_jwt_svid, {"db"})).token) == wanted
                await asyncio.to_thread(client.validate_jwt_svid, token.token, "db")  # the old one is there still
            finally:
                following.stop()
                client.close()


async def test_a_stolen_signing_key_is_gone_at_once() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            stream = workload.jwt_bundles()
            await stream.next()
            (svid,) = await workload.tokens("db")
            assert await admin.taint_authority(_kid(svid.svid)) == (_kid(svid.svid),)
            while _kid(svid.svid) in {key["kid"] for key in _keys(await stream.next())}:
                pass
            assert await _refusal(workload.validate(svid.svid, "db")) is grpc.StatusCode.INVALID_ARGUMENT
            (fresh,) = await workload.tokens("db")
            assert (await workload.validate(fresh.svid, "db")).spiffe_id == FRONT_ID


def _keys(message: Any) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(message.bundles["spiffe://shop.test"])["keys"]
    return found


async def test_a_restart_keeps_the_key() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            (before,) = await workload.tokens("db")
        async with server(home), Workload(home.mesh_socket) as workload:
            assert (await workload.validate(before.svid, "db")).spiffe_id == FRONT_ID
            (after,) = await workload.tokens("db")
            assert _kid(after.svid) == _kid(before.svid)


async def test_readers_of_openid_connect_find_the_key_and_believe_the_token() -> None:
    with temporary_home() as home:
        async with server(home, jwt_issuer="https://oidc.test/shop") as (parts, admin):
            await shop_with(admin, FRONT)
            found = await asyncio.to_thread(_http, parts, "/.well-known/openid-configuration")
            assert (found["issuer"], found["jwks_uri"]) == ("https://oidc.test/shop", "https://oidc.test/shop/keys")
            assert found["id_token_signing_alg_values_supported"] == ["ES256"]
            keys = jwt.PyJWKClient(f"http://{parts.condition.http}/keys")  # there before anybody has asked for a token
            async with Workload(home.mesh_socket) as workload:
                (svid,) = await workload.tokens("sts.amazonaws.com")
            key = await asyncio.to_thread(keys.get_signing_key_from_jwt, svid.svid)
            claims = jwt.decode(
                svid.svid, key, ["ES256"], audience="sts.amazonaws.com", issuer="https://oidc.test/shop"
            )
            assert claims["sub"] == FRONT_ID


async def test_the_bundle_holds_the_keys_in_every_form_of_json() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin), Workload(home.mesh_socket) as workload:
            await admin.apply(shop())
            await admin.register(FRONT, [f"unix:uid:{os.getuid()}"])
            before = json.loads(await admin.bundle("spiffe"))
            (svid,) = await workload.tokens("db")
            after = json.loads(await admin.bundle("spiffe"))
            assert [key["use"] for key in before["keys"]] == ["x509-svid"]
            assert [key["use"] for key in after["keys"]] == ["x509-svid", "jwt-svid"]
            assert after["spiffe_sequence"] > before["spiffe_sequence"]
            assert after["keys"][1]["kid"] == _kid(svid.svid)
            assert await asyncio.to_thread(_http, parts, "/bundle") == after
            assert json.loads(await admin.bundle("jwks"))["keys"] == after["keys"]
            with pytest.raises(urllib.error.HTTPError, match="404"):
                await asyncio.to_thread(_http, parts, "/.well-known/openid-configuration")


async def test_the_client_is_told_that_nothing_is_issued_while_frozen() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT)
            await admin.freeze("a test")
            client = public_client(home.mesh_socket)
            try:
                with pytest.raises(FetchJwtSvidError, match="frozen"):
                    await asyncio.to_thread(client.fetch_jwt_svid, {"db"})
            finally:
                client.close()
