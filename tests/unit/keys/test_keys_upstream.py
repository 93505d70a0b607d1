"""Where the root is, as text, and a root that is brought in files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from fakes.upstream_pki import foreign_root, rsa_key

from meshca.errors import InvalidInputError
from meshca.keys.root_files import RootFileError, read_root
from meshca.keys.upstream_place import (
    OfflineRoot,
    PkiMount,
    RootFiles,
    SelfSigned,
    UpstreamPlaceError,
    parse_upstream,
)
from meshca.x509.foreign import ForeignChainError

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
ROOT = foreign_root(NOW)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", SelfSigned()),
        ("offline", OfflineRoot()),
        ("openbao:pki", PkiMount("pki")),
        ("openbao:pki/corp/mesh", PkiMount("corp/mesh")),
        ("files:/etc/root", RootFiles(Path("/etc/root"))),
        ("files:root", RootFiles(Path("root"))),
    ],
)
def test_every_form_is_read(text: str, place: object) -> None:
    assert parse_upstream(text) == place


@pytest.mark.parametrize(
    "text",
    ["self", "files:", "openbao:transit", "openbao:pki/", "openbao:pki/a//b", "openbao:pki/a b",
     "offline ", "files:a\nb", "openbao:pki\n", "files:" + "x" * 2000],
)  # fmt: skip
def test_what_is_unknown_is_refused(text: str) -> None:
    with pytest.raises(UpstreamPlaceError, match="openbao:pki"):
        parse_upstream(text)


def written(folder: Path, key: Any = ROOT.key, encryption: KeySerializationEncryption | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "root.pem").write_bytes(ROOT.certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    (folder / "root_key.pem").write_bytes(pem)
    (folder / "root_key.pem").chmod(0o600)
    return folder


def test_a_root_and_its_key_are_read_and_left_alone(tmp_path: Path) -> None:
    folder = written(tmp_path / "r")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    root = read_root(folder, {})
    assert (root.certificate, root.key.private_numbers()) == (ROOT.der, ROOT.key.private_numbers())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert len(root.warnings) == 1
    assert "BroughtRoot(warnings=" in repr(root)


def test_a_key_may_have_a_passphrase_of_its_own(tmp_path: Path) -> None:
    folder = written(tmp_path / "r", encryption=BestAvailableEncryption(b"old secret"))
    (tmp_path / "passphrase").write_text("old secret\n")
    for environ in (
        {"MESHCA_ROOT_KEY_PASSPHRASE": "old secret"},
        {"MESHCA_ROOT_KEY_PASSPHRASE_FILE": str(tmp_path / "passphrase")},
    ):
        assert read_root(folder, environ).certificate == ROOT.der
    with pytest.raises(RootFileError, match="is encrypted; set MESHCA_ROOT_KEY_PASSPHRASE_FILE"):
        read_root(folder, {})
    with pytest.raises(RootFileError, match="wrong passphrase") as caught:
        read_root(folder, {"MESHCA_ROOT_KEY_PASSPHRASE": "n0t-it"})
    assert "n0t-it" not in str(caught.value)
    with pytest.raises(RootFileError, match="not encrypted"):
        read_root(written(tmp_path / "plain"), {"MESHCA_ROOT_KEY_PASSPHRASE": "x"})
    with pytest.raises(InvalidInputError, match="No such file"):
        read_root(folder, {"MESHCA_ROOT_KEY_PASSPHRASE_FILE": "/no/such/file"})


@pytest.mark.parametrize("key", [rsa_key(), ec.generate_private_key(ec.SECP521R1())], ids=["rsa", "p-521"])
def test_a_key_that_could_not_be_ours_is_refused(tmp_path: Path, key: Any) -> None:
    with pytest.raises(RootFileError, match="neither EC P-256 nor P-384"):
        read_root(written(tmp_path / "r", key), {})


def test_files_that_are_missing_or_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RootFileError, match=r"root\.pem: cannot be read"):
        read_root(tmp_path, {})
    folder = written(tmp_path / "r")
    (folder / "root.pem").write_bytes(ROOT.certificate.public_bytes(Encoding.PEM) * 2)
    with pytest.raises(RootFileError, match="more than one"):
        read_root(folder, {})
    (folder / "root.pem").write_bytes((folder / "root_key.pem").read_bytes())
    with pytest.raises(ForeignChainError, match="private key"):
        read_root(folder, {})
    folder = written(tmp_path / "r")
    for content in (b"", b"junk", b"x" * 100_000):
        (folder / "root_key.pem").write_bytes(content)
        with pytest.raises(RootFileError):
            read_root(folder, {})


def test_a_key_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    folder = written(tmp_path / "r")
    (folder / "root_key.pem").chmod(0o644)
    assert any("can be read by others" in warning for warning in read_root(folder, {}).warnings)
