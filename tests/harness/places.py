"""Where a world's root is: a sealed file, OpenBao's transit engine, an HSM, or an upstream's own pki.

`MESHCA_TEST_CA=transit scripts/test tests/e2e` runs every whole-world test with the root there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fakes.key_stores import openbao, softhsm

KINDS = ("file", "transit", "pkcs11", "pki")
Options = Callable[[], tuple[str, ...]]


@contextmanager
def place(kind: str, folder: Path) -> Iterator[Options]:
    """Lend a place; yields what gives the options of `meshca init` for one more world, a key of its own included."""
    if kind == "file":
        yield lambda: ()
    elif kind == "pkcs11":
        with softhsm(folder) as token:
            yield lambda: ("--root-key", token.uri(f"root-{secrets.token_hex(4)}"))
    elif kind == "transit":
        with openbao() as bao, environment(bao.environ):
            yield lambda: ("--root-key", f"openbao:transit/root-{secrets.token_hex(4)}")
    else:
        with openbao() as bao, environment(bao.environ):
            with bao.client() as client:
                client.sys.enable_secrets_engine("pki")
                client.sys.tune_mount_configuration("pki", max_lease_ttl="87600h")
                client.secrets.pki.generate_root("internal", "upstream root", {"ttl": "87600h", "key_type": "ec"})
            yield lambda: ("--upstream", "openbao:pki")


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for this process and what it starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
