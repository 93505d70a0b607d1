"""The spec of a mesh that uses every feature, and for each matcher a request that it takes and one that it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.world import MTLS, mesh

Object = dict[str, Any]

PORTS = ("a", "b", "open", "small", "sick", "slow", "rpc-a", "rpc-b", "raw", "color", "two", "calls", "gw")
HTTP_APPS = ("a", "b", "open", "small", "sick", "slow")


class Matcher(NamedTuple):
    """A route to ``b`` on a service that leads to ``a`` else."""

    match: dict[str, Any]
    taken: dict[str, str]
    """Path, method and headers of a request that it takes."""
    left: dict[str, str]


def _header(match: Mapping[str, Any] | None = None, *, invert: bool = False) -> dict[str, Any]:
    return {"headers": [{"name": "x-h", "invert": invert, **({"match": match} if match else {})}]}


MATCHERS = {
    "exact": Matcher({"path": {"exact": "/exact"}}, {"path": "/exact?q=1"}, {"path": "/exact/more"}),
    "regex": Matcher({"path": {"regex": "/re[0-9]+"}}, {"path": "/re42"}, {"path": "/re42x"}),
    "prefix": Matcher({"prefix": "/pre"}, {"path": "/prefix"}, {"path": "/xpre"}),
    "method": Matcher({"prefix": "/m", "method": "DELETE"}, {"path": "/m", "method": "DELETE"}, {"path": "/m"}),
    "scheme": Matcher({"prefix": "/s-http", "scheme": "http"}, {"path": "/s-http"}, {"path": "/s-htt"}),
    "other-scheme": Matcher({"prefix": "/t", "scheme": "https"}, {}, {"path": "/t"}),
    "header-exact": Matcher(
        {"prefix": "/h1", **_header({"exact": "v"})}, {"path": "/h1", "x_h": "v"}, {"path": "/h1", "x_h": "vv"}
    ),
    "header-prefix": Matcher(
        {"prefix": "/h2", **_header({"prefix": "v"})}, {"path": "/h2", "x_h": "vv"}, {"path": "/h2", "x_h": "w"}
    ),
    "header-suffix": Matcher(
        {"prefix": "/h3", **_header({"suffix": "v"})}, {"path": "/h3", "x_h": "wv"}, {"path": "/h3", "x_h": "vw"}
    ),
    "header-regex": Matcher(
        {"prefix": "/h4", **_header({"regex": "v[0-9]"})}, {"path": "/h4", "x_h": "v1"}, {"path": "/h4", "x_h": "v"}
    ),
    "header-range": Matcher(
        {"prefix": "/h5", **_header({"range": {"start": 1, "end": 100}})},
        {"path": "/h5", "x_h": "99"},
        {"path": "/h5", "x_h": "100"},
    ),
    "header-present": Matcher({"prefix": "/h6", **_header()}, {"path": "/h6", "x_h": "any"}, {"path": "/h6"}),
    "header-inverted": Matcher(
        {"prefix": "/h7", **_header({"exact": "v"}, invert=True)},
        {"path": "/h7", "x_h": "w"},
        {"path": "/h7", "x_h": "v"},
    ),
    "header-absent": Matcher({"prefix": "/h8", **_header(invert=True)}, {"path": "/h8"}, {"path": "/h8", "x_h": "any"}),
    "query-exact": Matcher(
        {"prefix": "/q1", "queryParameters": [{"name": "fish", "match": {"exact": "nemo"}}]},
        {"path": "/q1?a=1&fish=nemo"},
        {"path": "/q1?fish=dory"},
    ),
    "query-present": Matcher(
        {"prefix": "/q2", "queryParameters": [{"name": "fish"}]}, {"path": "/q2?fish"}, {"path": "/q2?fis=1"}
    ),
}

OFF = {"hostname": {"defaultTargetHostname": "DISABLED"}, "prefix": {"defaultPrefix": "DISABLED"}}


class Entry(NamedTuple):
    """A gateway route, a request that it takes, and what the application must see."""

    service: str
    match: dict[str, Any]
    asked: dict[str, str]
    seen: tuple[str, str, str]
    """Application, path and host."""
    rewrite: dict[str, Any] | None = None
    left: dict[str, str] | None = None
    """A request that it does not take, and that nobody does."""


ENTRIES = {
    "default": Entry("color.local", {"prefix": "/d"}, {"path": "/d/x?q=1"}, ("a", "/x?q=1", "color.local"),
                     left={"path": "/dx"}),
    "default-itself": Entry("color.local", {"prefix": "/e"}, {"path": "/e"}, ("a", "/", "color.local")),
    "kept": Entry("color.local", {"prefix": "/keep"}, {"path": "/keep/x"}, ("a", "/keep/x", "outside.test"), OFF),
    "value": Entry("color.local", {"prefix": "/v/"}, {"path": "/v/x"}, ("b", "/pre/x", "color.local"),
                   {"prefix": {"value": "/pre/"}}),
    "path": Entry("color.local", {"path": {"exact": "/p"}}, {"path": "/p?q=1"}, ("b", "/exact?q=1", "color.local"),
                  {"path": {"exact": "/exact"}}, {"path": "/p/x"}),
    "path-of-regex": Entry("color.local", {"path": {"regex": "/r[0-9]"}}, {"path": "/r7"},
                           ("a", "/a/1", "color.local"), {"path": {"exact": "/a\\1"}}, {"path": "/rr"}),
    "composed-exact": Entry("color.local", {"prefix": "/c1"}, {"path": "/c1/exact"}, ("b", "/exact", "color.local")),
    "composed-prefix": Entry("color.local", {"prefix": "/c2"}, {"path": "/c2/prex"}, ("b", "/prex", "color.local")),
    "composed-regex": Entry("color.local", {"prefix": "/c3"}, {"path": "/c3/re42"}, ("b", "/re42", "color.local")),
    "composed-header": Entry("color.local", {"prefix": "/c4"}, {"path": "/c4/h1", "x_h": "v"},
                             ("b", "/h1", "color.local")),
    "kept-regex": Entry("color.local", {"prefix": "/re"}, {"path": "/re5?q=1"}, ("b", "/re5?q=1", "outside.test"), OFF),
    "method": Entry("color.local", {"prefix": "/mm", "method": "POST"}, {"path": "/mm", "method": "POST"},
                    ("a", "/", "color.local"), left={"path": "/mm"}),
    "header": Entry("color.local", {"prefix": "/hh", **_header({"exact": "v"})}, {"path": "/hh", "x_h": "v"},
                    ("a", "/", "color.local"), left={"path": "/hh"}),
    "query": Entry("color.local", {"prefix": "/qq", "queryParameters": [{"name": "q", "match": {"exact": "v"}}]},
                   {"path": "/qq?q=v"}, ("a", "/?q=v", "color.local"), left={"path": "/qq?q=w"}),
    "hostname": Entry("two.local", {"hostname": {"exact": "www.example.com"}},
                      {"path": "/any", "host": "www.example.com:8080"}, ("b", "/any", "two.local")),
    "hostname-suffix": Entry("two.local", {"hostname": {"suffix": ".example.org"}, "prefix": "/s"},
                             {"path": "/s/1", "host": "a.example.org"}, ("b", "/1", "two.local"),
                             left={"path": "/s/1", "host": "example.net"}),
    "any-host-beside": Entry("color.local", {"prefix": "/z"}, {"path": "/z/1", "host": "a.example.org"},
                             ("a", "/1", "color.local")),
}  # fmt: skip

_SINGLE = {"open": "open", "small": "small", "sick": "sick", "slow": "slow", "retry": "a", "hasty": "a", "plain": "a"}


def _ms(value: int) -> dict[str, Any]:
    return {"unit": "ms", "value": value}


_RETRY = {"maxRetries": 2, "perRetryTimeout": _ms(2000)}
_PATIENT = {"timeout": {"perRequest": _ms(5000)}}
_NO_RETRY = {"retryPolicy": {**_RETRY, "maxRetries": 0, "httpRetryEvents": ["client-error"]}}
_MORE: dict[str, dict[str, Any]] = {
    "retry": {"retryPolicy": {**_RETRY, "httpRetryEvents": ["server-error"]}},
    "hasty": {"timeout": {"perRequest": _ms(400)}, **_NO_RETRY},
    "slow": {**_PATIENT, **_NO_RETRY},
    "small": {**_PATIENT, **_NO_RETRY},
    "sick": _NO_RETRY,
}


def feature_mesh(ports: Mapping[str, int], hosts: Mapping[str, str], open_mode: str) -> list[Object]:
    """Return the mesh."""
    spec = _Spec(ports, hosts)
    return [mesh(), *spec.nodes(open_mode), *spec.http_routers(), *spec.other_routers(), *spec.gateway()]


class _Spec(NamedTuple):
    ports: Mapping[str, int]
    hosts: Mapping[str, str]

    def nodes(self, open_mode: str) -> list[Object]:
        outliers = {"maxServerErrors": 3, "interval": _ms(500), "baseEjectionDuration": _ms(30_000)}
        of_a = [
            self._listener("a"),
            self._listener("open", tls={**MTLS, "mode": open_mode}),
            self._listener("small", connectionPool={"http": {"maxConnections": 1, "maxPendingRequests": 1}}),
            self._listener("sick", outlierDetection={**outliers, "maxEjectionPercent": 100}),
            self._listener("slow", timeout={"http": {"perRequest": _ms(400)}}),
            self._listener("rpc-a", "grpc"),
            self._listener("raw", "tcp"),
        ]
        of_b = [self._listener("b"), self._listener("rpc-b", "grpc")]
        cloud = {"awsCloudMap": {"namespaceName": "ns", "serviceName": "cloud"}}
        open_listener = self._listener("color", tls={"mode": "DISABLED", "certificate": MTLS["certificate"]})
        called = [f"{name}.local" for name in ("color", "two", "rpc", "raw", "weighted", "zero", "cloud", *_SINGLE)]
        backends = [{"virtualService": {"virtualServiceName": name}} for name in called]
        return [
            self._node("a", of_a),
            self._node("b", of_b),
            _object("virtualNode", "front", {"backends": backends}),
            _object("virtualNode", "cloud", {"listeners": [open_listener], "serviceDiscovery": cloud}),
            _object("virtualService", "cloud.local", {"provider": {"virtualNode": {"virtualNodeName": "cloud"}}}),
        ]

    def _node(self, name: str, listeners: list[Object]) -> Object:
        discovery = {"dns": {"hostname": self.hosts[name]}}
        return _object("virtualNode", name, {"listeners": listeners, "serviceDiscovery": discovery})

    def http_routers(self) -> list[Object]:
        made = [*self._router("color"), *self._router("two", "http", "color", "two")]
        made += [self._route("color", name, {"b": 1}, one.match) for name, one in MATCHERS.items()]
        made.append(self._route("color", "rest", {"a": 1}, {"prefix": "/"}))
        made.append(self._route("two", "one", {"a": 1}, {"prefix": "/", "port": self.ports["color"]}))
        made.append(self._route("two", "other", {"b": 1}, {"port": self.ports["two"]}))
        for name, weights in (("weighted", {"a": 1, "b": 3}), ("zero", {"a": 0, "b": 0})):
            made += [*self._router(name), self._route(name, "all", weights, {"prefix": "/"})]
        for name, to in _SINGLE.items():
            made += [*self._router(name), self._route(name, "all", {to: 1}, {"prefix": "/"}, _MORE.get(name))]
        return made

    def other_routers(self) -> list[Object]:
        one = {"serviceName": "test.Echo", "methodName": "One"}
        metadata = {"metadata": [{"name": "x-h", "match": {"exact": "v"}}]}
        retry = {"retryPolicy": {**_RETRY, "grpcRetryEvents": ["unavailable"]}}
        return [
            *self._router("rpc", "grpc", "calls"),
            self._route("rpc", "one", {"rpc-a": 1}, one, retry, "grpcRoute"),
            self._route("rpc", "told", {"rpc-b": 1}, {"serviceName": "test.Echo", **metadata}, None, "grpcRoute"),
            *self._router("raw", "tcp", "raw"),
            self._route("raw", "raw", {"raw": 1}, None, None, "tcpRoute"),
        ]  # fmt: skip

    def gateway(self) -> list[Object]:
        mapping = {"portMapping": {"port": self.ports["gw"], "protocol": "http"}}
        made = [_object("virtualGateway", "gw", {"listeners": [mapping]})]
        for name, one in ENTRIES.items():
            target: dict[str, Any] = {"virtualService": {"virtualServiceName": one.service}}
            if one.service == "two.local":
                target["port"] = self.ports["two"]
            action = {"target": target, **({"rewrite": one.rewrite} if one.rewrite else {})}
            route = _object("gatewayRoute", name, {"httpRoute": {"match": one.match, "action": action}})
            made.append({**route, "virtualGatewayName": "gw"})
        return made

    def _listener(self, name: str, protocol: str = "http", **parts: Any) -> Object:
        return {"portMapping": {"port": self.ports[name], "protocol": protocol}, "tls": MTLS, **parts}

    def _router(self, name: str, protocol: str = "http", *ports: str) -> tuple[Object, Object]:
        mappings = [{"portMapping": {"port": self.ports[one], "protocol": protocol}} for one in ports or ("color",)]
        provider = {"provider": {"virtualRouter": {"virtualRouterName": name}}}
        router = _object("virtualRouter", name, {"listeners": mappings})
        return router, _object("virtualService", f"{name}.local", provider)

    def _route(
        self, router: str, name: str, weights: Mapping[str, int], match: Mapping[str, Any] | None,
        more: Mapping[str, Any] | None = None, kind: str = "httpRoute",
    ) -> Object:  # fmt: skip
        targets = [
            {"virtualNode": "b" if one in {"b", "rpc-b"} else "a", "port": self.ports[one], "weight": weight}
            for one, weight in weights.items()
        ]
        body = {"action": {"weightedTargets": targets}, **(more or {}), **({"match": match} if match else {})}
        return {**_object("route", name, {kind: body}), "virtualRouterName": router}


def _object(kind: str, name: str, spec: Object) -> Object:
    return {"meshName": "m", f"{kind}Name": name, "spec": spec}
