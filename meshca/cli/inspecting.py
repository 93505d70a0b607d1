"""`meshca envoy inspect`: an ADS stream of our own, and its resources as one document.

The rules this module keeps:
- What comes over the socket is what an Envoy of the same uid would get; nothing is generated here.
- Who is not entitled is told so, and gets the server's account (the admin API's ``Render``) in its place.
- A private key is in what comes and never in what is printed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshca.cli.command import Settings, connect, has_server
from meshca.cli.output import note
from meshca.client.values import Resource
from meshca.errors import MeshcaError, RefusedError

if TYPE_CHECKING:
    from meshca.client.ads import AdsStream
    from meshca.envoy.placement import Placement


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose configuration to ask for, and how."""

    node: str
    placement: Placement
    delta: bool
    leaf: bool


def inspected(settings: Settings, asked: Asked) -> dict[str, Any]:
    """Return all that comes, and who said it.

    Raises:
        MeshcaError: the server refuses the caller on both sockets, or there is none.
    """
    node_id = _node_id(settings, asked.node)
    try:
        resources = _over_ads(settings, node_id, asked)
    except RefusedError as error:
        if not has_server(settings):
            raise
        note(f"not entitled to {node_id} ({error}): this is what the server says it would send, by the admin API")
        with connect(settings) as client:
            rendered = client.render(asked.node, placement=json.dumps(next(iter(asked.placement.metadata().values()))))
        return {"node_id": rendered.node_id, "source": "render", **document(rendered.resources)}
    return {"node_id": node_id, "source": "ads-delta" if asked.delta else "ads-sotw", **document(resources)}


def document(resources: Sequence[Resource]) -> dict[str, Any]:
    """Return resources as one document, decoded from their bytes, private keys left out."""
    from meshca.envoy.documents import decode, render
    from meshca.envoy.resources import SECRET, Generated

    configuration = [Generated(r.type_url, r.name, r.body) for r in resources if r.type_url != SECRET]
    secrets = [decode(r.type_url, r.body) for r in resources if r.type_url == SECRET]
    return {**render(configuration), **({"secrets": secrets} if secrets else {})}


def _node_id(settings: Settings, node: str) -> str:
    if has_server(settings):
        with connect(settings) as client:
            return client.resolve(node).node_id
    from meshca.client.sds import selection

    return selection(node)[0]


def _over_ads(settings: Settings, node_id: str, asked: Asked) -> list[Resource]:
    from meshca.client.ads import AdsStream
    from meshca.envoy.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET

    metadata = asked.placement.metadata()
    with AdsStream(settings.workload_socket, node_id, metadata, delta=asked.delta) as stream:
        found = [*stream.everything(CLUSTER), *stream.everything(LISTENER)]
        for type_url in (ENDPOINTS, ROUTES, SECRET):
            found += _named(stream, type_url, found, leaf=asked.leaf)
    return found


def _named(stream: AdsStream, type_url: str, found: Sequence[Resource], *, leaf: bool) -> list[Resource]:
    """Ask for what the resources so far lead to, as an Envoy does."""
    from meshca.envoy.consistency import references
    from meshca.envoy.resources import Generated

    leads_to = (one for r in found for one in references(Generated(r.type_url, r.name, r.body)))
    names = {one.name for one in leads_to if one.type_url == type_url}
    came = stream.named(type_url, {name for name in names if leaf or not _is_leaf(name)})
    missing = names - {resource.name for resource in came} - ({*filter(_is_leaf, names)} if not leaf else set())
    for name in sorted(missing):
        note(f"did not come: {type_url.rpartition('.')[2]} {name}")
    return came


def _is_leaf(name: str) -> bool:
    from meshca.envoy.names import Default, Svid, parse_secret_name

    try:
        return isinstance(parse_secret_name(name), Default | Svid)
    except MeshcaError:
        return False
