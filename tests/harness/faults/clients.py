"""Callers of a whole server, through its sockets: an attested SDS client and an administrator.

Rule: what they were told, they tell; when the server dies under them they wait for it to come back, and look whether
it still keeps its word.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.server_world import FRONT, FRONT_ID, EndedError, Envoy, leaf_of, shop, signing_request
from harness.faults.places import Place
from harness.faults.told import Event, Tell, Told

from meshca.client.admin import AdminClient
from meshca.client.values import Issued, Revoked
from meshca.errors import MeshcaError
from meshca.x509.serial import serial_hex

_GONE = (MeshcaError, EndedError, grpc.aio.AioRpcError, asyncio.InvalidStateError)
_DEADLINE = 20.0


@dataclass
class Clients:
    """Both, and what they remember."""

    place: Place
    tell: Tell
    come_back: Callable[[], object]  # returns once the server is there again
    told: Told

    def run(self) -> None:
        """Work until the server dies or all is done, then see whether it keeps its word."""
        asyncio.run(self._work_until_it_dies())
        self.tell({"told": "gone"})
        self.come_back()
        with AdminClient(self.place.home.admin_socket, deadline=_DEADLINE) as admin:
            asyncio.run(self._expect_its_word(admin))

    async def _work_until_it_dies(self) -> None:
        with AdminClient(self.place.home.admin_socket, deadline=_DEADLINE) as admin:
            try:
                await self._work(admin)
            except _GONE:
                return

    async def _work(self, admin: AdminClient) -> None:
        applied = await self._do("apply", admin.apply, shop())
        self._say({"told": "revision", "number": applied.revision})
        for node in ("front", "back"):
            entry = await self._do("register", admin.register, node, [f"unix:uid:{os.getuid()}"])
            self._say({"told": "registered", "id": entry.id, "spiffe_id": entry.spiffe_id})
        async with Envoy(self.place.home.mesh_socket, FRONT) as envoy:
            await envoy.ask("default", "ROOTCA")
            await self._read_leaf(envoy)
            listening = asyncio.create_task(self._listen(envoy))
            try:
                await self._administer(admin)
            finally:
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError, *_GONE):
                    await listening

    async def _administer(self, admin: AdminClient) -> None:
        results = await self._do("issue", admin.issue, [signing_request(node) for node in ("front", "back", "back")])
        issued = [result for result in results if isinstance(result, Issued)]
        for result in issued:
            self._tell_leaf(result.chain)
        self._tell_revoked(await self._do("revoke", admin.revoke, issued[0].serial))
        successor = await self._do("rotate", admin.rotate_authority, "issuing")
        self._say({"told": "successor", "id": successor})
        await asyncio.to_thread(lambda: list(admin.watch_rotation(successor)))
        self._tell_revoked(await self._do("suspend", lambda: admin.revoke(node="back")))
        back = FRONT_ID.replace("front", "back")
        self._say({"told": "suspended", "id": back, "is": True})
        await self._do("resume", admin.resume, "back")
        self._say({"told": "suspended", "id": back, "is": False})
        await self._do("freeze", admin.freeze, "a test")
        self._say({"told": "frozen", "is": True})
        await self._do("unfreeze", admin.unfreeze)
        self._say({"told": "frozen", "is": False})

    def _tell_revoked(self, revoked: Revoked) -> None:
        self._say({"told": "revoked", "serials": revoked.revoked})

    async def _do(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        self._say({"told": "begin", "what": what, "by": 0})
        answer = await asyncio.to_thread(call, *arguments)
        self._say({"told": "end", "what": what, "by": 0})
        return answer

    async def _listen(self, envoy: Envoy) -> None:
        while True:
            await self._read(envoy)

    async def _read_leaf(self, envoy: Envoy) -> None:
        while "default" not in await self._read(envoy):
            pass

    async def _read(self, envoy: Envoy) -> dict[str, Any]:
        secrets = await envoy.secrets()
        if "default" in secrets:
            self._tell_leaf(leaf_of(secrets["default"]))
        return secrets

    def _tell_leaf(self, chain: bytes) -> None:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        serial = serial_hex(leaf.serial_number)
        self._say({"told": "issued", "serial": serial, "certificate": leaf.public_bytes(Encoding.DER).hex()})

    def _say(self, event: Event) -> None:
        self.told.add(event)
        self.tell(event)

    # ---- after it has come back

    async def _expect_its_word(self, admin: AdminClient) -> None:
        checks: tuple[Callable[[AdminClient], Awaitable[None]], ...] = (self._sees_what_it_was_told, self._goes_on)
        for check in checks:
            try:
                await check(admin)
            except (AssertionError, *_GONE) as error:
                self.tell({"told": "finding", "text": f"{check.__name__}: {type(error).__name__}: {error}"})

    async def _sees_what_it_was_told(self, admin: AdminClient) -> None:
        status = admin.status()
        assert status.state == "ready"
        assert status.revision >= self.told.revision
        registered = {entry.id: entry.spiffe_id for entry in admin.registrations()}
        assert self.told.registered.items() <= registered.items()
        states = {record.serial: record.state for record in admin.certificates()}
        for serial in self.told.issued:
            assert states.get(serial) in ("valid", "revoked"), f"{serial} is {states.get(serial)}"
        assert all(states[serial] == "revoked" for serial in self.told.revoked)
        assert admin.audit_verify().intact, admin.audit_verify().findings
        assert status.http is not None
        connection = http.client.HTTPConnection(status.http, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            assert connection.getresponse().status == 200

    async def _goes_on(self, admin: AdminClient) -> None:
        if any("frozen" in warning for warning in admin.status().warnings):
            admin.unfreeze()
        if not self.told.revision:
            admin.apply(shop())
        if FRONT_ID not in {entry.spiffe_id for entry in admin.registrations()}:
            admin.register("front", [f"unix:uid:{os.getuid()}"])
        seen: dict[str, Any] = {}
        async with Envoy(self.place.home.mesh_socket, FRONT) as envoy:
            await envoy.ask("default", "ROOTCA")
            while not {"default", "ROOTCA"} <= seen.keys():
                seen |= await self._read(envoy)
        crls = seen["ROOTCA"].validation_context.crl.inline_bytes
        listed = {serial_hex(entry.serial_number) for crl in _crls(crls) for entry in crl}
        assert self.told.revoked <= listed, f"{self.told.revoked - listed} on no CRL"


def _crls(text: bytes) -> list[x509.CertificateRevocationList]:
    end = b"-----END X509 CRL-----\n"
    return [x509.load_pem_x509_crl(part + end) for part in text.split(end) if part.strip()]
