"""How far a stream has come with a revision is known by content, whatever order things happen in."""

from __future__ import annotations

from collections.abc import Mapping

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from meshca.delivery.progress import ACKNOWLEDGED, REJECTED, WAITING, Progress
from meshca.xds.resource import CDS, LDS, RDS, SDS, Resource

TYPES = frozenset({CDS, LDS, SDS})
A, B, L, R = (Resource(kind, name, "1", b"") for kind, name in ((CDS, "a"), (CDS, "b"), (LDS, "l"), (RDS, "r")))


def at(resource: Resource, version: str, body: bytes = b"") -> Resource:
    return Resource(resource.type_url, resource.name, version, body)


def by_type(*resources: Resource) -> dict[str, dict[str, Resource]]:
    found: dict[str, dict[str, Resource]] = {}
    for resource in resources:
        found.setdefault(resource.type_url, {})[resource.name] = resource
    return found


def has(progress: Progress, *resources: Resource, given: tuple[str, ...] = ()) -> None:
    progress.made(by_type(*resources), TYPES, given)


def accepts(progress: Progress, *resources: Resource, newest: Mapping[str, str] | None = None) -> None:
    for kind, found in by_type(*resources).items():
        progress.acknowledged(kind, found, newest or {})


def begun(*resources: Resource, revision: int = 2) -> Progress:
    """Return the progress of a stream that had A, B, L and R, at a revision that makes them these."""
    progress = Progress()
    has(progress, A, B, L, R)
    progress.begin(revision, TYPES)
    assert progress.state_at(revision) == WAITING
    has(progress, *resources)
    progress.secrets(())
    return progress


def test_only_what_the_revision_changed_is_waited_for() -> None:
    progress = begun(at(A, "2"), B, L, R)
    assert progress.state_at(2) == WAITING
    accepts(progress, A, L)
    assert progress.state_at(2) == WAITING
    accepts(progress, at(A, "2"))
    assert (progress.state_at(2), progress.state_at(1), progress.state_at(3)) == (ACKNOWLEDGED, ACKNOWLEDGED, "")


def test_what_changes_nothing_is_acknowledged_at_once() -> None:
    assert begun(A, B, L, R).state_at(2) == ACKNOWLEDGED


def test_routes_are_waited_for_though_nobody_has_asked_yet() -> None:
    progress = begun(A, B, L, R, at(Resource(RDS, "new", "1", b""), "1"))
    assert progress.state_at(2) == WAITING
    accepts(progress, Resource(RDS, "new", "1", b""))
    assert progress.state_at(2) == ACKNOWLEDGED


def test_what_is_taken_away_must_be_given_up() -> None:
    progress = begun(A, L, R)
    assert (progress.state_at(2), progress.takes_away) == (WAITING, True)
    assert not progress.dropped(CDS, ["other"])
    assert progress.dropped(CDS, ["b"])
    assert (progress.state_at(2), progress.takes_away) == (ACKNOWLEDGED, False)


def test_routes_that_go_are_not_waited_for() -> None:
    assert begun(A, B, L).state_at(2) == ACKNOWLEDGED


def test_secrets_that_the_revision_changed_or_needs_are_waited_for() -> None:
    progress = Progress()
    has(progress, A, B, L, R)
    progress.begin(2, TYPES)
    has(progress, at(A, "2", cluster_with("servers:s")), B, L, R, given=("clients:80",))
    progress.secrets(["clients:80"])
    accepts(progress, at(A, "2"))
    # Nothing leads to clients:80 any more, so that an Envoy says nothing of it.
    assert progress.state_at(2) == WAITING
    accepts(progress, Resource(SDS, "servers:s", "old", b""), newest={"servers:s": "new"})
    assert progress.state_at(2) == WAITING
    accepts(progress, Resource(SDS, "servers:s", "new", b""), newest={"servers:s": "new"})
    assert progress.state_at(2) == ACKNOWLEDGED


def test_a_nack_is_the_revisions_only_where_it_carries_what_is_waited_for() -> None:
    progress = begun(at(A, "2"), B, L, R)
    assert not progress.rejected(LDS, ["l"], (), "no")
    assert progress.rejected(CDS, ["a", "b"], (), "no")
    assert (progress.state_at(2), progress.nack) == (REJECTED, "no")
    accepts(progress, at(A, "2"))
    assert (progress.state_at(2), progress.nack) == (ACKNOWLEDGED, "")
    taken = begun(A, L, R)
    assert taken.rejected(CDS, ["a"], ["b"], "")
    assert taken.nack == "rejected without a message"


def test_what_returns_to_what_was_acknowledged_is_not_waited_for() -> None:
    progress = begun(at(A, "2"), B, L, R)
    progress.begin(3, TYPES)
    has(progress, A, B, L, R)
    progress.secrets(())
    assert progress.state_at(3) == ACKNOWLEDGED


def test_a_later_revision_holds_up_the_one_before() -> None:
    progress = begun(at(A, "2"), B, L, R)
    progress.begin(3, TYPES)
    has(progress, at(A, "3"), B, L, R)
    progress.secrets(())
    accepts(progress, at(A, "2"))
    assert progress.state_at(2) == WAITING
    accepts(progress, at(A, "3"))
    assert progress.state_at(2) == progress.state_at(3) == ACKNOWLEDGED


def test_an_acknowledgement_of_before_proves_nothing() -> None:
    progress = begun(at(A, "2"), B, L, R)
    progress.begin(3, TYPES)
    accepts(progress, at(A, "2"))
    assert progress.state_at(3) == WAITING


def test_a_stream_of_secrets_alone_waits_for_secrets_alone() -> None:
    progress = Progress()
    progress.begin(2, {SDS})
    assert progress.state_at(2) == WAITING
    progress.secrets(["clients"])
    accepts(progress, Resource(SDS, "clients", "2", b""), newest={"clients": "2"})
    assert progress.state_at(2) == ACKNOWLEDGED


def cluster_with(secret: str) -> bytes:
    context = tls_pb2.UpstreamTlsContext()
    context.common_tls_context.validation_context_sds_secret_config.name = secret
    socket = base_pb2.TransportSocket(name="tls")
    socket.typed_config.Pack(context)
    body: bytes = cluster_pb2.Cluster(name="a", transport_socket=socket).SerializeToString()
    return body


def test_a_secret_is_not_waited_for_where_nothing_at_all_is_left() -> None:
    progress = Progress()
    has(progress, A, given=("servers:b",))
    progress.begin(2, TYPES)
    progress.secrets({"servers:b"})
    has(progress, given=("servers:b",))
    assert progress.state_at(2) == WAITING  # for the cluster
    progress.dropped(CDS, {"a"})
    assert progress.state_at(2) == ACKNOWLEDGED
