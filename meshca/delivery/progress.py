"""How far one stream has come with the newest mesh revisions.

Rules kept here:
- Content counts, not versions of the whole: a stream has a revision once every resource that the revision changed for
  it has been acknowledged as it now is, and every listener and cluster that it took away has been given up.
- What was under way before does not hold a revision up: a resource that a revision left alone is not waited for.
- A revision that changes nothing for a stream does not concern it.
- A NACK of a response that carries something waited for is the revision's; it stands until the next revision, or until
  all is acknowledged after all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from meshca.delivery.generated import ByType
from meshca.delivery.whole import secrets_named_by, secrets_of
from meshca.xds.resource import CDS, EDS, LDS, RDS, SDS, Resource

WAITING, ACKNOWLEDGED, REJECTED = "waiting", "acknowledged", "rejected"

Key: TypeAlias = tuple[str, str]
"""Type and name."""

_LEADS_TO = {LDS: RDS, CDS: EDS}
_TAKEN_AWAY = (LDS, CDS)


class Progress:
    """What one stream has yet to acknowledge."""

    __slots__ = ("_awaited", "_before", "_is_made", "_leaving", "_made", "_unread", "nack", "revision")

    def __init__(self) -> None:
        self.revision = 0
        """The newest revision that has changed, or may have changed, something for this stream."""
        self.nack = ""
        self._made: ByType = {}
        self._is_made = False  # nothing at all may be what there is
        self._awaited: set[Key] = set()
        self._leaving: set[Key] = set()
        self._before: dict[Key, str] = {}  # what was acknowledged before of what is waited for: if it returns, it is
        self._unread: set[str] = set()  # "made" and SDS: not yet compared with what was before

    def state_at(self, revision: int) -> str:
        """Return how far it has come with a revision; empty where that has changed nothing for it."""
        if self.revision < revision:
            return ""
        if self.nack:
            return REJECTED
        return WAITING if self._unread or self._awaited or self._leaving else ACKNOWLEDGED

    def begin(self, revision: int, types: Collection[str]) -> None:
        """Note that a revision may have changed something for this stream."""
        self.revision, self.nack = revision, ""
        self._unread = {kind for kind in types if kind == SDS} | ({LDS} if set(types) - {SDS} else set())

    def made(self, by_type: ByType, types: Collection[str], given: Collection[str]) -> bool:
        """Take what the stream is to have of generated resources; ``given`` are the secrets it has been given.

        Returns whether that has settled anything.
        """
        before, self._made, self._is_made = self._made, by_type, True
        if LDS not in self._unread:
            return False
        self._unread.discard(LDS)
        wanted = {*types, *(_LEADS_TO[kind] for kind in types if kind in _LEADS_TO)} - {SDS}
        for type_url in wanted:
            self._compare(type_url, before.get(type_url, {}), by_type.get(type_url, {}), given)
        self._leave_out()
        return self._settled()

    def _leave_out(self) -> None:
        """Stop waiting for secrets that nothing leads to any more: an Envoy drops them without a word."""
        secrets = {key for key in self._awaited if key[0] == SDS}
        if secrets and self._is_made and LDS not in self._unread:
            self._awaited -= secrets - {(SDS, name) for name in secrets_of(self._made)}

    def _compare(
        self, type_url: str, before: Mapping[str, Resource], after: Mapping[str, Resource], given: Collection[str]
    ) -> None:
        for name, resource in after.items():
            key = (type_url, name)
            old = before.get(name)
            self._leaving.discard(key)
            if self._before.get(key) == resource.version:
                self._awaited.discard(key)
            elif old is None or old.version != resource.version:
                if key not in self._awaited and old is not None:
                    self._before[key] = old.version
                self._awaited.add(key)
                self._awaited |= {(SDS, secret) for secret in secrets_named_by(resource) if secret not in given}
        for name in before.keys() - after.keys():
            self._awaited.discard((type_url, name))
            if type_url in _TAKEN_AWAY:
                self._leaving.add((type_url, name))

    def secrets(self, changed: Collection[str]) -> bool:
        """Take the names of the secrets, of those it has been given, that the revision has changed."""
        self._unread.discard(SDS)
        self._awaited |= {(SDS, name) for name in changed}
        self._leave_out()
        return self._settled()

    @property
    def takes_away(self) -> bool:
        """Whether there are clusters that the client is to give up and has not, as far as is known."""
        return LDS in self._unread or any(kind == CDS for kind, _ in self._leaving)

    def acknowledged(self, type_url: str, resources: Mapping[str, Resource], newest: Mapping[str, str]) -> bool:
        """Take an acknowledgement; ``newest`` are the versions of secrets as given last."""
        if not self._awaited:
            return False
        for name, resource in resources.items():
            if type_url == SDS:
                is_newest = SDS not in self._unread and newest.get(name) in (None, resource.version)
            else:
                now = self._made.get(type_url, {}).get(name)
                is_newest = LDS not in self._unread and now is not None and now.version == resource.version
            if is_newest:
                self._awaited.discard((type_url, name))
        return self._settled()

    def dropped(self, type_url: str, names: Collection[str]) -> bool:
        """Take the client's word that it has given these up."""
        if not self._leaving:
            return False
        self._leaving -= {(type_url, name) for name in names}
        return self._settled()

    def rejected(self, type_url: str, resources: Collection[str], removed: Collection[str], message: str) -> bool:
        """Take a NACK; return whether it is the revision's."""
        waited = {(type_url, name) for name in resources} & self._awaited
        waited |= {(type_url, name) for name in removed} & self._leaving
        if waited:
            self.nack = message or "rejected without a message"
        return bool(waited)

    def _settled(self) -> bool:
        if self._unread or self._awaited or self._leaving:
            return False
        self.nack = ""
        self._before.clear()
        return True
