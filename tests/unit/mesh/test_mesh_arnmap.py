from __future__ import annotations

import json
from typing import Any

import pytest
from unit.mesh.mesh_objects import create_input, listener

from meshca.errors import InvalidInputError
from meshca.mesh.arnmap import ArnMap, parse_arn_map
from meshca.mesh.findings import SpecError
from meshca.mesh.source import Source, parse_documents

CERTIFICATE, ONE, TWO = "arn:aws:acm:x:1:certificate/c", "arn:aws:acm-pca:x:1:ca/one", "arn:aws:acm-pca:x:1:ca/two"


def mapped(arns: ArnMap, *authorities: str) -> dict[str, Any]:
    tls = {"mode": "STRICT", "certificate": {"acm": {"certificateArn": CERTIFICATE}}}
    policy = {"tls": {"validation": {"trust": {"acm": {"certificateAuthorityArns": list(authorities or [ONE])}}}}}
    spec = {"listeners": [listener(tls=tls)], "backendDefaults": {"clientPolicy": policy}}
    source = Source("a.json", json.dumps(create_input("virtualNode", "n", spec)))
    (item,) = parse_documents([source], arns=arns).objects
    plain = item.spec.plain()
    certificate: Any = plain["listeners"][0]["tls"]["certificate"]
    return {"certificate": certificate, "trust": plain["backendDefaults"]["clientPolicy"]["tls"]["validation"]["trust"]}


def secret(name: str) -> dict[str, Any]:
    return {"sds": {"secretName": name}}


def test_auto_is_our_own_certificate_and_bundle() -> None:
    assert mapped(parse_arn_map(["auto"])) == {"certificate": secret("default"), "trust": secret("ROOTCA")}
    assert mapped(parse_arn_map([f"{CERTIFICATE}=auto", f"{ONE}=auto"])) == mapped(parse_arn_map(["auto"]))


def test_a_name_goes_before_auto() -> None:
    arns = parse_arn_map(["auto", f"{CERTIFICATE}=spiffe://m.test/n"])
    assert mapped(arns) == {"certificate": secret("spiffe://m.test/n"), "trust": secret("ROOTCA")}


def test_what_is_not_mapped_stays() -> None:
    acm = {
        "certificate": {"acm": {"certificateArn": CERTIFICATE}},
        "trust": {"acm": {"certificateAuthorityArns": [ONE]}},
    }
    assert mapped(ArnMap()) == acm
    assert mapped(parse_arn_map([f"{TWO}=ROOTCA"])) == acm
    assert "acm" in mapped(parse_arn_map([f"{ONE}=ROOTCA"]), ONE, TWO)["trust"]


def test_authorities_of_one_list_become_one_bundle() -> None:
    assert mapped(parse_arn_map([f"{ONE}=a", f"{TWO}=a"]), ONE, TWO)["trust"] == secret("a")
    with pytest.raises(SpecError, match="become one secret, --map-arn says a and b"):
        mapped(parse_arn_map([f"{ONE}=a", f"{TWO}=b"]), ONE, TWO)


@pytest.mark.parametrize("argument", ["", "x=y", f"{ONE}", f"{ONE}=", "automatic"])
def test_half_a_mapping_is_refused(argument: str) -> None:
    with pytest.raises(InvalidInputError, match="is not ARN=NAME"):
        parse_arn_map([argument])
