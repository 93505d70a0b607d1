"""deploy/ecs: against the model of the ECS API that AWS publishes in botocore, and what ECS asks for beyond it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from unit.deploy.deploy_files import (
    ENVOY_ARGUMENTS,
    READY,
    SOCKET,
    TOP,
    Document,
    envoy_image,
    intercepted_bootstrap,
    named,
    task_definition,
)

_LAUNCH = ["fargate", "ec2"]
_FOLDER = Path(os.environ.get("MESHCA_BOTOCORE") or TOP / ".venv/botocore") / "botocore/data/ecs"


@cache
def _shapes() -> Document:
    files = sorted(_FOLDER.glob("*/service-2.json.gz"))
    if not files:
        pytest.skip("no model of the ECS API: scripts/venv dev")
    shapes: Document = json.loads(gzip.decompress(files[-1].read_bytes()))["shapes"]
    return shapes


def _faults(value: Any, shape_name: str, at: str) -> Iterator[str]:
    """Yield where a value is not what the model says: unknown and missing keys, types, words that are none."""
    shape = _shapes()[shape_name]
    match shape["type"]:
        case "structure":
            yield from (f"{at}.{key}: unknown" for key in value.keys() - shape["members"].keys())
            yield from (f"{at}.{key}: missing" for key in set(shape.get("required", ())) - value.keys())
            for key in value.keys() & shape["members"].keys():
                yield from _faults(value[key], shape["members"][key]["shape"], f"{at}.{key}")
        case "list":
            for number, one in enumerate(value):
                yield from _faults(one, shape["member"]["shape"], f"{at}[{number}]")
        case "map":
            for key, one in value.items():
                yield from _faults(one, shape["value"]["shape"], f"{at}.{key}")
        case kind:
            expected = {"string": str, "boolean": bool, "integer": int, "long": int, "double": float}[kind]
            if type(value) is not expected or value not in shape.get("enum", [value]):
                yield f"{at}: {value!r} is no {shape_name}"


def _request(definition: Document) -> list[str]:
    return list(_faults(definition, "RegisterTaskDefinitionRequest", "task"))


@pytest.mark.parametrize("launch", _LAUNCH)
def test_ecs_knows_every_field(launch: str) -> None:
    assert _request(task_definition(launch)) == []


def test_the_model_is_strict() -> None:
    definition = task_definition("ec2")
    definition["pidMode"] = "tasks"
    definition["containerDefinitions"][0]["linuxParameter"] = {}
    definition["containerDefinitions"][0]["memory"] = "64"
    del definition["family"]
    assert len(_request(definition)) == 4


@pytest.mark.parametrize("launch", _LAUNCH)
def test_names_lead_somewhere(launch: str) -> None:
    definition = task_definition(launch)
    containers = definition["containerDefinitions"]
    names = [one["name"] for one in containers]
    for container in containers:
        for dependency in container.get("dependsOn", ()):
            before = named(containers, dependency["containerName"])
            assert names.index(before["name"]) < names.index(container["name"]), "no circle"
            assert ("healthCheck" in before) == (dependency["condition"] == "HEALTHY")
            assert before["essential"] == (dependency["condition"] != "SUCCESS"), "an essential one ends the task"
        volumes = {mount["sourceVolume"] for mount in container.get("mountPoints", ())}
        assert volumes <= {volume["name"] for volume in definition["volumes"]}
    started = named(containers, "app")["dependsOn"]
    assert started == [{"containerName": "envoy", "condition": "HEALTHY"}]


@pytest.mark.parametrize("launch", _LAUNCH)
def test_the_agent_recognises_envoy_by_its_process(launch: str) -> None:
    definition = task_definition(launch)
    agent, envoy, app = (named(definition["containerDefinitions"], name) for name in ("agent", "envoy", "app"))
    assert definition["pidMode"] == "task", "else every caller is process 0, which is refused"
    assert definition["networkMode"] == "awsvpc"
    users = [one["user"].partition(":")[0] for one in (agent, envoy, app)]
    assert len(set(users)) == 3
    assert "0" not in users
    assert [mount["readOnly"] for one in (agent, envoy) for mount in one["mountPoints"]] == [False, True]
    assert "mountPoints" not in app
    assert SOCKET in agent["healthCheck"]["command"]
    # The folder's owner is said by the image, which knows this user.
    assert f"USER {users[0]}:" in (TOP / "deploy/docker/Dockerfile").read_text()


@pytest.mark.parametrize("launch", _LAUNCH)
def test_envoy_is_started_as_meshca_says(launch: str) -> None:
    envoy = named(task_definition(launch)["containerDefinitions"], "envoy")
    assert envoy["image"] == envoy_image()
    assert envoy["healthCheck"]["command"] == ["CMD", "bash", "-c", READY]
    option, configuration, *rest = envoy["command"]
    assert [*envoy["entryPoint"], option, *rest] == ["envoy", "--config-yaml", *ENVOY_ARGUMENTS]
    assert json.loads(configuration) == intercepted_bootstrap("mesh/shop/virtualNode/front")


def test_both_kinds_intercept_alike() -> None:
    fargate, ec2 = task_definition("fargate"), task_definition("ec2")
    told = {one["name"]: one["value"] for one in fargate["proxyConfiguration"]["properties"]}
    init = {one["name"]: one["value"] for one in named(ec2["containerDefinitions"], "proxyinit")["environment"]}
    words = {
        "IgnoredGID": "APPMESH_IGNORE_GID",
        "ProxyIngressPort": "APPMESH_ENVOY_INGRESS_PORT",
        "ProxyEgressPort": "APPMESH_ENVOY_EGRESS_PORT",
        "AppPorts": "APPMESH_APP_PORTS",
        "EgressIgnoredIPs": "APPMESH_EGRESS_IGNORED_IP",
        "EgressIgnoredPorts": "APPMESH_EGRESS_IGNORED_PORTS",
    }
    assert {words[name]: value for name, value in told.items()} | {"APPMESH_START_ENABLED": "1"} == init
    for definition in (fargate, ec2):
        containers = definition["containerDefinitions"]
        groups = {name: named(containers, name)["user"].partition(":")[2] for name in ("agent", "envoy", "app")}
        assert groups["agent"] == groups["envoy"] == told["IgnoredGID"] != groups["app"]
        ports = [str(port["containerPort"]) for port in named(containers, "app")["portMappings"]]
        assert ports == told["AppPorts"].split(",")


def test_what_fargate_asks_for() -> None:
    definition = task_definition("fargate")
    assert (definition["cpu"], definition["memory"]) == ("512", "1024"), "a pair that Fargate has"
    assert definition["proxyConfiguration"]["containerName"] == "envoy"
    for container in definition["containerDefinitions"]:
        assert "linuxParameters" not in container, "no capability can be added there"


def test_what_may_do_little_on_ec2() -> None:
    definition = task_definition("ec2")
    assert "proxyConfiguration" not in definition
    for container in definition["containerDefinitions"]:
        assert container["memory"] > 0, "a limit is asked for where the task has none"
        if container["name"] == "app":
            continue
        added = ["NET_ADMIN"] if container["name"] == "proxyinit" else None
        assert container["linuxParameters"]["capabilities"].get("add") == added
        assert container["linuxParameters"]["capabilities"]["drop"] == ["ALL"]
        assert container["readonlyRootFilesystem"]


@pytest.mark.parametrize("launch", _LAUNCH)
def test_no_secret_is_written_down(launch: str) -> None:
    for container in task_definition(launch)["containerDefinitions"]:
        for secret in container.get("secrets", ()):
            assert secret["valueFrom"].startswith("arn:aws:")
        for variable in container.get("environment", ()):
            assert variable["name"].startswith("APPMESH_") or variable["name"] == "TMPDIR"
