"""Where a process lives: the paths of every runtime we know, real groups of both versions, and forged names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import cgroups
from hypothesis import given
from hypothesis import strategies as st
from unit.attest.processes import as_root, connecting
from unit.mesh.mesh_objects import examples

from meshca.attest.cgroup import Place, parse_cgroup, read_place
from meshca.attest.pods import Pod
from meshca.attest.selectors import Reader, is_slow
from meshca.policy.entitlement import Registration, entitled
from meshca.policy.selector import parse_selector
from meshca.spiffe.id import SpiffeId, TrustDomain

ID, OTHER = "5d" * 32, "ab" * 32
UID = "0f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b"
UNDERSCORED = UID.replace("-", "_")
STATIC = "1a" * 16
MINE = f"unix:uid:{os.geteuid()}"


def place(path: str) -> Place:
    return parse_cgroup(f"0::{path}\n")


# -- the paths of every runtime


@pytest.mark.parametrize(
    ("path", "pod_uid"),
    [
        pytest.param(f"/docker/{ID}", "", id="docker-cgroupfs"),
        pytest.param(f"/system.slice/docker-{ID}.scope", "", id="docker-systemd"),
        pytest.param(f"/system.slice/docker-{ID}.scope/init.scope", "", id="systemd-inside-docker"),
        pytest.param(f"/machine.slice/libpod-{ID}.scope", "", id="podman"),
        pytest.param(f"/machine.slice/libpod-{ID}.scope/container", "", id="podman-container"),
        pytest.param(f"/libpod_parent/libpod-{ID}", "", id="podman-cgroupfs"),
        pytest.param(f"/system.slice/nerdctl-{ID}.scope", "", id="nerdctl"),
        pytest.param(f"/default/{ID}", "", id="containerd-cgroupfs"),
        pytest.param(f"/ecs/{'7e' * 16}/{ID}", "", id="ecs"),
        pytest.param(f"/ecs/{UID}/{ID}", "", id="ecs-old"),
        pytest.param(f"/ecstasks.slice/ecstasks-{'7e' * 16}.slice/docker-{ID}.scope", "", id="ecs-systemd"),
        pytest.param(f"/kubepods/burstable/pod{UID}/{ID}", UID, id="kubernetes-cgroupfs"),
        pytest.param(f"/kubepods/pod{UID}/{ID}", UID, id="kubernetes-guaranteed"),
        pytest.param(f"/kubepods/besteffort/pod{UID}/crio-{ID}", UID, id="crio-cgroupfs"),
        pytest.param(
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
            UID,
            id="containerd-systemd",
        ),
        pytest.param(
            f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-{ID}.scope/container", UID, id="crio-systemd"
        ),
        pytest.param(
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/docker-{ID}.scope",
            UID,
            id="cri-dockerd",
        ),
        pytest.param(
            f"/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{ID}",
            UID,
            id="containerd-drivers-differ",
        ),
        pytest.param(
            f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
            f"kubelet-kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
            UID,
            id="kind",
        ),
        pytest.param(f"/kubepods.slice/kubepods-pod{STATIC}.slice/crio-{ID}.scope", STATIC, id="static-pod"),
        pytest.param(
            f"/../../../kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
            UID,
            id="seen-from-a-cgroup-namespace",
        ),
    ],
)
def test_the_container_and_the_pod(path: str, pod_uid: str) -> None:
    found = place(path)
    assert (found.container, found.pod_uid) == (ID, pod_uid)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/system.slice/nginx.service/worker/1", "nginx.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/init.scope", "init.scope"),
        ("/system.slice/_cgroup.service", "cgroup.service"),
        ("/system.slice/dev\\x2dhugepages.mount", "dev\\x2dhugepages.mount"),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope"),
        ("/", ""),
        ("/system.slice", ""),
        ("/process_api/nginx.service", ""),
    ],
)
def test_the_unit_is_the_first_that_is_no_slice(path: str, unit: str) -> None:
    assert place(path).unit == unit
    assert parse_cgroup(f"4:memory:/x\n1:name=systemd:{path}\n0::/\n").unit == unit
    assert parse_cgroup(f"4:memory:{path}\n0::/\n").unit == "", "a controller's own hierarchy is none of systemd's"


# -- forged


@pytest.mark.parametrize(
    "below",
    [
        f"docker-{ID}.scope",
        "nginx.service",
        f"app.slice/libpod-{ID}.scope",
        f"docker/{ID}",
        f"kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
        f"kubepods/burstable/pod{UID}/{ID}",
    ],
)
@pytest.mark.parametrize("delegated", ["/user.slice/user-1000.slice/user@1000.service", "/system.slice/runner.service"])
def test_what_a_user_names_below_its_own_group_does_not_count(delegated: str, below: str) -> None:
    assert place(f"{delegated}/{below}") == Place(unit=delegated.rpartition("/")[2])


def test_a_container_cannot_be_another_by_a_group_of_its_own() -> None:
    own = f"/kubepods/burstable/pod{UID}/{ID}"
    for below in (OTHER, f"docker/{OTHER}", f"kubepods/pod{'0' * 32}/{OTHER}", f"cri-containerd-{OTHER}.scope"):
        assert place(f"{own}/{below}") == place(own)
    nested = f"/system.slice/docker-{ID}.scope/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-{OTHER}.scope"
    assert place(nested) == Place(f"docker-{ID}.scope", ID)


@pytest.mark.parametrize(
    "path",
    [
        f"/{ID}",
        f"/lxc.payload.web/{ID}",
        f"/docker/{ID[:-1]}",
        f"/docker/{ID}0",
        f"/docker/{ID.upper()}",
        f"/docker-{ID}.service",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/kubepods/pod{UID}",
        f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice",
        f"/docker/{ID}\r",
        f"docker/{ID}",
    ],
)  # fmt: skip
def test_what_is_no_container_is_none(path: str) -> None:
    assert (place(path).container, place(path).pod_uid) == ("", "")


def test_a_pod_counts_only_below_kubernetes() -> None:
    assert place(f"/docker/pod{UID}/{ID}").pod_uid == ""
    assert place(f"/pod{UID}/{ID}").pod_uid == ""


def test_hierarchies_that_differ_place_a_process_nowhere() -> None:
    one, two = f"/docker/{ID}", f"/docker/{OTHER}"
    assert parse_cgroup(f"5:pids:{one}\n4:memory:{one}\n0::/\n").container == ID
    assert parse_cgroup(f"5:pids:{one}\n4:memory:{two}\n").container == ""
    assert parse_cgroup("1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n").unit == ""


@examples(100)
@given(st.text(max_size=300) | st.text(alphabet=f"0:/.\n{ID[:4]}podkuberns-_", max_size=300))
def test_any_text_is_read_without_an_error_and_only_canonical_values_come_out(text: str) -> None:
    found = parse_cgroup(text)
    for kind, value in (
        ("systemd:unit", found.unit),
        ("container:id", found.container),
        ("k8s:pod-uid", found.pod_uid),
    ):
        if value:
            assert parse_selector(f"{kind}:{value}").value == value


def test_nobody_lives_nowhere() -> None:
    assert read_place(2**22 + 1) == Place()


# -- real processes in real groups


@pytest.fixture(params=["v2", "v1"])
def group(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Path]]:
    """Make groups, and remove those made when the processes in them have ended."""
    with cgroups.hierarchy(request.param) as root, cgroups.groups(root) as make:
        yield make


def holds(reader: Reader, process: object, *texts: str) -> bool:
    wanted = Registration("1", SpiffeId(TrustDomain("example.org"), "/web"), frozenset(map(parse_selector, texts)))
    return bool(entitled(reader.selectors(process, [wanted]), [wanted]))  # type: ignore[arg-type]


@as_root
def test_a_process_in_a_unit(group: Callable[[str], Path]) -> None:
    unit = f"meshca-test-{os.getpid()}.service"
    procs = group(f"/system.slice/{unit}/worker")
    with connecting() as caller:
        assert not holds(Reader(), caller.process, MINE, f"systemd:unit:{unit}")
        assert caller.order(f"group {procs}") == "done"

        assert holds(Reader(), caller.process, MINE, f"systemd:unit:{unit}")
        assert holds(Reader(), caller.process, f"systemd:unit:{unit}")
        assert not holds(Reader(), caller.process, f"systemd:unit:{unit[1:]}")
        caller.child.kill()
        caller.child.wait(20)


@as_root
def test_a_process_in_a_container(group: Callable[[str], Path]) -> None:
    procs = group(f"/system.slice/docker-{ID}.scope")
    with connecting() as caller:
        assert not holds(Reader(), caller.process, MINE, f"container:id:{ID}")
        assert caller.order(f"group {procs}") == "done"

        assert holds(Reader(), caller.process, MINE, f"container:id:{ID}")
        assert not holds(Reader(), caller.process, MINE, f"container:id:{OTHER}")
        assert not holds(Reader(), caller.process, MINE, f"k8s:pod-uid:{UID}")
        caller.child.kill()
        caller.child.wait(20)


class Listed:
    """Pods as a kubelet lists them."""

    def __init__(self, *pods: Pod) -> None:
        self.pods = {pod.uid: pod for pod in pods}
        self.asked: list[str] = []

    def find(self, uid: str) -> Pod | None:
        self.asked.append(uid)
        return self.pods.get(uid)


@as_root
def test_a_process_in_a_pod(group: Callable[[str], Path]) -> None:
    procs = group(f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/crio-{ID}.scope")
    pods = Listed(Pod(UID, "shop", "web-1", "web"))
    reader = Reader(pods=pods)
    with connecting() as caller:
        assert not holds(reader, caller.process, "k8s:ns:shop", "k8s:sa:web")
        assert caller.order(f"group {procs}") == "done"

        assert holds(reader, caller.process, f"k8s:pod-uid:{UID}", f"container:id:{ID}")
        assert pods.asked == [], "these two the kernel says"
        assert holds(reader, caller.process, "k8s:ns:shop", "k8s:sa:web", "k8s:pod-name:web-1")
        assert pods.asked == [UID]
        assert not holds(reader, caller.process, "k8s:ns:shop", "k8s:sa:other")
        assert not holds(reader, caller.process, "k8s:ns:other", "k8s:sa:web")
        assert not holds(Reader(), caller.process, "k8s:ns:shop"), "nobody knows the pods"
        assert not holds(Reader(pods=Listed()), caller.process, "k8s:ns:shop"), "no such pod"
        caller.child.kill()
        caller.child.wait(20)


@as_root
def test_only_questions_to_the_kubelet_are_slow(group: Callable[[str], Path]) -> None:
    with connecting() as caller:
        for text, slow in ((f"k8s:pod-uid:{UID}", False), ("systemd:unit:a.service", False), ("k8s:ns:shop", True)):
            wanted = Registration("1", SpiffeId(TrustDomain("example.org"), "/w"), frozenset({parse_selector(text)}))
            assert is_slow(caller.process, [wanted]) is slow


def test_this_very_process_lives_where_proc_says() -> None:
    assert read_place(os.getpid()) == parse_cgroup(Path("/proc/self/cgroup").read_text())
