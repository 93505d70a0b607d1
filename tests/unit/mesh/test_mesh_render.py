from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import (
    MESH,
    backend,
    client_policy,
    create_input,
    examples,
    gateway_route,
    made,
    mutual,
    parsed,
    router,
)

from meshca.mesh.model import KINDS, PARENT_KINDS
from meshca.mesh.render import canonical_json, envelope
from meshca.mesh.source import Source, parse_documents, parse_envelope

_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
_names = st.text("abzA0._-", min_size=1, max_size=12).filter(lambda name: name not in {".", ".."})
_hosts = st.text("aé0.E-", min_size=1, max_size=12)
_headers_names = st.text("aA0-_:", min_size=1, max_size=5).filter(lambda name: ":" not in name[1:] and name != ":")
_regexes = st.sampled_from(["a", "0E0", "^/x/[0-9]{1,3}$", "(?i)y|no", "~", ".*"])
_ports = st.integers(1, 65535)
_duration = st.fixed_dictionaries({"unit": st.sampled_from(["s", "ms"]), "value": st.integers(0, 10**6)})


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def _only(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of([st.fixed_dictionaries({name: value}) for name, value in fields.items()])


_files = st.fixed_dictionaries({"certificateChain": _text, "privateKey": _text})
_secrets = st.fixed_dictionaries({"secretName": _text})
_exact = st.lists(_text, max_size=3)
_tls = st.one_of(
    st.builds(
        lambda names, mode: mutual(*names, mode=mode), _exact, st.sampled_from(["STRICT", "PERMISSIVE", "DISABLED"])
    ),
    st.fixed_dictionaries({"mode": st.just("STRICT"), "certificate": _only(file=_files, sds=_secrets)}),
)
_policies: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.fixed_dictionaries(
    {
        "tls": st.builds(
            lambda names, rest: client_policy(*names, **rest)["tls"],
            _exact,
            _some(
                enforce=st.booleans(), ports=st.lists(_ports, max_size=2), certificate=_only(file=_files, sds=_secrets)
            ),
        )
    }
)


@st.composite
def _listeners(draw: st.DrawFn, protocols: tuple[str, ...]) -> list[dict[str, Any]]:
    listeners = []
    for port in draw(st.lists(_ports, min_size=1, max_size=3, unique=True)):
        protocol = draw(st.sampled_from(protocols))
        found: dict[str, Any] = {"portMapping": {"port": port, "protocol": protocol}}
        if draw(st.booleans()):
            found["tls"] = draw(_tls)
        if "tcp" in protocols and draw(st.booleans()):
            found["timeout"] = {protocol: draw(_some(idle=_duration))}
        listeners.append(found)
    return listeners


_formats = _text.map(lambda text: text.replace("%", "%%"))
_nodes = _some(
    serviceDiscovery=_only(
        dns=st.fixed_dictionaries({"hostname": _hosts}, optional={"responseType": st.just("ENDPOINTS")}),
        awsCloudMap=st.fixed_dictionaries({"namespaceName": _hosts, "serviceName": _hosts}),
    ),
    listeners=_listeners(("http", "http2", "grpc", "tcp")),
    backendDefaults=st.fixed_dictionaries({"clientPolicy": _policies}),
    backends=st.lists(_names, unique_by=str.lower, max_size=3).flatmap(
        lambda names: st.tuples(*(_some(clientPolicy=_policies).map(_backend_of(name)) for name in names)).map(list)
    ),
    logging=_some(
        accessLog=st.fixed_dictionaries(
            {
                "file": st.fixed_dictionaries(
                    {"path": st.sampled_from(["/dev/stdout", "/var/log/\u00e9 x.log", "access.log", "/a/..b/."])},
                    optional={
                        "format": _only(
                            text=_formats,
                            json=st.lists(st.fixed_dictionaries({"key": _text, "value": _formats}), max_size=2),
                        )
                    },
                )
            }
        )
    ),
)


def _backend_of(name: str) -> Any:
    return lambda fields: backend(name, **fields)


_targets = st.lists(
    st.fixed_dictionaries({"virtualNode": _names, "weight": st.integers(0, 100)}, optional={"port": _ports}),
    min_size=1,
    max_size=3,
)
_actions = st.fixed_dictionaries({"weightedTargets": _targets})
_headers = st.lists(
    st.fixed_dictionaries(
        {"name": _headers_names},
        optional={
            "match": _only(exact=_text, regex=_regexes, range=st.just({"start": 1, "end": 3})),
            "invert": st.booleans(),
        },
    ),
    min_size=1,
    max_size=2,
)
_http = st.fixed_dictionaries(
    {
        "match": st.fixed_dictionaries(
            {"prefix": _text.map("/{}".format)}, optional={"headers": _headers, "port": _ports}
        ),
        "action": _actions,
    },
    optional={"timeout": _some(perRequest=_duration, idle=_duration)},
)
_routes = st.builds(
    lambda kind, rest: {**kind, **rest},
    _only(
        httpRoute=_http,
        http2Route=_http,
        grpcRoute=st.fixed_dictionaries({"match": _some(serviceName=_text, metadata=_headers), "action": _actions}),
        tcpRoute=st.fixed_dictionaries({"action": _actions}, optional={"match": _some(port=_ports)}),
    ),
    _some(priority=st.integers(0, 1000)),
)
_SPECS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "mesh": _some(egressFilter=st.fixed_dictionaries({"type": st.sampled_from(["ALLOW_ALL", "DROP_ALL"])})),
    "virtualNode": _nodes,
    "virtualService": _some(
        provider=_only(
            virtualNode=st.fixed_dictionaries({"virtualNodeName": _names}),
            virtualRouter=st.fixed_dictionaries({"virtualRouterName": _names}),
        )
    ),
    "virtualRouter": _some(
        listeners=_listeners(("http", "tcp")).map(lambda found: [_without_rest(one) for one in found])
    ),
    "route": _routes,
    "virtualGateway": st.fixed_dictionaries({"listeners": _listeners(("http", "grpc"))}),
    "gatewayRoute": st.builds(lambda name: gateway_route("x", name).spec.plain(), _names),
}


