"""No private key crosses the way between agent and server, in whatever form."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fakes.agent_world import eventually, shop_behind_an_agent
from fakes.server_world import FRONT, STREAM_ADS, Envoy

import meshca.junction


async def test_no_private_key_crosses_the_way_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes is looked at in the clear, on both of its ends, before TLS and after it."""
    passed: list[bytes] = []
    before = meshca.junction.End.data_received

    def heard(end: Any, data: bytes) -> None:
        passed.append(bytes(data))
        before(end, data)

    monkeypatch.setattr(meshca.junction.End, "data_received", heard)
    async with shop_behind_an_agent() as (_, admin, host):
        import os

        await admin.register("front", [f"unix:uid:{os.getuid()}"], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        keys = [host.identity.own.identity.key_pem]
        async with Envoy(host.socket, FRONT, STREAM_ADS) as envoy:
            await envoy.ask("default", "servers:back.shop")
            for _ in range(2):
                found = await envoy.secrets()
                keys.append(found["default"].tls_certificate.private_key.inline_bytes)
                await admin.rotate_leaf("front")
        everything = b"".join(passed)
        assert len(everything) > 5_000
        assert b"agent/host1" in everything  # it was looked at in the clear
        assert b"PRIVATE KEY" not in everything
        assert len(set(keys)) == 3
        for pem in keys:
            key = load_pem_private_key(pem, None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            secret = key.private_numbers().private_value.to_bytes(32, "big")
            for form in (secret, secret[::-1], secret.hex().encode(), base64.b64encode(secret)[:40]):
                assert form not in everything
            # The same search finds what does cross: the public half.
            public = key.public_key().public_numbers().x.to_bytes(32, "big")
            assert public in everything
