"""Bytes in and out, and the limits on what comes in."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from hypothesis import given
from hypothesis import strategies as st

from meshca.xds import wire
from meshca.xds.messages import Request, Response
from meshca.xds.resource import ADS_TYPES, CDS, SDS, Resource

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
resources = st.builds(Resource, st.just(SDS), texts, texts, st.binary(max_size=40_000))
responses = st.builds(Response, texts, texts, st.lists(resources, max_size=4).map(tuple), st.tuples(texts))


@given(responses)
def test_sotw_responses_are_what_protobuf_reads(response: Response) -> None:
    read = DiscoveryResponse.FromString(wire.sotw(SDS, response))

    assert (read.version_info, read.type_url, read.nonce) == (response.version, SDS, response.nonce)
    assert [(any_.type_url, any_.value) for any_ in read.resources] == [(SDS, r.body) for r in response.resources]


@given(responses)
def test_delta_responses_are_what_protobuf_reads(response: Response) -> None:
    read = DeltaDiscoveryResponse.FromString(wire.delta(SDS, response))

    assert (read.system_version_info, read.type_url, read.nonce) == (response.version, SDS, response.nonce)
    assert tuple(read.removed_resources) == response.removed
    found = [(r.name, r.version, r.resource.type_url, r.resource.value) for r in read.resources]
    assert found == [(r.name, r.version, SDS, r.body) for r in response.resources]


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_request_or_a_bad_request(raw: bytes, delta: bool) -> None:
    try:
        request, node = wire.parse(raw, frozenset({SDS}), delta=delta)
        wire.node_info(node)
    except wire.BadRequestError:
        return
    assert request.type_url == SDS


def test_a_sotw_request_is_read() -> None:
    message = DiscoveryRequest(type_url=CDS, response_nonce="n", resource_names=["a", "b", "a"])
    message.error_detail.message = "bad"
    request, _node = wire.parse(message.SerializeToString(), ADS_TYPES, delta=False)

    assert request == Request(CDS, "n", "bad", frozenset({"a", "b"}))


def test_a_delta_request_is_read() -> None:
    message = DeltaDiscoveryRequest(
        type_url=CDS,
        resource_names_subscribe=["a"],
        resource_names_unsubscribe=["b"],
        initial_resource_versions={"c": "1"},
    )
    request, _node = wire.parse(message.SerializeToString(), ADS_TYPES, delta=True)

    assert request == Request(CDS, "", None, frozenset({"a"}), frozenset({"b"}), {"c": "1"})


def test_an_error_without_words_is_still_a_rejection() -> None:
    message = DiscoveryRequest(type_url=SDS)
    message.error_detail.code = 13
    request, _node = wire.parse(message.SerializeToString(), ADS_TYPES, delta=False)

    assert request.error == ""


def test_a_service_of_one_type_implies_it() -> None:
    assert wire.parse(b"", frozenset({SDS}), delta=False)[0].type_url == SDS
    with pytest.raises(wire.BadRequestError, match="unknown resource type"):
        wire.parse(b"", ADS_TYPES, delta=False)


def test_names_are_limited_in_number_and_bytes() -> None:
    def parse(*names: str) -> None:
        message = DiscoveryRequest(type_url=SDS, resource_names=names)
        wire.parse(message.SerializeToString(), ADS_TYPES, delta=False)

    parse(*map(str, range(wire.MAX_NAMES)))
    parse("x" * wire.MAX_NAME_BYTES)
    with pytest.raises(wire.BadRequestError, match="5001 resource names"):
        parse(*map(str, range(wire.MAX_NAMES + 1)))
    with pytest.raises(wire.BadRequestError, match="longer than 2048 bytes"):
        parse("ö" * (wire.MAX_NAME_BYTES // 2 + 1))


@pytest.mark.parametrize("delta", [False, True])
def test_repeated_names_count_too_for_they_cost_as_much(delta: bool) -> None:
    many = ["x"] * (wire.MAX_NAMES + 1)
    sotw: DiscoveryRequest | DeltaDiscoveryRequest = DiscoveryRequest(type_url=SDS, resource_names=many)
    raw = (DeltaDiscoveryRequest(type_url=SDS, resource_names_subscribe=many) if delta else sotw).SerializeToString()

    with pytest.raises(wire.BadRequestError, match="5001 resource names"):
        wire.parse(raw, ADS_TYPES, delta=delta)


def test_metadata_is_limited_in_bytes_for_who_sends_it_is_not_known_yet() -> None:
    message = DiscoveryRequest(type_url=SDS)
    message.node.metadata.update({"x": "y" * (wire.MAX_METADATA_BYTES - 100)})
    assert "x" in wire.node_info(message.node).metadata
    message.node.metadata.update({"z": "y" * 100})

    with pytest.raises(wire.BadRequestError, match=r"node\.metadata"):
        wire.node_info(message.node)


def test_a_node_id_is_limited_in_bytes() -> None:
    message = DiscoveryRequest(type_url=SDS)
    message.node.id = "ö" * (wire.MAX_NAME_BYTES // 2)
    assert wire.node_info(message.node).id == message.node.id
    message.node.id += "x"

    with pytest.raises(wire.BadRequestError, match=r"node\.id"):
        wire.node_info(message.node)


def test_a_node_says_who_it_is() -> None:
    message = DiscoveryRequest()
    message.node.id, message.node.cluster = "n", "c"
    message.node.user_agent_name, message.node.user_agent_version = "envoy", "1.40"
    message.node.metadata.update({"meshca": {"egress": "127.0.0.1"}})
    node = wire.node_info(message.node)

    assert (node.id, node.cluster, node.user_agent) == ("n", "c", "envoy/1.40")
    assert node.metadata == {"meshca": {"egress": "127.0.0.1"}}


def test_a_long_rejection_is_cut() -> None:
    message = DiscoveryRequest(type_url=SDS)
    message.error_detail.message = "x" * 100_000
    request, _node = wire.parse(message.SerializeToString(), ADS_TYPES, delta=False)

    assert len(request.error or "") == 4_096


def test_a_private_key_does_not_show_in_a_repr() -> None:
    assert "KEY" not in repr(Resource(SDS, "a", "1", b"PRIVATE KEY"))
