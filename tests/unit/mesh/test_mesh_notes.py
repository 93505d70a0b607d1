"""What `apply` says about parts of a spec that are served otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from unit.mesh.mesh_objects import (
    ARN,
    backend,
    client_policy,
    gateway,
    listener,
    mutual,
    node,
    router,
    service,
)

from meshca.mesh.model import MeshObject
from meshca.mesh.notes import notes

FILE = {"file": {"certificateChain": "/keys/chain.pem", "privateKey": "/keys/key.pem"}}
TRUST = {"trust": {"file": {"certificateChain": "/keys/ca.pem"}}}
TLS = "spec.listeners[0].tls"
POLICY = "spec.backendDefaults.clientPolicy.tls"


def serving(**tls: Any) -> MeshObject:
    return node("n", listeners=(listener(tls={**mutual(), **tls}),))


def calling(**tls: Any) -> MeshObject:
    return node("n", backendDefaults={"clientPolicy": client_policy(**tls)})


@pytest.mark.parametrize(
    ("item", "field", "value", "served"),
    [
        pytest.param(serving(certificate=FILE), f"{TLS}.certificate.file", "/keys/chain.pem", "own certificate",
                     id="certificate-file"),
        pytest.param(serving(certificate={"acm": {"certificateArn": f"{ARN}:c"}}), f"{TLS}.certificate.acm", f"{ARN}:c",
                     "own certificate", id="certificate-acm"),
        pytest.param(serving(validation=TRUST), f"{TLS}.validation.trust.file", "/keys/ca.pem", "trust bundle",
                     id="trust-file"),
        pytest.param(calling(certificate=FILE), f"{POLICY}.certificate.file", "/keys/chain.pem", "own certificate",
                     id="client-certificate-file"),
        pytest.param(calling(validation=TRUST), f"{POLICY}.validation.trust.file", "/keys/ca.pem", "trust bundle",
                     id="client-trust-file"),
        pytest.param(
            calling(validation={"trust": {"acm": {"certificateAuthorityArns": [f"{ARN}:a", f"{ARN}:b"]}}}),
            f"{POLICY}.validation.trust.acm", f"{ARN}:a, {ARN}:b", "trust bundle", id="client-trust-acm",
        ),
        pytest.param(
            node("n", backends=[backend("s", clientPolicy=client_policy(certificate=FILE))]),
            "spec.backends[0].virtualService.clientPolicy.tls.certificate.file", "/keys/chain.pem", "own certificate",
            id="backend",
        ),
        pytest.param(gateway("n", listener(443, tls={**mutual(), "certificate": FILE})), f"{TLS}.certificate.file",
                     "/keys/chain.pem", "own certificate", id="gateway"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_noted(item: MeshObject, field: str, value: str, served: str) -> None:
    (note,) = notes(item)
    assert (note.severity, note.object, note.field, note.value) == ("note", str(item.key), field, value)
    assert "is not read" in note.rule
    assert served in note.rule


def test_what_is_served_as_it_says_needs_no_note() -> None:
    objects = (serving(), calling(certificate={"sds": {"secretName": "default"}}), node("n"), service("s"), router("r"))
    assert [notes(item) for item in objects] == [()] * 5
    assert notes(node("n", backendDefaults={}, backends=[backend("s", clientPolicy={})])) == ()
    assert notes(serving(mode="PERMISSIVE", validation=None)) == ()


def test_a_permissive_listener_with_validation_is_warned_of() -> None:
    (warning,) = notes(serving(mode="PERMISSIVE"))
    assert (warning.severity, warning.field) == ("warning", f"{TLS}.mode")
    assert "lets anybody in" in warning.rule
    assert warning.remedy


@pytest.mark.parametrize("make", [node, gateway])
def test_a_log_that_is_a_file_is_named_with_whose_rights_it_is_written(make: Any) -> None:
    (found,) = notes(make("n", logging={"accessLog": {"file": {"path": "/etc/cron.d/x"}}}))
    assert (found.field, found.value) == ("spec.logging.accessLog.file.path", "/etc/cron.d/x")
    assert "its own rights" in found.rule
    assert notes(make("n", logging={"accessLog": {"file": {"path": "/dev/stdout"}}})) == ()
