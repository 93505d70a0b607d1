from __future__ import annotations

import asyncio
import contextlib
import json
import os
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from fakes.server_world import (
    BACK,
    BACK_ID,
    FRONT,
    FRONT_ID,
    SDS,
    Envoy,
    server,
    shop,
    shop_with,
    signing_request,
    temporary_home,
)

from meshca.client.values import Issued
from meshca.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from meshca.server import http
from meshca.x509.serial import serial_hex


async def test_specs_are_applied_shown_judged_and_deleted() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            dry = await admin.apply(shop(), dry_run=True)
            assert (dry.revision, len(dry.changes)) == (0, 4)
            applied = await admin.apply(shop())
            assert applied.revision == 1
            assert {change.change for change in applied.changes} == {"added"}
            assert [(p.client, p.server, p.allowed) for p in applied.permissions] == [(FRONT_ID, BACK_ID, True)]
            assert (await admin.apply(shop())).revision == 1
            assert [item["virtualNodeName"] for item in await admin.get("virtualNode")] == ["back", "front"]
            assert (await admin.get("virtualNode", "back"))[0]["spec"]["listeners"][0]["portMapping"]["port"] == 8080
            assert (await admin.can("front", BACK_ID, port=8080)).allowed
            refused = await admin.can("back", "front")
            assert not refused.allowed
            assert refused.reasons
            assert (await admin.resolve("front")).spiffe_id == FRONT_ID
            with pytest.raises(NotFoundError):
                await admin.resolve("ghost")
            with pytest.raises(InvalidInputError, match=r"back\.shop"):
                await admin.delete("virtualNode", "back")
            assert await admin.delete("virtualNode", "front") == 2
            with pytest.raises(NotFoundError):
                await admin.delete("virtualNode", "front")
            with pytest.raises(InvalidInputError, match="kind"):
                await admin.get("node")
            for objects in ([], [{"kind": "mesh"}], [shop()[1]] * 2, [shop()[2] | {"meshName": "ghost"}]):
                with pytest.raises(InvalidInputError):
                    await admin.apply(objects)
            assert (await admin.status()).revision == 2
        async with server(home) as (_, admin):
            assert len(await admin.get()) == 3


async def test_certificates_are_issued_listed_revoked_and_resumed() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin)
            wishes = [signing_request(FRONT), signing_request("ghost"), signing_request(BACK_ID)]
            front, ghost, back = await admin.issue(wishes)
            assert isinstance(front, Issued)
            assert isinstance(ghost, NotFoundError)
            assert isinstance(back, Issued)
            assert len(x509.load_pem_x509_certificates(front.chain)) == 2
            done = await admin.revoke(front.serial, reason="keyCompromise")
            assert (done.revoked, done.suspended, done.notified) == ((front.serial,), False, 0)
            again = await admin.revoke(front.serial)
            assert (again.revoked, again.crl_number) == ((front.serial,), done.crl_number)
            with pytest.raises(NotFoundError):
                await admin.revoke("01" * 19)
            with pytest.raises(InvalidInputError):
                await admin.revoke(back.serial, reason="because")
            done = await admin.revoke(node="back", wait=timedelta(seconds=1))
            assert (done.revoked, done.suspended) == ((back.serial,), True)
            (refused,) = await admin.issue([signing_request(BACK)])
            assert isinstance(refused, RefusedError)
            assert await admin.resume("back") == BACK_ID
            with pytest.raises(ConflictError):
                await admin.resume("back")
            (fine,) = await admin.issue([signing_request(BACK)])
            assert isinstance(fine, Issued)
            states = {row.serial: (row.state, row.reason) for row in await admin.certificates()}
            assert states[front.serial] == ("revoked", "keyCompromise")
            assert states[fine.serial] == ("valid", "")
            assert [row.serial for row in await admin.certificates(node=BACK, state="valid")] == [fine.serial]
            with pytest.raises(InvalidInputError):
                await admin.certificates(state="good")
            verified = await admin.audit_verify()
            assert verified.intact, verified.findings
            actions = [record.action for record in await admin.audit_tail(100)]
            assert {"apply", "issue", "revoke", "suspend", "resume"} <= set(actions)


async def test_registrations_are_checked_listed_and_warned_about() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await admin.apply(shop())
            for node, selectors, error in (
                ("ghost", ["unix:uid:1"], NotFoundError),
                (FRONT, [], InvalidInputError),
                (FRONT, ["unix:uid:root"], InvalidInputError),
                (FRONT, ["unix:path:/bin/sh"], InvalidInputError),
                (FRONT, ["unix:path:/bin/sh", "systemd:unit:a.service"], InvalidInputError),
                (FRONT, ["k8s:sa:default"], InvalidInputError),
            ):
                with pytest.raises(error):
                    await admin.register(node, selectors)
            made = await admin.register(FRONT, [f"unix:uid:{os.getuid()}", "unix:gid:5"])
            with pytest.raises(ConflictError):
                await admin.register(FRONT, ["unix:gid:5", f"unix:uid:{os.getuid()}"])
            assert [entry.id for entry in await admin.registrations()] == [made.id]
            status = await admin.status()
            assert [made.id in warning for warning in status.warnings] == [True]
            await admin.unregister(made.id)
            with pytest.raises(NotFoundError):
                await admin.unregister(made.id)
            assert (await admin.status()).warnings == ()


