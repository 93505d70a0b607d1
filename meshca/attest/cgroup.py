"""Where a process lives: its systemd unit, container and pod, as the path of its control group tells.

Rules this module keeps:
- A path is read from the root down, for what lies below a unit or container is named by whoever runs in it: a user may
  make a group `docker-….scope` below its own `user@1000.service`, and a container any group below its own. The first
  unit and the first container count, and nothing after what isn't known.
- A process that two hierarchies place in two different units, containers or pods (cgroup v1) is in none.
- Only names that container runtimes give are known: docker, containerd, CRI-O, podman, ECS, with the `systemd` and the
  `cgroupfs` driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

_LONGEST = 64 * 1024

_ID = r"(?P<id>[0-9a-f]{64})"
_CONTAINER = re.compile(
    rf"(?:(?:docker|cri-containerd|crio|libpod|nerdctl)-{_ID}(?:\.scope)?)|"
    rf"(?:kube[-\w.]*\.slice:(?:cri-containerd|crio|docker):{_ID.replace('id', 'joined')})|"
    rf"{_ID.replace('id', 'bare')}"
)
_UID = r"(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
_POD = re.compile(rf"(?:(?:kubelet-)?kubepods-(?:burstable-|besteffort-)?)?pod{_UID}(?:\.slice(?::.*)?)?")
_TASK = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # of ECS
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope|socket|mount|swap)")
# Folders that a container runtime puts above its containers, not as a unit of systemd's.
_FOLDERS = frozenset(
    {"docker", "kubelet", "kubepods", "burstable", "besteffort", "guaranteed", "ecs", "default", "libpod_parent",
     "containerd.service"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process lives; each is empty where it lives in none."""

    unit: str = ""
    container: str = ""
    pod_uid: str = ""


def read_place(pid: int) -> Place:
    """Return where process ``pid`` lives; nowhere, if that can't be read."""
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            raw = file.read(_LONGEST + 1)
    except OSError:
        return Place()
    return parse_cgroup(raw.decode("utf-8", "surrogateescape")) if len(raw) <= _LONGEST else Place()


@lru_cache(maxsize=256)
def parse_cgroup(text: str) -> Place:
    """Return where a process lives, by the text of its ``/proc/<pid>/cgroup`` (cgroups(7))."""
    places = [
        _place(path, of_systemd=number == "0" or controllers == "name=systemd")
        for number, controllers, path in (line.split(":", 2) for line in text.split("\n") if line.count(":") >= 2)
    ]
    return Place(
        _agreed(place.unit for place in places),
        _agreed(place.container for place in places),
        _agreed(place.pod_uid for place in places),
    )


def _agreed(said: Iterable[str]) -> str:
    found = {value for value in said if value}
    return found.pop() if len(found) == 1 else ""


def _place(path: str, *, of_systemd: bool) -> Place:
    parts = path.split("/")[1:]
    # A reader in a cgroup namespace of its own sees what lies beside it as /../…
    while parts and parts[0] == "..":
        parts.pop(0)
    container, pod_uid = _container(parts)
    return Place(_unit(parts) if of_systemd else "", container, pod_uid)


def _unit(parts: list[str]) -> str:
    """Return the first part that is no slice, if it is named as a unit."""
    for part in parts:
        if not part.endswith(".slice"):
            # systemd puts a _ before names that the kernel could take for its own files.
            name = part.removeprefix("_")
            return name if _UNIT.fullmatch(name) else ""
    return ""


def _container(parts: list[str]) -> tuple[str, str]:
    pod_uid = ""
    above = ""
    for part in parts:
        if not pod_uid and (pod := _POD.fullmatch(part)) and _below_kubernetes(part, above):
            pod_uid = pod["uid"].replace("_", "-")
        if (found := _CONTAINER.fullmatch(part)) and (above or not found["bare"]):
            return found["id"] or found["joined"] or found["bare"], pod_uid
        if not _leads_on(part, above):
            break
        above = part
    return "", ""


def _below_kubernetes(part: str, above: str) -> bool:
    return part.startswith(("kubepods", "kubelet")) or above in {"kubepods", "burstable", "besteffort", "guaranteed"}


def _leads_on(part: str, above: str) -> bool:
    if part in _FOLDERS or part.endswith(".slice") or _POD.fullmatch(part):
        return True
    return above == "ecs" and _TASK.fullmatch(part) is not None
