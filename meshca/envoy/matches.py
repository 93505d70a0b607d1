"""What a route takes: App Mesh's matchers of requests and gRPC calls, their order, and Envoy's form of them.

Rules kept here:
- Of routes without priority an exact path comes first, then a regular expression, then the longest prefix; then what
  asks for a method, for more headers, for more query parameters. App Mesh wrote none of this down but the prefixes; a
  regular expression behind a catch-all would never be reached.
- A path is compared without its query. Where two paths must hold at once, as behind a gateway, the second is compared
  in the header ``:path``, query and all.
- A header that is not there matches nothing but an inverted presence, as in Envoy and App Mesh.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import string_pb2
from envoy.type.v3 import range_pb2

from meshca.mesh.spec.routes import (
    GrpcMatch,
    GrpcRouteMatch,
    HeaderMatch,
    HttpMatch,
    HttpRouteMatch,
    PathMatch,
    QueryParameterMatch,
    ValueMatch,
)

EXACT, REGEX, PREFIX = "exact", "regex", "prefix"
_ORDER = (EXACT, REGEX, PREFIX)
_QUERY = r"(?:[?#].*)?"

Precedence = tuple[int, int, bool, int, int]


@dataclass(frozen=True, slots=True)
class Path:
    """How a path is compared."""

    kind: str
    value: str


ANY_PATH = Path(PREFIX, "/")


@dataclass(frozen=True, slots=True)
class Match:
    """All that a request must be to be taken."""

    path: Path = ANY_PATH
    also: tuple[Path, ...] = ()
    """What its path must be as well."""
    methods: tuple[str, ...] = ()
    """The method; two different ones, a gateway's and a route's, are never both met."""
    scheme: str | None = None
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryParameterMatch, ...] = ()
    grpc: bool = False

    def precedence(self) -> Precedence:
        """Return what routes of the same priority are sorted by."""
        return (*path_precedence(self.path), not self.methods, -len(self.headers), -len(self.query))

    def beside(self, other: Match, path: Path, also: tuple[Path, ...]) -> Match:
        """Return what takes a request that both would take, whose paths together are these."""
        return Match(
            path=path,
            also=also,
            methods=tuple(dict.fromkeys((*self.methods, *other.methods))),
            scheme=self.scheme or other.scheme,
            headers=(*self.headers, *other.headers),
            query=(*self.query, *other.query),
            grpc=self.grpc or other.grpc,
        )

    def at(self, path: Path) -> Match:
        """Return the same with another path."""
        return replace(self, path=path)


EVERYTHING = Match()


def path_precedence(path: Path) -> tuple[int, int]:
    """Return the rank of a path: exact, regular expression, longest prefix."""
    return (_ORDER.index(path.kind), -len(path.value) if path.kind == PREFIX else 0)


def of_http(written: HttpMatch) -> Match:
    """Return what an HTTP route, or gateway route, takes."""
    return Match(
        path=_path(written.prefix, written.path),
        methods=(written.method,) if written.method else (),
        scheme=written.scheme if isinstance(written, HttpRouteMatch) else None,
        headers=written.headers or (),
        query=written.query_parameters or (),
    )


def of_grpc(written: GrpcMatch) -> Match:
    """Return what a gRPC route, or gateway route, takes."""
    method = written.method_name if isinstance(written, GrpcRouteMatch) else None
    # App Mesh takes a service with and without the slash of its path.
    service = (written.service_name or "").strip("/")
    called = Path(EXACT, f"/{service}/{method}") if method else Path(PREFIX, f"/{service}/")
    return Match(path=called if service else ANY_PATH, headers=written.metadata or (), grpc=True)


def message(match: Match) -> Any:
    """Return Envoy's form of it."""
    made = route_components_pb2.RouteMatch()
    if match.path.kind == EXACT:
        made.path = match.path.value
    elif match.path.kind == REGEX:
        made.safe_regex.regex = match.path.value
    else:
        made.prefix = match.path.value
    if match.grpc:
        made.grpc.SetInParent()
    named = [(":method", method) for method in match.methods] + ([(":scheme", match.scheme)] if match.scheme else [])
    made.headers.extend(_named(name, string_pb2.StringMatcher(exact=value)) for name, value in named)
    made.headers.extend(_named(":path", _with_query(path)) for path in match.also)
    made.headers.extend(map(_header, match.headers))
    made.query_parameters.extend(map(_parameter, match.query))
    return made


def _path(prefix: str | None, path: PathMatch | None) -> Path:
    if path is None:
        return Path(PREFIX, prefix or "/")
    return Path(EXACT, path.exact) if path.exact is not None else Path(REGEX, path.regex or "")


def _named(name: str, matcher: Any) -> Any:
    return route_components_pb2.HeaderMatcher(name=name, string_match=matcher)


def _with_query(path: Path) -> Any:
    if path.kind == PREFIX:
        return string_pb2.StringMatcher(prefix=path.value)
    inner = re.escape(path.value) if path.kind == EXACT else path.value
    return string_pb2.StringMatcher(safe_regex={"regex": f"(?:{inner}){_QUERY}"})


def _header(written: HeaderMatch) -> Any:
    made = route_components_pb2.HeaderMatcher(name=written.name, invert_match=written.invert)
    if written.match is None:
        made.present_match = True
    elif written.match.range is not None:
        made.range_match.CopyFrom(range_pb2.Int64Range(start=written.match.range.start, end=written.match.range.end))
    else:
        made.string_match.CopyFrom(_string(written.match))
    return made


def _string(written: ValueMatch) -> Any:
    value = getattr(written, written.chosen)
    if written.regex is not None:
        return string_pb2.StringMatcher(safe_regex={"regex": value})
    return string_pb2.StringMatcher(**{written.chosen: value})


def _parameter(written: QueryParameterMatch) -> Any:
    made = route_components_pb2.QueryParameterMatcher(name=written.name)
    if written.match is None or written.match.exact is None:
        made.present_match = True
    else:
        made.string_match.exact = written.match.exact
    return made
