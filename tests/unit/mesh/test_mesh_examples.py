"""The walkthroughs of aws-app-mesh-examples, which lie beside the checkout, all of them, in their three forms."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from unit.mesh.mesh_examples import (
    API,
    CLOUDFORMATION,
    FILES,
    KUBERNETES,
    VARIABLES,
    label,
    source,
    stages,
    walkthroughs,
    whole,
)
from unit.mesh.mesh_objects import DOMAIN

from meshca.mesh.identity import identities
from meshca.mesh.model import PARENT_KINDS
from meshca.mesh.render import canonical_json
from meshca.mesh.source import parse_documents, parse_envelope
from meshca.policy.admission import Policy

needs_examples = pytest.mark.skipif(not FILES, reason="needs the App Mesh examples beside the checkout (MESHCA_SHARED)")


@needs_examples
def test_the_examples_are_those_that_are_meant() -> None:
    assert len(walkthroughs()) >= 14
    assert (len(API), len(CLOUDFORMATION), len(KUBERNETES)) >= (44, 6, 4)
    assert {*API, *CLOUDFORMATION, *KUBERNETES} == set(FILES)


@pytest.mark.parametrize("path", FILES, ids=label)
def test_an_example_is_read_without_an_error(path: Path) -> None:
    found = parse_documents([source(path)], VARIABLES)
    for item in found.objects:
        assert bool(item.parent) == (item.kind in PARENT_KINDS)
        assert parse_envelope(canonical_json(item)) == item
    warned = [finding.rule for finding in found.findings if finding.severity == "warning"]
    assert [bool(re.search("knows no key 'mode' in a client policy", rule)) for rule in warned] == [
        True
    ] * path.read_text().count("enforce: true\n        mode: STRICT")
    kinds = Counter(re.findall(r"^(?:kind: |    Type: AWS::AppMesh::)(\w+)$", path.read_text(), re.MULTILINE))
    own = {"mesh", "virtualnode", "virtualservice", "virtualrouter", "route", "virtualgateway", "gatewayroute"}
    expected = sum(count for kind, count in kinds.items() if kind.lower() in own) if path not in API else 1
    inlined = sum(item.kind == "route" for item in found.objects) if path in KUBERNETES else 0
    assert len(found.objects) == expected + inlined


@pytest.mark.parametrize("path", API, ids=label)
def test_an_example_in_api_form_keeps_its_spec(path: Path) -> None:
    found = parse_documents([source(path)], VARIABLES)
    (item,) = found.objects
    written = re.sub(r"\$(\w+)", lambda match: json.dumps(VARIABLES[match[1]]), path.read_text())
    assert item.spec.plain() == json.loads(written).get("spec", {})
    assert found.findings == ()


@pytest.mark.parametrize("path", [path for path in FILES if re.search(r"\$\{?[A-Z]", path.read_text())], ids=label)
def test_an_example_whose_variables_have_no_value_is_refused(path: Path) -> None:
    if "${AWS_ACCOUNT_ID}" in path.read_text():  # in what is ignored alone
        assert parse_documents([source(path)], {}).objects
        return
    with pytest.raises(Exception, match=r"has no value.*; give --var"):
        parse_documents([source(path)], {})


@pytest.mark.parametrize("walkthrough", walkthroughs())
def test_every_step_of_a_walkthrough_is_whole(walkthrough: str) -> None:
    mesh_set = whole(walkthrough)
    assert len(mesh_set.meshes()) == 1
    assert len(list(stages(walkthrough))) >= 1
    known = identities(mesh_set, DOMAIN)
    policy = Policy.of(mesh_set, known, DOMAIN)
    assert set(known.ids) == {caller.key for caller in mesh_set.callers()}
    assert policy.calls or walkthrough == "howto-http-retries"


@needs_examples
def test_a_gateway_calls_what_its_routes_lead_to() -> None:
    mesh_set = whole("howto-ingress-gateway")
    policy = Policy.of(mesh_set, identities(mesh_set, DOMAIN), DOMAIN)
    called = {(call.client.segments[-1], call.server.segments[-1]) for call in policy.calls}
    assert called == {("colorgateway-vg", f"colorteller-{colour}-vn") for colour in ("black", "blue", "red", "white")}
