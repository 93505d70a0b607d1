from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3 import route_components_pb2
from envoy_meshes import client, messages, route, router, server, service, snapshot
from google.protobuf import json_format

from meshca.envoy import matches
from meshca.envoy.matches import EXACT, PREFIX, REGEX, Match, Path
from meshca.mesh.spec.routes import GrpcRouteMatch, HttpRouteMatch


def _http(**written: Any) -> Any:
    made = matches.message(matches.of_http(HttpRouteMatch.model_validate({"prefix": "/", **written})))
    return json_format.MessageToDict(made, preserving_proto_field_name=True)


def _grpc(**written: Any) -> Any:
    made = matches.message(matches.of_grpc(GrpcRouteMatch.model_validate(written)))
    return json_format.MessageToDict(made, preserving_proto_field_name=True)


HEADER = {"name": "x", "invert_match": False}


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({"prefix": "/p"}, {"prefix": "/p"}),
        ({"prefix": None, "path": {"exact": "/p"}}, {"path": "/p"}),
        ({"prefix": None, "path": {"regex": "/p.*"}}, {"safe_regex": {"regex": "/p.*"}}),
        ({"prefix": None, "port": 80}, {"prefix": "/"}),
    ],
)
def test_a_path(written: dict[str, Any], found: dict[str, Any]) -> None:
    assert _http(**written) == found


@pytest.mark.parametrize(
    ("written", "header"),
    [
        ({"method": "GET"}, {"name": ":method", "string_match": {"exact": "GET"}}),
        ({"scheme": "https"}, {"name": ":scheme", "string_match": {"exact": "https"}}),
        ({"headers": [{"name": "x"}]}, {"name": "x", "present_match": True}),
        ({"headers": [{"name": "x", "invert": True}]}, {"name": "x", "present_match": True, "invert_match": True}),
        ({"headers": [{"name": "x", "match": {"exact": "v"}}]}, {"name": "x", "string_match": {"exact": "v"}}),
        ({"headers": [{"name": "x", "match": {"prefix": "v"}}]}, {"name": "x", "string_match": {"prefix": "v"}}),
        ({"headers": [{"name": "x", "match": {"suffix": "v"}}]}, {"name": "x", "string_match": {"suffix": "v"}}),
        (
            {"headers": [{"name": "x", "match": {"regex": "v"}, "invert": True}]},
            {"name": "x", "string_match": {"safe_regex": {"regex": "v"}}, "invert_match": True},
        ),
        (
            {"headers": [{"name": "x", "match": {"range": {"start": 1, "end": 100}}}]},
            {"name": "x", "range_match": {"start": "1", "end": "100"}},
        ),
    ],
)
def test_a_header(written: dict[str, Any], header: dict[str, Any]) -> None:
    assert _http(**written)["headers"] == [header]


def test_query_parameters() -> None:
    query = [{"name": "q", "match": {"exact": "v"}}, {"name": "r"}, {"name": "s", "match": {}}]
    assert _http(queryParameters=query)["query_parameters"] == [
        {"name": "q", "string_match": {"exact": "v"}},
        {"name": "r", "present_match": True},
        {"name": "s", "present_match": True},
    ]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({}, {"prefix": "/"}),
        ({"serviceName": "s.S"}, {"prefix": "/s.S/"}),
        ({"serviceName": "/s.S/"}, {"prefix": "/s.S/"}),
        ({"serviceName": "s.S", "methodName": "M"}, {"path": "/s.S/M"}),
        ({"metadata": [{"name": "m"}]}, {"prefix": "/", "headers": [{"name": "m", "present_match": True}]}),
    ],
)
def test_grpc_calls(written: dict[str, Any], found: dict[str, Any]) -> None:
    assert _grpc(**written) == {**found, "grpc": {}}


@pytest.mark.parametrize(
    ("also", "matcher"),
    [
        (Path(PREFIX, "/p"), {"prefix": "/p"}),
        (Path(EXACT, "/p.x"), {"safe_regex": {"regex": r"(?:/p\.x)(?:[?#].*)?"}}),
        (Path(REGEX, "/p.*"), {"safe_regex": {"regex": "(?:/p.*)(?:[?#].*)?"}}),
    ],
)
def test_a_second_path_is_compared_with_its_query(also: Path, matcher: dict[str, Any]) -> None:
    made = json_format.MessageToDict(matches.message(Match(also=(also,))), preserving_proto_field_name=True)
    assert made["headers"] == [{"name": ":path", "string_match": matcher}]


def test_routes_are_tried_exact_then_regex_then_longest_prefix_then_by_what_else_they_ask_for() -> None:
    written: dict[str, dict[str, Any]] = {
        "a": {"prefix": "/"},
        "b": {"prefix": "/", "queryParameters": [{"name": "q"}]},
        "c": {"prefix": "/", "headers": [{"name": "h"}]},
        "d": {"prefix": "/", "method": "GET"},
        "e": {"prefix": "/longer"},
        "f": {"path": {"regex": "/r.*"}},
        "g": {"path": {"exact": "/x"}},
        "h": {"prefix": "/", "priority": 7},
    }
    objects = [
        route("r", name, {name: 1}, match={key: one for key, one in match.items() if key != "priority"},
              **({"priority": match["priority"]} if "priority" in match else {}))
        for name, match in written.items()
    ]  # fmt: skip
    servers = [server(name) for name in written]
    found = messages(snapshot(*servers, router("r"), service("s", router="r"), *objects, client("front", "s")), "front")
    (host,) = found["rds_egress_http_8080"].virtual_hosts
    assert [one.route.cluster.removeprefix("cds_egress_demo_")[0] for one in host.routes] == list("hgfedcba")
    assert isinstance(host.routes[0], route_components_pb2.Route)
