"""deploy/docker: what no Docker is needed for to see; the image's installation itself runs in test_e2e_installed.py."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
import yaml
from unit.deploy.deploy_files import DEPLOY, ENVOY_ARGUMENTS, READY, TOP, Document, compose, envoy_image

_DOCKERFILE = (DEPLOY / "docker/Dockerfile").read_text()
_SERVICES: dict[str, Document] = compose()["services"]
_ENVOYS = [name for name in _SERVICES if name.endswith("-envoy")]


def _stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", _DOCKERFILE, flags=re.MULTILINE))
    stages: dict[str, list[tuple[str, str]]] = {}
    for line in filter(None, joined.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages[rest.split()[-1]] = []
        if stages:
            stages[list(stages)[-1]].append((word, rest))
    return stages


def test_what_is_built_runs_as_nobody_in_particular() -> None:
    stages = _stages()
    assert list(stages) == ["build", "intercept", "meshca"]
    final = dict(stages["meshca"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", final["USER"])
    assert json.loads(final["ENTRYPOINT"]) == ["meshca"]
    assert json.loads(final["CMD"])[0] == "serve"
    assert not any("pip" in rest for _, rest in stages["meshca"])


def test_nothing_is_installed_that_is_not_locked() -> None:
    ran = [rest for word, rest in _stages()["build"] if word == "RUN"]
    installs = [one for line in ran for one in line.split("&&") if "pip install" in one]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-index --no-deps" in installs[1]
    assert not re.search(r"\bADD\b|curl|wget|https?://", _DOCKERFILE)
    assert re.findall(r"^FROM (\S+)", _DOCKERFILE, re.MULTILINE) == ["${PYTHON}", "${DEBIAN}", "${PYTHON}"]
    assert ":latest" not in _DOCKERFILE


def test_what_is_copied_is_there_and_is_sent() -> None:
    ignore = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied = set()
    for word, rest in [one for stage in _stages().values() for one in stage]:
        if word == "COPY" and "--from" not in rest:
            copied |= {source for source in rest.split()[:-1] if not source.startswith("--")}
    assert copied == sent
    assert all((TOP / source).exists() for source in copied)
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml", "meshca"} <= copied


@pytest.mark.parametrize("name", _SERVICES)
def test_a_service_may_do_little(name: str) -> None:
    service = _SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("cap_add", []) == (["NET_ADMIN"] if name.endswith("-host") else [])
    assert "privileged" not in service
    assert "ports" not in service, "nothing is open to the machine's network"


def test_names_lead_somewhere() -> None:
    document = compose()
    for name, service in _SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            healthy = how["condition"] == "service_healthy"
            assert healthy == ("healthcheck" in _SERVICES[other]), f"{name} waits for {other}"
            assert healthy == (_SERVICES[other]["restart"] != "no")
        for way in ("network_mode", "pid"):
            kind, _, other = service.get(way, "").partition(":")
            assert kind != "service" or other in _SERVICES
        for kind in ("networks", "secrets"):
            assert set(service.get(kind, ())) <= document[kind].keys()
        volumes = {one.partition(":")[0] for one in service.get("volumes", ())}
        assert {one for one in volumes if not one.startswith("./")} <= document["volumes"].keys()


@pytest.mark.parametrize("name", _ENVOYS)
def test_an_envoy_is_started_as_meshca_says(name: str) -> None:
    envoy, host = _SERVICES[name], _SERVICES[name.replace("-envoy", "-host")]
    assert envoy["image"] == envoy_image()
    assert envoy["entrypoint"] == ["envoy", "--config-path", "/etc/envoy/bootstrap.yaml", *ENVOY_ARGUMENTS]
    assert envoy["healthcheck"]["test"] == ["CMD", "bash", "-c", READY]
    assert envoy["pid"] == "service:agent", "else every caller is process 0, which is refused"
    assert envoy["user"].partition(":")[0] == host["environment"]["APPMESH_IGNORE_UID"]
    app = _SERVICES[name.replace("-envoy", "")]
    assert app["network_mode"] == envoy["network_mode"] == f"service:{name.replace('-envoy', '-host')}"
    assert app["user"] != envoy["user"]


def test_each_node_has_a_user_of_its_own() -> None:
    assert len({_SERVICES[name]["user"] for name in _ENVOYS}) == len(_ENVOYS) == 2
    nodes = {one["virtualNodeName"]: one["spec"] for one in _mesh() if "virtualNodeName" in one}
    for name, spec in nodes.items():
        host = _SERVICES[f"{name}-host"]
        assert host["networks"]["mesh"]["aliases"] == [spec["serviceDiscovery"]["dns"]["hostname"]]
        assert host["environment"]["APPMESH_APP_PORTS"] == str(spec["listeners"][0]["portMapping"]["port"])


def _mesh() -> list[Document]:
    return list(yaml.safe_load_all((DEPLOY / "docker/mesh.yaml").read_text()))
