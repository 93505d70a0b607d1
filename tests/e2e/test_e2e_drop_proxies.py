"""nginx and HAProxy on dropped files that change every few seconds, under load: no handshake fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from harness.dropped import (
    LIVES,
    Dropping,
    Load,
    browsing,
    dropping_world,
    ended,
    listening,
    openssl_client,
    ports,
    rotate_issuing,
    running,
)
from harness.world import eventually, spiffe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.world import World

pytestmark = pytest.mark.usefixtures("other_users")

NGINX = """\
daemon off; master_process on; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log warn;
user root;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {files}/svid.pem; ssl_certificate_key {files}/svid_key.pem;
    ssl_client_certificate {files}/bundle.pem; ssl_crl {files}/crl.pem; ssl_verify_client on; ssl_verify_depth 3;
    ssl_session_tickets off;
    if ($ssl_client_s_dn != "UID={client}") {{ return 403; }}
    location / {{ return 200 $ssl_client_verify; }}
  }}
}}
"""
HAPROXY = """\
global
  hard-stop-after 5s
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend tls
  bind 127.0.0.1:{port} ssl crt {files}/haproxy.pem ca-file {files}/bundle.pem crl-file {files}/crl.pem verify required
  http-request deny unless {{ ssl_c_s_dn(UID) -m str {client} }}
  http-request return status 200 content-type text/plain string SUCCESS
"""


@pytest.fixture
def programs() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        ended(process)


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def test_both_serve_every_new_certificate_and_no_handshake_fails(
    make_world: Callable[..., World], programs: list[subprocess.Popen[bytes]]
) -> None:
    nginx, haproxy = program("nginx"), program("haproxy")
    world = dropping_world(make_world("--lifetimes", LIVES), "ngx", "hap", "client", "other")
    folder = world.folder
    at_nginx, at_haproxy = ports(2)

    def target(name: str, layout: str, port: int, reload: dict[str, str]) -> dict[str, object]:
        return {
            "node": name, "dir": f"{folder}/{name}", "layout": layout, "dns": [f"{name}.m.test"],
            "reload": reload, "verify": {"address": f"127.0.0.1:{port}"},
        }  # fmt: skip

    targets: list[dict[str, object]] = [
        target("ngx", "pem", at_nginx, {"command": f"{nginx} -s reload -c {folder}/nginx.conf"}),
        target("hap", "haproxy", at_haproxy, {"signal": "USR2", "pid_file": f"{folder}/hap.pid", "program": haproxy}),
        # Its subject says who it is: what both of them let in is that node alone.
        {"node": "client", "dir": f"{folder}/client", "subject": True},
        {"node": "other", "dir": f"{folder}/other", "subject": True},
    ]
    (folder / "nginx.conf").write_text(
        NGINX.format(folder=folder, port=at_nginx, files=folder / "ngx/current", client=spiffe("client"))
    )
    (folder / "hap.cfg").write_text(
        HAPROXY.format(port=at_haproxy, files=folder / "hap/current", client=spiffe("client"))
    )
    with Dropping(world, targets) as dropping:
        for name in ("ngx", "hap"):
            eventually((folder / name / "current").exists, 20, f"files for {name}")
        # They start after their first files: until then the drop has nobody to tell, and tries again.
        programs.append(running([nginx, "-c", folder / "nginx.conf"], folder / "nginx.log"))
        programs.append(
            running([haproxy, "-W", "-f", folder / "hap.cfg", "-p", folder / "hap.pid"], folder / "haproxy.log")
        )
        eventually(lambda: listening(at_nginx) and listening(at_haproxy), 10, "both programs")
        dropping.wait_in_use("ngx", "hap", "client", "other")
        started = len(dropping.failures())
        served = ((at_nginx, "ngx"), (at_haproxy, "hap"))
        clients = [browsing(folder / "client", *each) for each in served * 2]
        plain = [openssl_client(folder / "client", *each) for each in served]
        with Load(clients) as load, Load(plain, 0.3) as slow:
            dropping.wait_rotated(1, "ngx", "hap", "client")
            rotate_issuing(world)
            dropping.wait_rotated(1, "ngx", "hap", "client")
        assert (load.failed, slow.failed) == ([], []), dropping.log()
        assert min(*load.done.values(), *slow.done.values()) > 5
        assert dropping.failures()[started:] == []
        for each in served:
            with pytest.raises(AssertionError, match="403 Forbidden"):
                browsing(folder / "other", *each)()
