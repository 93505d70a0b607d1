"""What an operator should know, as ``status`` shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from meshca.authority.certify import is_brought
from meshca.authority.freezing import described
from meshca.delivery.snapshot import Snapshot
from meshca.policy.entitlement import Registration
from meshca.server.house import House
from meshca.store.federation import Federation
from meshca.xds.registry import StreamRow

OFFLINE_NEXT = (
    "there is no issuing CA yet: start the server, print the request with `meshca ca csr`, have it signed by the root, "
    "and bring the chain with `meshca ca import CHAIN.pem [--crl F]`"
)


_SHOWN_NACKS = 20
_LONGEST_NACK = 300


def warnings_of(
    house: House, snapshot: Snapshot, streams: Sequence[StreamRow] = (), federations: Sequence[Federation] = ()
) -> tuple[str, ...]:
    """Return the present warnings."""
    return (*_warnings(house, snapshot), *_federations(federations), *_rejections(streams))


def _rejections(streams: Sequence[StreamRow]) -> Iterator[str]:
    """Say which Envoys have rejected what they were sent, and go on with what they had before."""
    rejecting = [row for row in streams if row.nack]
    for row in rejecting[:_SHOWN_NACKS]:
        kind = row.type_url.rpartition(".")[2]
        yield f"the Envoy {row.node_id} has rejected a {kind}, and goes on with what it had: {row.nack[:_LONGEST_NACK]}"
    if len(rejecting) > _SHOWN_NACKS:
        yield f"{len(rejecting) - _SHOWN_NACKS} more have rejected something; see `meshca envoy list`"


def _warnings(house: House, snapshot: Snapshot) -> Iterator[str]:
    for problem in house.authority.problems:
        yield f"{problem.what} fails since {problem.since.isoformat(timespec='seconds')}: {problem.reason}"
    for trouble in house.keys.troubles:
        yield f"a CA key does not sign: {trouble}"
    yield from house.clock_watch.warnings
    realm = house.authority.realm
    if house.config.lifetimes != realm.lifetimes:
        lives = " ".join(f"{name}={life}" for name, life in realm.lifetimes.as_text().items())
        yield f"meshca.toml says other lifetimes than those made at init, which hold: {lives}"
    if snapshot.frozen is not None:
        yield f"issuance is {described(snapshot.frozen)}; `meshca unfreeze` ends that"
    yield from _upstream(house, snapshot)
    yield from _restored(house, snapshot)
    for registration in snapshot.registrations:
        if _holds_for_server(registration):
            yield (
                f"registration {registration.id} entitles the server's own uid {os.geteuid()} to "
                f"{registration.spiffe_id}: whoever runs as the server can have it"
            )
        if snapshot.mesh.identities.holder(registration.spiffe_id) is None:
            yield f"registration {registration.id} entitles nobody: no applied mesh has {registration.spiffe_id}"


def _holds_for_server(registration: Registration) -> bool:
    return not registration.parent and any(
        str(selector) == f"unix:uid:{os.geteuid()}" for selector in registration.selectors
    )


def _upstream(house: House, snapshot: Snapshot) -> Iterator[str]:
    """Say what an operator should know of a root that was not made here."""
    trust, now = snapshot.trust, house.clock.now()
    if not trust.authorities:
        yield OFFLINE_NEXT
    for ca in trust.without_crl:
        yield (
            f"CA {ca.id} of the upstream has no usable CRL: Envoys look up leaves alone, and would not notice that it "
            "has revoked a CA; bring one with `meshca ca import --crl F`, or see that the upstream keeps one"
        )
    for root in trust.roots:
        middle = root.not_before + (root.not_after - root.not_before) / 2
        if root.id not in trust.foreign and is_brought(root) and now >= middle:
            end = root.not_after.isoformat(timespec="seconds")
            yield (
                f"half of the life of the root {root.id} is over (it ends {end}), and it was brought, so that no "
                "schedule replaces it: `meshca rotate root` makes a successor here"
            )


def _federations(federations: Sequence[Federation]) -> Iterator[str]:
    for one in federations:
        if one.failure:
            fetched = one.fetched_at.isoformat(timespec="seconds") if one.fetched_at else "never"
            yield f"no new bundle of {one.endpoint.trust_domain} (the last: {fetched}): {one.failure}"


def _restored(house: House, snapshot: Snapshot) -> Iterator[str]:
    """Say what a restored server does not know, for as long as a leaf issued in the dark can be good."""
    if house.restored is None:
        return
    until = house.restored.restored_at + house.authority.lifetimes.leaf
    suspects = [issuer.id for issuer in snapshot.trust.issuing if issuer.not_before <= house.restored.restored_at]
    if suspects and house.clock.now() < until:
        restored, made, end = (
            moment.isoformat(timespec="seconds")
            for moment in (house.restored.restored_at, house.restored.backup_at, until)
        )
        yield (
            f"restored at {restored} from a backup of {made}: "
            "certificates issued and revocations, suspensions and specs made in between are unknown here; "
            f"`meshca ca taint {' '.join(suspects)}` ends those certificates, or wait until {end}, "
            "when the last of them has expired"
        )
