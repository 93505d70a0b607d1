"""docs/migrate-from-app-mesh.md on real hosts: interception, plaintext and mTLS side by side, then STRICT.

Three network namespaces on one wire: two services with an Envoy each, to which the kernel sends all of their traffic,
and a service that has not moved yet. Nobody but the script of deploy/ touches the kernel's rules.
"""

from __future__ import annotations

import contextlib
import json
import os
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from envoy_binary import envoy_binary
from harness.network import Host, wire
from harness.stage import Answer, HttpApp, ask
from harness.world import FIRST_UID, World, eventually, mesh, node, service, spiffe

from meshca.cli.demo.envoy import EnvoyProcess
from meshca.envoy.documents import Bootstrap, as_yaml, bootstrap
from meshca.envoy.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("other_users")

_SCRIPT = Path(__file__).parents[2] / "deploy/interception/meshca-intercept"
_PORT = 8080
_APPLICATION = 2000
_TRUST = {"trust": {"sds": {"secretName": "ROOTCA"}}}
_CERTIFICATE = {"sds": {"secretName": "default"}}


class HostedEnvoy(EnvoyProcess):
    """An Envoy on a host of its own."""

    def __init__(self, host: Host, config: Path, uid: int) -> None:
        program = config.with_name("on-host")
        as_user = f"setpriv --reuid {uid} --regid {uid} --clear-groups"
        program.write_text(f'#!/bin/sh\nexec ip netns exec {host.name} {as_user} {envoy_binary()} "$@"\n')
        program.chmod(0o755)
        super().__init__(program, config)
        self._host = host

    def admin(self, path: str) -> str:
        return self._host.inside(lambda: super(HostedEnvoy, self).admin(path))


class Fleet:
    """The services and where they run."""

    def __init__(self, world: World, hosts: list[Host]) -> None:
        self.world = world
        self.front, self.back, self.unmoved = hosts

    def specs(self, mode: str) -> list[dict[str, Any]]:
        """Return the mesh with back's listener in this mode; front has a client policy where back is STRICT."""
        tls = {"mode": mode, "certificate": _CERTIFICATE, "validation": _TRUST}
        back = node("back", host=self.back.address, port=_PORT, tls=tls)
        front = node("front", host=self.front.address, port=_PORT, backends=["back.local"], tls=tls)
        policy = {"tls": {"certificate": _CERTIFICATE, "validation": _TRUST}}
        front["spec"]["backendDefaults"] = {"clientPolicy": policy}
        return [mesh(), front, back, service("back.local", "back")]

    def move(self, host: Host, name: str, uid: int) -> EnvoyProcess:
        """Give a service its Envoy, and send its traffic through it."""
        self.world.register(name, uid)
        folder = self.world.folder / f"envoy-{name}"
        folder.mkdir()
        os.chown(folder, uid, uid)
        config = folder / "envoy.yaml"
        node_id, socket = self.world.admin.resolve(name).node_id, str(self.world.home / "run/meshca.sock")
        config.write_text(as_yaml(bootstrap(Bootstrap(node_id, socket, Placement(intercepted=True), 9901))))
        envoy = HostedEnvoy(host, config, uid)
        self.world.envoys.append(envoy)
        envoy.start()
        envoy.wait_live()
        done = host.run(_SCRIPT, APPMESH_START_ENABLED="1", APPMESH_IGNORE_UID=str(uid), APPMESH_APP_PORTS=str(_PORT))
        assert done.returncode == 0, done.stderr
        return envoy

    def call(self, caller: Host) -> Answer:
        """Call back as an application on this host does: by its own address, knowing of no Envoy."""
        return caller.inside(lambda: ask((self.back.address, _PORT), host="back.local"), uid=_APPLICATION)


@pytest.fixture
def fleet(world: World) -> Iterator[Fleet]:
    with wire(3) as hosts, contextlib.ExitStack() as closing:
        for name, host in (("front", hosts[0]), ("back", hosts[1])):
            app = host.inside(_starting(name))
            closing.callback(app.close)
        yield Fleet(world, hosts)


def _starting(name: str) -> Callable[[], HttpApp]:
    return lambda: HttpApp(name, _PORT)


def test_from_plaintext_to_strict_and_back(fleet: Fleet) -> None:
    world = fleet.world
    world.apply(*fleet.specs("PERMISSIVE"))
    back = fleet.move(fleet.back, "back", FIRST_UID + 2)
    fleet.move(fleet.front, "front", FIRST_UID + 1)

    # One service has moved, one has not: both are served, and the application sees who proved who it is.
    moved, unmoved = fleet.call(fleet.front), fleet.call(fleet.unmoved)
    assert moved.app == unmoved.app == "back"
    assert spiffe("front") in moved.echo["headers"]["x-forwarded-client-cert"]
    assert "x-forwarded-client-cert" not in unmoved.echo["headers"]
    made = [back.stat(f"listener.0.0.0.0_15000.{one}") for one in ("downstream_cx_total", "ssl.handshake")]
    assert made == [2, 1], "the difference is what still comes in plaintext"

    with futures.ThreadPoolExecutor(1) as pool:
        strict = pool.submit(world.run, "apply", "-f", "-", "--wait", text=_document(fleet.specs("STRICT")))
        while not strict.done():
            assert fleet.call(fleet.front).app == "back", "whoever has moved notices nothing"
        strict.result()
    assert fleet.call(fleet.unmoved).app == ""
    assert spiffe("front") in fleet.call(fleet.front).echo["headers"]["x-forwarded-client-cert"]

    # Who went too fast goes back.
    world.run("apply", "-f", "-", "--wait", text=_document(fleet.specs("PERMISSIVE")))
    assert eventually(lambda: fleet.call(fleet.unmoved).app) == "back"


def _document(objects: list[dict[str, Any]]) -> str:
    return "\n---\n".join(json.dumps(one) for one in objects)
