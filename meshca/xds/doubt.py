"""What a client has rejected and not yet accepted again, by resource name.

Rules this module keeps:
- A NACK names no resource, so all of its response are in doubt, each with the content that was in it.
- A name leaves doubt when any content of it is accepted; what it was rejected with is then history.
- The same content may be asked for again once per reason: a response of several was rejected (one of them only may be
  at fault), something else was accepted or given up since, or a new stream began.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set

from meshca.xds.resource import Resource

Reword = Callable[[Resource, int], Resource]

_MAX_ATTEMPTS = 64


class Doubt:
    """The rejected content of one subscription."""

    __slots__ = ("_again", "_attempts", "_digests", "_rejected")

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}
        self._again: set[str] = set()
        self._attempts = 0
        # Every content rejected on this stream since its name was last accepted: digest → name.
        self._rejected: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._digests)

    @property
    def names(self) -> Set[str]:
        """Return the names in doubt."""
        return self._digests.keys()

    @property
    def again(self) -> Set[str]:
        """Return the names that may be asked for again with the content that is in doubt."""
        return self._again

    def concerns(self, resource: Resource) -> bool:
        """Return whether it is this very content that is in doubt."""
        return self._digests.get(resource.name) == resource.digest

    def remembers(self, resource: Resource) -> bool:
        """Return whether these bytes were rejected on this stream."""
        return resource.digest in self._rejected

    def reject(self, asked: Mapping[str, Resource], sent: Mapping[str, Resource]) -> None:
        """Put a rejected response in doubt: what we meant (``asked``) and the bytes that went out (``sent``)."""
        for name, resource in asked.items():
            self._digests[name] = resource.digest
            self._rejected[resource.digest] = name
            self._rejected[sent[name].digest] = name
        if len(asked) > 1:
            self._again.update(asked)
        else:
            self._again.difference_update(asked)

    def inherit(self, resource: Resource) -> None:
        """Put content in doubt that this node rejected on another stream; a new stream is a reason to ask again."""
        self._digests[resource.name] = resource.digest
        self._again.add(resource.name)

    def accept(self, names: Collection[str]) -> None:
        """Take these names out of doubt."""
        if not (self._digests or self._rejected):
            return
        self.forget(names)
        accepted = set(names)
        self._rejected = {digest: name for digest, name in self._rejected.items() if name not in accepted}

    def forget(self, names: Iterable[str]) -> None:
        """Drop names that are no longer wanted; that their content was rejected is still remembered."""
        for name in names:
            self._digests.pop(name, None)
            self._again.discard(name)

    def ask_again(self) -> None:
        """Allow one more attempt for all that is in doubt."""
        self._again.update(self._digests)

    def spend(self, resource: Resource, nacked: Collection[str], reword: Reword) -> Resource | None:
        """Use up the attempt for ``resource``: return it in words the node has not rejected, or None."""
        self._again.discard(resource.name)
        for _ in range(_MAX_ATTEMPTS):
            self._attempts += 1
            other = reword(resource, self._attempts)
            if other.digest == resource.digest:
                return None
            if other.digest not in nacked and not self.remembers(other):
                return other
        return None