async def test_trust_is_shown_and_watched() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin)
            shown = await admin.authorities()
            assert [(a.state, a.generation) for a in (*shown.roots, *shown.issuing)] == [("active", 1), ("active", 1)]
            assert b"BEGIN CERTIFICATE" in await admin.bundle()
            assert json.loads(await admin.bundle("spiffe"))["spiffe_sequence"] == 1
            assert "spiffe_sequence" not in json.loads(await admin.bundle("jwks"))
            with pytest.raises(InvalidInputError):
                await admin.bundle("der")
            watch = admin.client.watch_trust("drop:/x", FRONT_ID)
            first = await asyncio.to_thread(next, watch)
            assert (first.generation, first.revoked, first.suspended) == (1, (), False)
            (issued,) = await admin.issue([signing_request(FRONT)])
            await admin.revoke(node=FRONT)
            seen = first
            while not (seen.suspended and seen.generation == 2):
                seen = await asyncio.to_thread(next, watch)
            assert seen.revoked == (issued.serial,)
            await admin.acknowledge_trust("drop:/x", FRONT_ID, 2)
            with pytest.raises(InvalidInputError):
                await admin.acknowledge_trust("drop:/x", FRONT_ID, 3)
            for holder in ("", "drop:\0", "drop:/x y", "d" * 513):
                with pytest.raises(InvalidInputError, match="printable word"):
                    await admin.acknowledge_trust(holder, FRONT_ID, 2)
        with pytest.raises(UnavailableError):
            await asyncio.to_thread(list, watch)


async def test_envoys_are_listed_rendered_and_rotated() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, BACK)
            async with Envoy(home.mesh_socket, BACK) as envoy:
                await envoy.ask("default", "ROOTCA")
                await envoy.secrets()
                await envoy.ask("default", "ROOTCA")
                (row,) = await admin.streams()
                assert (row.node_id, row.spiffe_id, row.type_url, row.nack) == (BACK, BACK_ID, SDS, "")
                assert await admin.rotate_leaf("back") == 1
                assert set(await envoy.secrets()) >= {"default"}
            rendered = await admin.render("back")
            assert rendered.node_id == BACK
            assert {"default", "clients", "ROOTCA"} <= {item.name for item in rendered.resources}
            assert not any(b"PRIVATE KEY" in item.body for item in rendered.resources)
            with pytest.raises(InvalidInputError):
                await admin.render("back", placement="{")


async def test_http_serves_health_metrics_crl_and_bundle() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await shop_with(admin)
            (issued,) = await admin.issue([signing_request(FRONT)])
            await admin.revoke(issued.serial)
            base = f"http://{parts.condition.http}"

            async def get(path: str) -> tuple[int, str, bytes]:
                return await asyncio.to_thread(_get, base + path)

            assert await get("/healthz") == (200, "text/plain; charset=utf-8", b"ok\n")
            assert (await get("/readyz"))[0] == 200
            metrics = (await get("/metrics"))[2].decode()
            assert 'meshca_issued_total{kind="file"} 1.0' in metrics
            assert "meshca_trust_generation 2.0" in metrics
            issuing = (await admin.authorities()).issuing[0].id
            status, kind, der = await get(f"/crl/{issuing}.crl")
            assert (status, kind) == (200, "application/pkix-crl")
            assert [serial_hex(entry.serial_number) for entry in x509.load_der_x509_crl(der)] == [issued.serial]
            assert (await get("/crl/ghost.crl"))[0] == (await get(f"/crl/{issuing}"))[0] == 404
            assert json.loads((await get("/bundle"))[2])["spiffe_sequence"] == 2
            assert (await get("/crl/../../../etc/passwd"))[0] == 404


async def test_http_connections_that_say_nothing_take_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MOST_CONNECTIONS", 8)
    monkeypatch.setattr(http, "_PATIENCE", 0.5)
    with temporary_home() as home:
        async with server(home) as (parts, _):
            host, port = parts.condition.http.rsplit(":", 1)
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
            too_many = [asyncio.create_task(reader.read()) for reader, _ in silent[8:]]
            ended = await asyncio.wait_for(asyncio.gather(*too_many, return_exceptions=True), 10)
            assert len(ended) == 12
            for reader, _ in silent[:8]:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), 10) == b""
            assert (await asyncio.to_thread(_get, f"http://{parts.condition.http}/healthz"))[0] == 200
            for _, writer in silent:
                writer.close()


def _get(url: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


async def test_a_full_disk_is_an_error_in_words_and_the_server_serves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await shop_with(admin, FRONT)

            def full(*_: Any) -> Any:
                raise UnavailableError("the disk is full", remedy="free some space")

            with monkeypatch.context() as patch:
                patch.setattr(parts.house.ledger, "record_intents", full, raising=False)
                (refused,) = await admin.issue([signing_request(FRONT)])
                assert isinstance(refused, UnavailableError)
                assert "disk is full" in str(refused)
                async with Envoy(home.mesh_socket, FRONT) as envoy:
                    await envoy.ask("ROOTCA")
                    assert set(await envoy.secrets()) == {"ROOTCA"}
            (issued,) = await admin.issue([signing_request(FRONT)])
            assert isinstance(issued, Issued)


async def test_what_is_refused_of_trust_is_audited_too() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            with pytest.raises(NotFoundError):
                await admin.taint_authority("00" * 10)
            with pytest.raises(InvalidInputError):
                await admin.import_chain(b"junk")
            await admin.freeze("a leak")
            for call in (admin.ca_request, lambda: admin.rotate_authority("root")):
                with pytest.raises((ConflictError, RefusedError)):
                    await call()
            tail = [r for r in await admin.audit_tail(20) if r.outcome == "refused"]
            assert [(r.action, r.subject) for r in tail] == [
                ("taint", "00" * 10),
                ("import-ca", "trust"),
                ("request-ca", "issuing"),
                ("rotate", "root"),
            ]
            assert {r.actor for r in tail} == {f"uid:{os.geteuid()}"}
