"""The check of a port: exactly the new certificate, with a good chain, several times in a row."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from fakes.dropping import living_world, new_material

from meshca.drop.layouts import GRPC, HAPROXY, PEM, Layout
from meshca.drop.serving import IN_A_ROW, NotServedError, Port, require_served
from meshca.drop.timing import Timer

if TYPE_CHECKING:
    from pathlib import Path

    from fakes.ca import World

    from meshca.drop.material import Material


def written(folder: Path, material: Material, layout: Layout = PEM) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in layout.contents(material).items():
        (folder / name).write_bytes(content)
    return folder


@dataclass
class Server:
    """Shows one certificate after the other, the last one for ever; ``seen`` are its clients' serials."""

    folder: Path
    chain: deque[Material]
    postgres: bytes = b""
    demands: bool = False
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    seen: list[str] = field(default_factory=list)

    def __enter__(self) -> Server:
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    @property
    def port(self) -> Port:
        protocol = "postgres" if self.postgres else "tls"
        return Port("127.0.0.1", self.listener.getsockname()[1], protocol)  # type: ignore[arg-type]

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            material = self.chain.popleft() if len(self.chain) > 1 else self.chain[0]
            with client:
                try:
                    self._answer(client, material)
                except (OSError, ssl.SSLError):
                    continue

    def _answer(self, client: socket.socket, material: Material) -> None:
        if self.postgres:
            assert client.recv(8) == struct.pack("!II", 8, 80877103)
            client.sendall(self.postgres)
        files = written(self.folder, material)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files / "svid.pem", files / "svid_key.pem")
        if self.demands:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(files / "bundle.pem")
        with context.wrap_socket(client, server_side=True) as secured:
            self.seen.append((secured.getpeercert() or {}).get("serialNumber", "").lower())  # type: ignore[union-attr]
            secured.recv(1)


@dataclass
class Clock:
    """Time that passes where somebody waits, and a little with each look."""

    at: float = 0.0

    def monotonic(self) -> float:
        self.at += 0.001
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds

    @property
    def timer(self) -> Timer:
        return Timer(self.monotonic, self.sleep)


@pytest.fixture
def world() -> World:
    return living_world()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def old_and_new(world: World) -> tuple[Material, Material]:
    return new_material(world), new_material(world)


@pytest.mark.parametrize("layout", [PEM, HAPROXY, GRPC], ids=lambda each: each.name)
def test_what_is_served_is_found_with_every_layout(tmp_path: Path, world: World, clock: Clock, layout: Layout) -> None:
    material = new_material(world)
    with Server(tmp_path / "server", deque([material])) as server:
        require_served(server.port, material, written(tmp_path / "new", material, layout), layout, clock.timer)
    assert len(server.seen) == IN_A_ROW


def test_an_old_worker_that_still_answers_starts_the_count_again(
    tmp_path: Path, old_and_new: tuple[Material, Material], clock: Clock
) -> None:
    old, new = old_and_new
    files = written(tmp_path / "new", new)
    with Server(tmp_path / "server", deque([old, new, new, old, new])) as server:
        for _ in range(2):
            with pytest.raises(NotServedError, match=f"it serves certificate {old.serial}"):
                require_served(server.port, new, files, PEM, clock.timer)
        require_served(server.port, new, files, PEM, clock.timer)
    assert len(server.seen) == 4 + IN_A_ROW


def test_a_port_that_goes_on_with_the_old_certificate_is_told(
    tmp_path: Path, old_and_new: tuple[Material, Material], clock: Clock
) -> None:
    old, new = old_and_new
    with (
        Server(tmp_path / "server", deque([old])) as server,
        pytest.raises(
            NotServedError, match=f"does not serve certificate {new.serial}: it serves certificate {old.serial}"
        ),
    ):
        require_served(server.port, new, written(tmp_path / "new", new), PEM, clock.timer)


def test_our_certificate_is_shown_where_it_is_asked_for(tmp_path: Path, world: World, clock: Clock) -> None:
    material = new_material(world)
    with Server(tmp_path / "server", deque([material]), demands=True) as server:
        require_served(server.port, material, written(tmp_path / "new", material), PEM, clock.timer)
    assert {serial.lstrip("0") for serial in server.seen} == {material.serial.lstrip("0")}


def test_a_leaf_without_its_chain_and_a_revoked_one_are_not_good(tmp_path: Path, world: World, clock: Clock) -> None:
    material = new_material(world)
    end = b"-----END CERTIFICATE-----\n"
    bare = replace(material, chain=material.chain.split(end)[0] + end)
    files = written(tmp_path / "new", material)
    with (
        Server(tmp_path / "bare", deque([bare])) as server,
        pytest.raises(NotServedError, match="its certificate is refused: unable to get local issuer"),
    ):
        require_served(server.port, material, files, PEM, clock.timer)
    world.authority.revoke(material.serial, "keyCompromise", "test")
    world.authority.publish_crls()
    written(files, replace(material, crl=world.authority.trust.crl_pem))
    with (
        Server(tmp_path / "revoked", deque([material])) as server,
        pytest.raises(NotServedError, match="certificate revoked"),
    ):
        require_served(server.port, material, files, PEM, clock.timer)


def test_postgresql_is_asked_for_tls_first(tmp_path: Path, world: World, clock: Clock) -> None:
    material = new_material(world)
    files = written(tmp_path / "new", material)
    with Server(tmp_path / "server", deque([material]), postgres=b"S") as server:
        require_served(server.port, material, files, PEM, clock.timer)
    with (
        Server(tmp_path / "plain", deque([material]), postgres=b"N") as server,
        pytest.raises(NotServedError, match="does not offer TLS"),
    ):
        require_served(server.port, material, files, PEM, clock.timer)


def test_nobody_there_is_told(tmp_path: Path, world: World, clock: Clock) -> None:
    material = new_material(world)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = Port("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(NotServedError, match="Connection refused"):
        require_served(port, material, written(tmp_path / "new", material), PEM, clock.timer)
    assert str(Port("::1", 5)) == "[::1]:5"
