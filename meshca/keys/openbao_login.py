"""How we become known to OpenBao or Vault: address, TLS, and where the token comes from.

Rules kept here: each variable is looked for as ``BAO_…`` first, then as ``VAULT_…``; the first way that is configured
is the way (token, token file, AppRole, Kubernetes, ``~/.vault-token``), and one that fails is an error, not a reason to
try the next; no error and no repr carries a token, a secret id or a Kubernetes token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from meshca.authority.ports import KeyUnavailableError
from meshca.errors import InvalidInputError

_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_LARGEST_FILE = 64 * 1024


class BaoConfigError(InvalidInputError):
    """What the environment says about OpenBao cannot be used."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A token, and for how many seconds it holds; 0: for ever, None: nobody has said."""

    token: str = field(repr=False)
    seconds: float | None
    renewable: bool

    @classmethod
    def of(cls, auth: Mapping[str, Any]) -> Lease:
        """Read the ``auth`` part of an answer."""
        return cls(str(auth["client_token"]), float(auth["lease_duration"]), bool(auth.get("renewable")))


@dataclass(frozen=True, slots=True)
class Login:
    """One way to a token, with a client that need not have one; not ``repeatable``: it would be the same token."""

    method: str
    remedy: str
    run: Callable[[Any], Lease] = field(repr=False)
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class BaoSettings:
    """Where OpenBao is, and how to log in."""

    address: str
    login: Login
    namespace: str = ""
    verify: bool | str = True
    client_certificate: tuple[str, str] | None = None


def read_settings(environ: Mapping[str, str]) -> BaoSettings:
    """Read the usual variables.

    Raises:
        BaoConfigError: One is missing or makes no sense.
    """

    def named(name: str) -> str:
        return environ.get(f"BAO_{name}") or environ.get(f"VAULT_{name}") or ""

    certificate, key = named("CLIENT_CERT"), named("CLIENT_KEY")
    if bool(certificate) != bool(key):
        raise BaoConfigError("a client certificate needs its key", field="BAO_CLIENT_CERT and BAO_CLIENT_KEY")
    return BaoSettings(
        address=_address(named("ADDR")),
        login=_login(named, environ),
        namespace=named("NAMESPACE"),
        verify=named("CACERT") or named("CAPATH") or True,
        client_certificate=(certificate, key) if certificate else None,
    )


def _address(text: str) -> str:
    if not text:
        raise BaoConfigError("not set", field="BAO_ADDR", remedy="set BAO_ADDR, such as https://bao.example.com:8200")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in text:  # what stands before an @ may be a password, so the value is not shown
        raise BaoConfigError("not an http(s) address", field="BAO_ADDR", remedy="write https://HOST:PORT")
    return text.rstrip("/")


def _login(named: Callable[[str], str], environ: Mapping[str, str]) -> Login:
    if token := named("TOKEN"):
        remedy = "set BAO_TOKEN to a token that is valid"
        return Login("token", remedy, lambda _: Lease(token, None, renewable=False), repeatable=False)
    if file := named("TOKEN_FILE"):
        return _token_file(Path(file))
    if role := named("ROLE_ID"):
        return _approle(role, named)
    if role := named("KUBERNETES_ROLE"):
        return _kubernetes(role, named)
    if (home := environ.get("HOME")) and (file_at_home := Path(home, ".vault-token")).is_file():
        return _token_file(file_at_home)
    remedy = (
        "set BAO_TOKEN, BAO_TOKEN_FILE, BAO_ROLE_ID with BAO_SECRET_ID or BAO_SECRET_ID_FILE, or BAO_KUBERNETES_ROLE"
    )
    raise BaoConfigError("no way to log in to OpenBao is configured", field="BAO_TOKEN", remedy=remedy)


def _token_file(path: Path) -> Login:
    return Login("token file", f"put a valid token into {path}", lambda _: Lease(_secret(path), None, renewable=False))


def _approle(role: str, named: Callable[[str], str]) -> Login:
    mount, secret, file = named("APPROLE_MOUNT") or "approle", named("SECRET_ID"), named("SECRET_ID_FILE")

    def run(client: Any) -> Lease:
        secret_id = _secret(Path(file)) if file else secret or None
        return Lease.of(client.auth.approle.login(role, secret_id, use_token=False, mount_point=mount)["auth"])

    return Login("AppRole", "check BAO_ROLE_ID, and BAO_SECRET_ID or BAO_SECRET_ID_FILE", run)


def _kubernetes(role: str, named: Callable[[str], str]) -> Login:
    mount, file = named("KUBERNETES_MOUNT") or "kubernetes", Path(named("KUBERNETES_TOKEN_FILE") or _SERVICE_ACCOUNT)

    def run(client: Any) -> Lease:
        answer = client.auth.kubernetes.login(role, _secret(file), use_token=False, mount_point=mount)
        return Lease.of(answer["auth"])

    return Login("Kubernetes", f"check BAO_KUBERNETES_ROLE and the service account's token in {file}", run)


def _secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE).decode("ascii").strip()
    except OSError as error:
        raise KeyUnavailableError(
            f"cannot be read: {error.strerror}", field=str(path), remedy="check the path, its owner and its mode"
        ) from error
    except UnicodeDecodeError:
        raise KeyUnavailableError("holds no token", field=str(path)) from None
    if not text or not text.isprintable():
        raise KeyUnavailableError("holds no token", field=str(path), remedy="write the token alone into it")
    return text
