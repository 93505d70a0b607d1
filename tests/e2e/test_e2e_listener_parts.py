"""What a listener asks of its clients is done by their Envoys: health checks, outlier detection, connection pools."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from harness.asking import ask
from harness.traffic import Apps
from harness.world import FIRST_UID, eventually, free_port, mesh, node, service

if TYPE_CHECKING:
    from harness.world import World

_PARTS = {
    "healthCheck": {
        "protocol": "http",
        "path": "/",
        "healthyThreshold": 2,
        "unhealthyThreshold": 2,
        "intervalMillis": 5000,
        "timeoutMillis": 2000,
    },
    "outlierDetection": {
        "maxServerErrors": 5,
        "interval": {"unit": "s", "value": 10},
        "baseEjectionDuration": {"unit": "s", "value": 10},
        "maxEjectionPercent": 50,
    },
    "connectionPool": {"http": {"maxConnections": 7, "maxPendingRequests": 3}},
}


async def test_health_checks_go_over_mtls_and_limits_reach_envoy(world: World, other_users: None) -> None:
    host, plain, port = world.host(), world.host(), free_port("0.0.0.0")
    back = node("back", host=host, port=port)
    back["spec"]["listeners"][0].update(_PARTS)
    await asyncio.to_thread(
        world.apply, mesh(), back, node("front", backends=["back.local"]), service("back.local", "back")
    )
    world.register("back", FIRST_UID)
    world.register("front", FIRST_UID + 1)
    apps = Apps("back")
    await apps.http(("127.0.0.1", port))
    server = await asyncio.to_thread(world.envoy, "back", uid=FIRST_UID, ingress=host)
    client = await asyncio.to_thread(world.envoy, "front", uid=FIRST_UID + 1, egress=plain)
    egress = f"cluster.cds_egress_m_back_http_{port}"

    healthy = await asyncio.to_thread(
        eventually, lambda: client.stat(f"{egress}.health_check.success"), 15, "a health check"
    )

    assert healthy
    assert (await asyncio.to_thread(ask, (plain, port), "back.local"))[0] == 200
    clusters = client.admin("clusters")
    assert f"cds_egress_m_back_http_{port}::outlier::" in clusters
    inward = server.admin("clusters")
    assert f"cds_ingress_m_back_http_{port}::default_priority::max_connections::7" in inward
    await apps.close()
