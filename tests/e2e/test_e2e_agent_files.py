"""An agent that keeps files for a real nginx: keys made on its host, every new certificate served, a CA replaced."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness.agents import agent
from harness.dropped import (
    Load,
    as_toml,
    browsing,
    dropping_world,
    ended,
    listening,
    number,
    openssl_client,
    ports,
    rotate_issuing,
    running,
)
from harness.world import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.world import World

NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log warn; user root;
events {{ worker_connections 128; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {files}/svid.pem; ssl_certificate_key {files}/svid_key.pem;
    ssl_client_certificate {files}/bundle.pem; ssl_crl {files}/crl.pem; ssl_verify_client on; ssl_verify_depth 3;
    ssl_session_tickets off;
    location / {{ return 200 $ssl_client_verify; }}
  }}
}}
"""
SVIDS = '\n[profiles.svid]\nmax_ttl = "10s"\n'


def test_nginx_serves_what_the_agent_keeps_and_no_handshake_fails(make_world: Callable[..., World]) -> None:
    if os.geteuid() != 0 or (nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")) is None:
        pytest.skip("needs root and nginx")
    world = make_world("--lifetimes", "root=1d,issuing=1h,leaf=5m")
    with (world.home / "meshca.toml").open("a") as config:
        config.write(SVIDS)
    dropping_world(world, "ngx", "client")
    for name in ("ngx", "client"):
        world.register(name, 33, "host1")
    folder, (port,) = world.folder, ports(1)
    targets: list[dict[str, Any]] = [
        {"node": "ngx", "dir": f"{folder}/ngx", "dns": ["ngx.m.test"],
         "reload": {"command": f"{nginx} -s reload -c {folder}/nginx.conf"},
         "verify": {"address": f"127.0.0.1:{port}"}},
        {"node": "client", "dir": f"{folder}/client"},
    ]  # fmt: skip
    (folder / "drop.toml").write_text("\n".join(map(as_toml, targets)))
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, files=folder / "ngx/current"))

    def state(name: str) -> dict[str, Any]:
        file = folder / name / "status.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    with agent(world, "host1", "--drop", str(folder / "drop.toml")) as host:
        eventually((folder / "ngx/current").exists, 20, "files for nginx")
        server = running([nginx, "-c", folder / "nginx.conf"], folder / "nginx.log")
        try:
            eventually(lambda: listening(port), 10, "nginx")
            eventually(lambda: state("ngx").get("state") == state("client").get("state") == "in use", 20, "both")
            first = number(state("ngx"))
            once, slow = browsing(folder / "client", port, "ngx"), openssl_client(folder / "client", port, "ngx")
            with Load([once, once]) as load, Load([slow], 0.3) as plain:
                rotate_issuing(world)  # ends once nginx serves a leaf, and our own client trusts, what is new
                eventually(lambda: number(state("ngx")) >= first + 2, 20, "a leaf after the rotation")
            assert (load.failed, plain.failed) == ([], []), host.log()
            assert min(*load.done.values(), *plain.done.values()) > 2
        finally:
            ended(server)
        # Whoever holds a key of these files holds it as a file, and nothing else of the agent's does.
        keys = [path for path in folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
        assert {Path(*path.relative_to(folder).parts[:1]) for path in keys} == {Path("ngx"), Path("client")}
