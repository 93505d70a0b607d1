"""What a client has of one type, as far as it was sent it or says so.

Rules this module keeps:
- Content that a reconnecting client names is known by its version alone: its digest is not known, until the source
  confirms it or something is sent.
- The version of the whole follows from the names and versions, and from nothing else: it is the same after a restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, KeysView, Mapping

from meshca.xds.resource import Resource


class Holding:
    """Names with the version and the digest of their content."""

    __slots__ = ("_contents",)

    def __init__(self) -> None:
        self._contents: dict[str, tuple[str, str]] = {}

    @property
    def names(self) -> KeysView[str]:
        """Return the names of which the client has something."""
        return self._contents.keys()

    @property
    def versions(self) -> dict[str, str]:
        """Return the version that it has of each name."""
        return {name: version for name, (version, _) in self._contents.items()}

    @property
    def version(self) -> str:
        """Return the version of the whole."""
        content = "\0".join(f"{name}\0{version}" for name, (version, _) in sorted(self._contents.items()))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def claim(self, versions: Mapping[str, str]) -> None:
        """Take the client's word for what it has, in place of anything before."""
        self._contents = {name: (version, "") for name, version in versions.items()}

    def claims(self, resource: Resource) -> bool:
        """Tell whether the client says, and nobody has confirmed, that it has this."""
        return self._contents.get(resource.name) == (resource.version, "")

    def has(self, resource: Resource) -> bool:
        """Tell whether the client has just this."""
        return self._contents.get(resource.name) == (resource.version, resource.digest)

    def is_exactly(self, resources: Collection[Resource]) -> bool:
        """Tell whether the client has just these, and nothing else."""
        return len(resources) == len(self._contents) and all(map(self.has, resources))

    def put(self, resources: Iterable[Resource]) -> None:
        """Note that the client has these now."""
        for resource in resources:
            self._contents[resource.name] = (resource.version, resource.digest)

    def drop(self, names: Iterable[str]) -> None:
        """Note that the client has nothing of these names any more."""
        for name in names:
            self._contents.pop(name, None)

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Forget what is not wanted."""
        self._contents = {name: content for name, content in self._contents.items() if wanted(name)}

    def clear(self) -> None:
        """Forget everything."""
        self._contents.clear()
