"""deploy/kubernetes: against the schema of the API, and what no schema says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from unit.attest.test_attest_kubernetes import jwk_of_rsa
from unit.deploy.deploy_files import (
    DEPLOY,
    ENVOY_ARGUMENTS,
    READY,
    TOP,
    Document,
    envoy_image,
    intercepted_bootstrap,
    manifests,
    named,
)

from meshca.attest.pods import SERVICE_ACCOUNT
from meshca.cli.agent import agent_command
from meshca.server.config import parse_config

kubernetes_validate = pytest.importorskip("kubernetes_validate")

_ALL = [*manifests(), *manifests("example")]
_OLDEST = "1.32"  # tokens name their node, and sidecars start before what they serve


def _label(document: Document) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def _one(kind: str, name: str) -> Document:
    (found,) = (one for one in _ALL if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def _workloads() -> list[Document]:
    return [one for one in _ALL if one["kind"] in {"StatefulSet", "DaemonSet", "Deployment"}]


def _pod(workload: Document) -> Document:
    pod: Document = workload["spec"]["template"]
    return pod


def _containers(workload: Document) -> list[Document]:
    spec = _pod(workload)["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


@pytest.mark.parametrize("document", _ALL, ids=_label)
@pytest.mark.parametrize("version", [_OLDEST, "newest"])
def test_the_api_knows_every_field(document: Document, version: str) -> None:
    newest = kubernetes_validate.latest_version()
    kubernetes_validate.validate(document, newest if version == "newest" else version, strict=True)


def test_the_schema_is_strict() -> None:
    wrong = {**_one("Service", "meshca"), "spec": {"port": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, _OLDEST, strict=True)


def test_everything_is_applied() -> None:
    listed = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())["resources"]
    there = {file.name for file in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert set(listed) == there - {"kustomization.yaml"}
    namespaces = {one["metadata"]["name"] for one in _ALL if one["kind"] == "Namespace"} | {"shop"}
    assert {one["metadata"]["namespace"] for one in _ALL if "namespace" in one["metadata"]} == namespaces


def _selected(selector: Document, namespace: str) -> list[str]:
    return [
        workload["metadata"]["name"]
        for workload in _workloads()
        if workload["metadata"]["namespace"] == namespace
        and selector.items() <= _pod(workload)["metadata"]["labels"].items()
    ]


def _selectors() -> Iterator[tuple[str, Document, str]]:
    for one in _ALL:
        spec, namespace = one.get("spec", {}), one["metadata"].get("namespace", "")
        if one["kind"] == "Service":
            yield _label(one), spec["selector"], namespace
        elif one["kind"] in {"StatefulSet", "DaemonSet", "Deployment", "PodDisruptionBudget"}:
            yield _label(one), spec["selector"]["matchLabels"], namespace
        elif one["kind"] == "NetworkPolicy":
            yield _label(one), spec["podSelector"].get("matchLabels", {}), namespace


@pytest.mark.parametrize(("label", "selector", "namespace"), list(_selectors()))
def test_a_selector_selects_one_workload(label: str, selector: Document, namespace: str) -> None:
    assert len(_selected(selector, namespace)) == 1, label


def test_names_lead_somewhere() -> None:
    accounts = {
        (one["metadata"]["namespace"], one["metadata"]["name"]) for one in _ALL if one["kind"] == "ServiceAccount"
    }
    for workload in _workloads():
        spec, namespace = _pod(workload)["spec"], workload["metadata"]["namespace"]
        assert (namespace, spec["serviceAccountName"]) in accounts
        volumes = {volume["name"] for volume in spec["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
        used = {mount["name"] for container in _containers(workload) for mount in container.get("volumeMounts", ())}
        assert used == volumes
    ports = {
        port["name"]: port["containerPort"]
        for port in named(_containers(_one("StatefulSet", "meshca")), "server")["ports"]
    }
    assert {port["targetPort"]: port["port"] for port in _one("Service", "meshca")["spec"]["ports"]} == ports
    assert set(_one("Namespace", "meshca")["metadata"]["labels"].values()) == {"restricted"}


@pytest.mark.parametrize(
    ("workload", "container"),
    [(one["metadata"]["name"], each["name"]) for one in _workloads() for each in _containers(one)],
)
def test_containers_may_do_little(workload: str, container: str) -> None:
    (owner,) = (one for one in _workloads() if one["metadata"]["name"] == workload)
    context = named(_containers(owner), container)["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    assert context["capabilities"].get("add", []) == (["NET_ADMIN"] if container == "proxyinit" else [])
    assert context.get("readOnlyRootFilesystem", container == "app")
    assert "privileged" not in context
    spec = _pod(owner)["spec"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    root = {**spec["securityContext"], **context}.get("runAsUser") == 0
    assert root == (container in {"agent", "proxyinit"})


def test_only_the_agent_sees_the_node_and_the_api() -> None:
    for workload in _workloads():
        spec, agent = _pod(workload)["spec"], workload["kind"] == "DaemonSet"
        assert spec.get("hostPID", False) is agent
        assert "hostNetwork" not in spec
        assert spec.get("automountServiceAccountToken", True) is agent
    assert _one("ClusterRole", "meshca-agent")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    ]
    (token,) = named(_pod(_one("DaemonSet", "meshca-agent"))["spec"]["volumes"], "token")["projected"]["sources"]
    assert token["serviceAccountToken"] == {"path": "token", "audience": "meshca", "expirationSeconds": 600}


def test_the_agent_asks_for_the_pods_of_its_own_node_and_may() -> None:
    daemon = _one("DaemonSet", "meshca-agent")
    agent = named(_containers(daemon), "agent")
    (option,) = (one for one in agent_command.params if one.name == "kubernetes_node")
    assert agent["env"] == [{"name": option.envvar, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    # Its token and CA are where pods_of_node looks: mounted by Kubernetes, and nothing lies over them.
    assert not [m for m in agent["volumeMounts"] if SERVICE_ACCOUNT.is_relative_to(m["mountPath"])]
    (ports,) = (rule["ports"] for rule in _one("NetworkPolicy", "agent")["spec"]["egress"] if "to" not in rule)
    assert {"port": 443, "protocol": "TCP"} in ports


def test_nothing_comes_in_or_goes_out_unsaid() -> None:
    policies = [one for one in _ALL if one["kind"] == "NetworkPolicy"]
    for namespace in ("meshca", "meshca-agent"):
        own = [one["spec"] for one in policies if one["metadata"]["namespace"] == namespace]
        assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in own
    server, agent = _one("NetworkPolicy", "server")["spec"], _one("NetworkPolicy", "agent")["spec"]
    assert "ingress" not in agent
    assert [rule["ports"][0]["port"] for rule in server["ingress"]] == [8443, 8080]
    assert all(rule["from"] for rule in server["ingress"])
    (from_agents,) = (peer for peer in server["ingress"][0]["from"] if "podSelector" in peer)
    assert _selected(from_agents["podSelector"]["matchLabels"], "meshca-agent") == ["meshca-agent"]
    (to_server,) = (rule for rule in agent["egress"] if rule["ports"] == [{"port": 8443, "protocol": "TCP"}])
    assert _selected(to_server["to"][0]["podSelector"]["matchLabels"], "meshca") == ["meshca"]


def test_no_secret_stands_in_argv_or_in_a_manifest() -> None:
    assert not [one for one in _ALL if one["kind"] == "Secret"]
    environment = {one["name"]: one for one in named(_containers(_one("StatefulSet", "meshca")), "server")["env"]}
    assert ":" not in environment["DATABASE_URL"]["value"].partition("://")[2].partition("@")[0]
    assert environment["PGPASSWORD"]["valueFrom"]["secretKeyRef"]["name"] == "meshca-database"


def test_the_server_lets_in_the_agent_that_is_deployed(tmp_path: Path) -> None:
    (account,) = _selected_accounts()
    text = _one("ConfigMap", "meshca-attest")["data"]["attest.toml"]
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps({"keys": [jwk_of_rsa("rsa")]}))
    (cluster,) = parse_config(text.replace("/etc/meshca/jwks.json", str(jwks)), "meshca.toml").attestors.clusters
    assert cluster.expected.service_accounts == {account}
    assert cluster.expected.audience == "meshca"
    registered = re.findall(r"--parent (\S+)", (DEPLOY / "kubernetes/README.md").read_text())
    assert f"k8s.{cluster.expected.cluster}" in registered[0]


def _selected_accounts() -> set[tuple[str, str]]:
    return {
        (one["metadata"]["namespace"], _pod(one)["spec"]["serviceAccountName"])
        for one in _workloads()
        if one["kind"] == "DaemonSet"
    }


def test_the_sidecar_is_started_as_meshca_says() -> None:
    front = _one("Deployment", "front")
    names = [one["name"] for one in _containers(front)]
    assert names == ["proxyinit", "envoy", "app"], "rules first, then Envoy, then what they serve"
    envoy = named(_containers(front), "envoy")
    assert envoy["image"] == envoy_image()
    assert envoy["command"] == ["envoy", "--config-path", "/etc/envoy/bootstrap.yaml", *ENVOY_ARGUMENTS]
    for probe in ("startupProbe", "readinessProbe"):
        assert envoy[probe]["exec"]["command"] == ["bash", "-c", READY]
    ignored = named(named(_containers(front), "proxyinit")["env"], "APPMESH_IGNORE_UID")["value"]
    assert ignored == str(envoy["securityContext"]["runAsUser"])
    written = yaml.safe_load(_one("ConfigMap", "front-envoy")["data"]["bootstrap.yaml"])
    assert written == intercepted_bootstrap("mesh/shop/virtualNode/front_shop")


def test_meshca_reads_the_example() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshca", "validate", "-f", DEPLOY / "kubernetes/example/mesh.yaml", "-o", "json"],
        capture_output=True, text=True, check=False, cwd=TOP, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "front_shop" in done.stdout
