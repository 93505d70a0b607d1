"""The walkthroughs of aws-app-mesh-examples, which lie beside the checkout: each as its deploy script applies it.

MESHCA_SHARED names the folder; without it there are none, and the tests that need them are skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unit.mesh.mesh_objects import ARN, DOMAIN

from meshca.mesh.forest import MeshSet
from meshca.mesh.source import NamedSpec, Parsed, Source, parse_documents

_SHARED = Path(os.environ.get("MESHCA_SHARED", Path(__file__).parents[4] / "shared"))
EXAMPLES = _SHARED / "appmesh-examples/walkthroughs"
FILES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file()) if EXAMPLES.is_dir() else []
API = [path for path in FILES if path.suffix == ".json"]
CLOUDFORMATION = [path for path in FILES if path.suffix == ".yaml" and "AWS::AppMesh" in path.read_text()]
KUBERNETES = [path for path in FILES if "appmesh.k8s.aws" in path.read_text()]

VARIABLES = {
    # Those of API files for jq, and of manifests for envsubst:
    "CERTIFICATE_ARN": f"{ARN}:certificate/x",
    "ROOT_CA_ARN": f"{ARN}:certificate-authority/x",
    "COLOR_TELLER_SAN": f"spiffe://{DOMAIN}/mesh/howto/virtualNode/colorteller-vn",
    "GATEWAY_SAN": f"spiffe://{DOMAIN}/mesh/howto/virtualGateway/gateway-vgw",
    "DNS_HOSTNAME": "color.howto.local",
    "SERVICES_DOMAIN": "howto.local",
    "VIRTUALSERVICE_NAME": "colorteller-vs-1",
    "VIRTUAL_SERVICE": "colorteller-vs",
    "APP_NAMESPACE": "howto-ns",
    "MESH_NAME": "howto",
    "SVID_CA_TRUST_DOMAIN": f"spiffe://{DOMAIN}",
    "FRONTEND_APP_SVID": f"spiffe://{DOMAIN}/front",
    **{f"COLORAPP_{colour}_SVID": f"spiffe://{DOMAIN}/color{colour.lower()}" for colour in ("BLUE", "RED", "GREEN")},
    # Those of templates:
    "AWS::StackName": "howto",
    "MeshName": "howto",
    "ProjectName": "howto",
    "ServicesDomain": "howto.local",
    "CertificateAuthorityArn": f"{ARN}:certificate-authority/x",
    "CertificateArn": f"{ARN}:certificate/x",
    "EnableClientValidationFlag": "true",
    "ColorGatewayTlsValidationPath": "/keys/ca.pem",
}
_KINDS = (
    (r"mesh", "mesh"),
    (r".*-vn\b.*", "virtualNode"),
    (r".*-vs\b.*", "virtualService"),
    (r".*-vr\b.*", "virtualRouter"),
    (r".*-vgw?\b.*", "virtualGateway"),
    (r"(colorgateway-route|.*-gwroute)\b.*", "gatewayRoute"),
    (r".*route.*", "route"),
)
_SURROUNDINGS = """
meshName: howto
---
meshName: howto
virtualRouterName: color-router
spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
---
meshName: howto
virtualNodeName: blue-node
spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
"""
"""What the one saved file of howto-http-retries leans on."""


@dataclass(frozen=True)
class Stage:
    """Files that a walkthrough applies together."""

    sources: tuple[Source, ...]
    variables: Mapping[str, str]

    def parse(self) -> Parsed:
        """Return the objects of the stage."""
        return parse_documents(self.sources, self.variables)


def label(path: Path) -> str:
    """Return a file's name within the examples."""
    return str(path.relative_to(EXAMPLES))


def source(path: Path) -> Source:
    """Return a file, and the name that its walkthrough's script gives the object in it."""
    named = None if path not in API or "routeName" in path.read_text() else _named(path)
    mesh = "howto-mesh" if label(path).startswith("howto-grpc/") else "howto"
    return Source(str(path), path.read_text(), named, mesh if path in API else None)


def _named(path: Path) -> NamedSpec:
    stem = re.sub(r"-(update|tls|backendDefaults|strict|client).*", "", path.stem)
    kind = next(kind for pattern, kind in _KINDS if re.fullmatch(pattern, path.stem))
    router = f"colorteller-vr-{stem[-1]}"
    gateway = "gateway-vgw" if "mutual-tls" in str(path) else "colorgateway-vg"
    return NamedSpec(
        kind, "howto" if kind == "mesh" else stem, {"route": router, "gatewayRoute": gateway}.get(kind, "")
    )


def stages(walkthrough: str) -> Iterator[Stage]:
    """Yield what a walkthrough applies, step by step."""
    files = [path for path in FILES if label(path).startswith(f"{walkthrough}/")]
    templates = [path for path in files if path not in API]
    first = [path for path in files if path in API and path.parent.name == "mesh" and not _is_update(path)]
    if walkthrough == "howto-http-retries":
        yield Stage((Source("surroundings.yaml", _SURROUNDINGS),), {})
    if templates:
        yield Stage(tuple(map(source, templates)), VARIABLES)
    elif first:
        yield Stage(tuple(source(path) for path in first if not _is_second(path)), VARIABLES)
        second = tuple(source(path) for path in first if _is_second(path))
        if second:
            yield Stage(second, {**VARIABLES, "VIRTUALSERVICE_NAME": "colorteller-vs-2"})
    for path in files:
        if path in API and (templates or path not in first):
            yield Stage((source(path),), VARIABLES)


def _is_update(path: Path) -> bool:
    return bool(re.search("-update|-tls|-backendDefaults", path.stem))


def _is_second(path: Path) -> bool:
    return path.stem == "colorgateway-route-2"


def walkthroughs() -> list[str]:
    """Return the names of all walkthroughs."""
    return sorted({label(path).split("/")[0] for path in FILES})


def whole(walkthrough: str) -> MeshSet:
    """Return what a walkthrough leads to at its end; each of its steps is whole."""
    found = MeshSet()
    for stage in stages(walkthrough):
        found = found.with_applied(stage.parse().objects)
    return found
