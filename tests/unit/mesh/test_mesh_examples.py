"""The walkthroughs of aws-app-mesh-examples, which lie beside the checkout: what is in API form is read whole."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from unit.mesh.mesh_objects import ARN, DOMAIN, GATEWAY_ID, refusals

from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import identities
from meshca.mesh.model import MESH, PARENT_KINDS, VIRTUAL_GATEWAY
from meshca.mesh.render import canonical_json
from meshca.mesh.source import NamedSpec, Source, parse_documents, parse_envelope
from meshca.policy.admission import Policy

_SHARED = Path(os.environ.get("MESHCA_SHARED", Path(__file__).parents[4] / "shared"))
_EXAMPLES = _SHARED / "appmesh-examples/walkthroughs"
_FILES = sorted(_EXAMPLES.rglob("*")) if _EXAMPLES.is_dir() else []
_API = [path for path in _FILES if path.suffix == ".json"]
_OTHERS = [path for path in _FILES if path.suffix in {".yaml", ".template"}]
_VARIABLES = {
    "CERTIFICATE_ARN": f"{ARN}:certificate/x",
    "ROOT_CA_ARN": f"{ARN}:certificate-authority/x",
    "COLOR_TELLER_SAN": "colorteller.howto.local",
    "GATEWAY_SAN": str(GATEWAY_ID),
    "DNS_HOSTNAME": "color.howto.local",
    "SERVICES_DOMAIN": "howto.local",
    "VIRTUALSERVICE_NAME": "colorteller-vs-1",
    "VIRTUAL_SERVICE": "colorteller-vs",
}
_KINDS = (
    (r"mesh", MESH),
    (r".*-vn\b.*", "virtualNode"),
    (r".*-vs\b.*", "virtualService"),
    (r".*-vr\b.*", "virtualRouter"),
    (r".*-vgw?\b.*", VIRTUAL_GATEWAY),
    (r".*(-gwroute|gateway-route)\b.*", "gatewayRoute"),
    (r".*route.*", "route"),
)

needs_examples = pytest.mark.skipif(not _API, reason="needs the App Mesh examples beside the checkout")


def _named(path: Path) -> NamedSpec | None:
    """Return what the name of a file says its object is; None where the text says it."""
    if "routeName" in path.read_text():
        return None
    kind = next(kind for pattern, kind in _KINDS if re.fullmatch(pattern, path.stem))
    parent = {"route": "colorteller-vr-1", "gatewayRoute": "colorgateway-vg"}.get(kind, "")
    return NamedSpec(
        kind, "howto" if kind == MESH else re.sub(r"-(update|tls|backendDefaults).*", "", path.stem), parent
    )


def _source(path: Path) -> Source:
    return Source(str(path), path.read_text(), _named(path), "howto")


def _label(path: Path) -> str:
    return str(path.relative_to(_EXAMPLES))


@needs_examples
def test_the_examples_are_those_that_are_meant() -> None:
    assert len(_API) > 40
    assert len(_OTHERS) > 8


@pytest.mark.parametrize("path", _API, ids=_label)
def test_an_example_in_api_form_is_read_without_a_warning(path: Path) -> None:
    found = parse_documents([_source(path)], _VARIABLES)
    (item,) = found.objects
    assert found.findings == ()
    assert item.mesh == "howto"
    assert bool(item.parent) == (item.kind in PARENT_KINDS)
    assert parse_envelope(canonical_json(item)) == item
    written = re.sub(r"\$(\w+)", lambda match: json.dumps(_VARIABLES[match[1]]), path.read_text())
    assert item.spec.plain() == json.loads(written).get("spec", {})


@pytest.mark.parametrize("path", [path for path in _API if "$" in path.read_text()], ids=_label)
def test_an_example_whose_variables_have_no_value_is_refused(path: Path) -> None:
    with pytest.raises(Exception, match="has no value; give --var"):
        parse_documents([_source(path)], {})


@pytest.mark.parametrize("path", _OTHERS, ids=_label)
def test_an_example_in_another_form_is_refused_by_name(path: Path) -> None:
    rules = {error.rule for error in refusals(path.read_text(), str(path))}
    assert len(rules) == 1
    assert re.search("CloudFormation templates|Kubernetes resources", rules.pop())


@needs_examples
@pytest.mark.parametrize("walkthrough", ["howto-ingress-gateway", "howto-circuit-breakers"])
def test_a_whole_walkthrough_stands_together(walkthrough: str) -> None:
    paths = [
        path for path in _API if _label(path).startswith(walkthrough) and not re.search("-2|tls|-update", path.stem)
    ]
    mesh_set = MeshSet(parse_documents([_source(path) for path in paths], _VARIABLES).objects)
    policy = Policy.of(mesh_set, identities(mesh_set, DOMAIN), DOMAIN)
    called = {(call.client.segments[-1], call.server.segments[-1]) for call in policy.calls}
    assert ("colorgateway-vg", "colorteller-white-vn") in called
    assert {client for client, _ in called} == {"colorgateway-vg"}
