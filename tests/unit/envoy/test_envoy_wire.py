from __future__ import annotations

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import health_check_pb2
from google.protobuf import wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from meshca.envoy import wire
from meshca.envoy.resources import serialised


@given(st.integers(0, 2**63 - 1))
def test_a_number_is_the_librarys(value: int) -> None:
    assert wire.number(1, value) == (wrappers_pb2.UInt64Value(value=value).SerializeToString() or b"\x08\x00")


@pytest.mark.parametrize("field", [0, 1, 2, 4, 8, 24, 33, 100])
def test_a_message_is_split_before_the_first_field_after_a_number(field: int) -> None:
    cluster = cluster_pb2.Cluster(name="c", type=cluster_pb2.Cluster.EDS, ignore_health_on_host_removal=True)
    cluster.connect_timeout.seconds = 300
    cluster.health_checks.append(health_check_pb2.HealthCheck(no_traffic_interval={"seconds": 1}))
    cluster.common_lb_config.healthy_panic_threshold.value = 7.5  # a fixed 64 bits inside
    head, tail = wire.split(serialised(cluster), field)
    assert head + tail == serialised(cluster)
    for part, inside in ((head, True), (tail, False)):
        found = cluster_pb2.Cluster.FromString(part)
        assert {one.number <= field for one, _ in found.ListFields()} <= {inside}


def test_fixed_sizes_are_skipped() -> None:
    double, single = wrappers_pb2.DoubleValue(value=1.5), wrappers_pb2.FloatValue(value=1.5)
    for message in (double, single):
        encoded = message.SerializeToString() + wire.message(2, b"x")
        assert wire.split(encoded, 1) == (message.SerializeToString(), wire.message(2, b"x"))


def test_contents_are_what_each_occurrence_holds() -> None:
    encoded = wire.message(2, b"a") + wire.number(4, 7) + wire.message(2, b"b") + wire.message(3, b"c")
    assert (list(wire.contents(encoded, 2)), list(wire.contents(encoded, 1))) == ([b"a", b"b"], [])
