"""What holds for a process: the one place where selectors are read.

Rules this module keeps (design §7):
- User and groups are those at connect; everything else is read only if a registration asks for it of this user.
- What is read belongs to the process that connected: afterwards it still runs, under the same user.
- What can't be read doesn't hold; only a process that is no longer itself is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager

from meshca.attest.cgroup import Place, read_place
from meshca.attest.executable import Executables
from meshca.attest.pods import Pods
from meshca.attest.process import AttestationError, Process, require_alive, require_same
from meshca.errors import UnavailableError
from meshca.policy.entitlement import Registration, undecided
from meshca.policy.selector import (
    CONTAINER,
    GID,
    NAMESPACE,
    POD_NAME,
    POD_UID,
    SERVICE_ACCOUNT,
    SHA256,
    UID,
    UNIT,
    Selector,
)

_OF_PLACE = frozenset({UNIT, CONTAINER, NAMESPACE, SERVICE_ACCOUNT, POD_NAME, POD_UID})
_OF_POD = frozenset({NAMESPACE, SERVICE_ACCOUNT, POD_NAME})
_SLOW = frozenset({SHA256}) | _OF_POD


class Reader:
    """Reads selectors; ``pods`` knows the pods of this node, without it no `k8s:ns` holds."""

    def __init__(self, executables: Executables | None = None, pods: Pods | None = None) -> None:
        self._executables = executables or Executables()
        self._pods = pods

    def selectors(self, process: Process, registrations: Iterable[Registration] = ()) -> frozenset[Selector]:
        """Return what holds for a process, as far as these registrations ask for it.

        Raises:
            AttestationError: it is not, or no longer, the process that connected.
        """
        known = _immediate(process)
        wanted = undecided(known, registrations)
        if not wanted:
            return known
        types = {selector.type for selector in wanted}
        with _the_same(process):
            found = self._executables.selectors(process, types)
            if types & _OF_PLACE:
                found |= self._of_place(read_place(process.pid), types)
        return known | (found & wanted)

    def _of_place(self, place: Place, types: Set[str]) -> frozenset[Selector]:
        said = {UNIT: place.unit, CONTAINER: place.container, POD_UID: place.pod_uid}
        if place.pod_uid and self._pods is not None and types & _OF_POD:
            pod = self._pods.find(place.pod_uid)
            if pod is not None:
                said |= {NAMESPACE: pod.namespace, SERVICE_ACCOUNT: pod.service_account, POD_NAME: pod.name}
        return frozenset(Selector(kind, value) for kind, value in said.items() if value)


_LOCAL = Reader()  # all that it keeps is what it remembers of executables


def selectors(process: Process, registrations: Iterable[Registration] = ()) -> frozenset[Selector]:
    """Return what holds for a process on a host without Kubernetes, as far as these registrations ask for it.

    Raises:
        AttestationError: it is not, or no longer, the process that connected.
    """
    return _LOCAL.selectors(process, registrations)


def is_slow(process: Process, registrations: Iterable[Registration]) -> bool:
    """Return whether these registrations ask for something of this process that takes more than a moment to read."""
    return any(selector.type in _SLOW for selector in undecided(_immediate(process), registrations))


def _immediate(process: Process) -> frozenset[Selector]:
    groups = {process.gid, *process.groups}
    return frozenset({Selector(UID, str(process.uid)), *(Selector(GID, str(group)) for group in groups)})


@contextmanager
def _the_same(process: Process) -> Iterator[None]:
    """Hold a process while something is read of it, and raise unless it was the one that connected all the time."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError as error:
        raise AttestationError(f"process {process.pid} has ended") from error
    except OSError as error:
        raise UnavailableError(f"process {process.pid} can't be looked at now: {error.strerror}") from error
    try:
        yield
        # Asked afterwards alone: who is the process that connected now has been it all the time.
        require_alive(pidfd)
        require_same(process)
    finally:
        os.close(pidfd)