def _without_rest(listener: dict[str, Any]) -> dict[str, Any]:
    return {"portMapping": listener["portMapping"]}


@st.composite
def _envelopes(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(KINDS))
    names = {"meshName": draw(_names)}
    if kind != "mesh":
        names[f"{kind}Name"] = draw(_names)
    if kind in PARENT_KINDS:
        names[f"{PARENT_KINDS[kind]}Name"] = draw(_names)
    rest = draw(
        _some(
            meshOwner=st.just("123456789012"),
            tags=st.lists(st.fixed_dictionaries({"key": _text, "value": st.just("") | _text}), min_size=1, max_size=2),
        )
    )
    return {**names, "spec": draw(_SPECS[kind]), **rest}


@examples(70)
@given(_envelopes())
def test_what_is_shown_is_what_was_written_and_applies_again_unchanged(written: dict[str, Any]) -> None:
    item = parse_envelope(json.dumps(written))
    assert envelope(item) == written
    assert parse_envelope(canonical_json(item)) == item
    assert canonical_json(parse_envelope(canonical_json(item))) == canonical_json(item)
    as_yaml = yaml.safe_dump(envelope(item), allow_unicode=False)
    assert parse_documents([Source("a.yaml", as_yaml)]).objects == (item,)


def test_the_canonical_text_does_not_depend_on_the_order_of_keys() -> None:
    spec = {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], "backends": [backend("é")]}
    one = parse_envelope(json.dumps(create_input("virtualNode", "n", spec)))
    two = parse_envelope(
        json.dumps(
            {"spec": dict(reversed(spec.items())), "virtualNodeName": "n", "meshName": MESH, "kind": "virtualNode"}
        )
    )
    assert canonical_json(one) == canonical_json(two)
    assert canonical_json(one) == (
        '{"kind":"virtualNode","meshName":"shop","spec":{"backends":[{"virtualService":{"virtualServiceName":"é"}}],'
        '"listeners":[{"portMapping":{"port":80,"protocol":"http"}}]},"virtualNodeName":"n"}'
    )


def test_defaults_are_not_written_back() -> None:
    assert envelope(made("mesh", MESH)) == {"meshName": MESH, "spec": {}}
    (node,) = parsed(create_input("virtualNode", "n", {"backendDefaults": {"clientPolicy": client_policy()}})).objects
    assert "enforce" not in canonical_json(node)
    assert "tags" not in canonical_json(node)
    assert "kind" not in envelope(router("r"))
