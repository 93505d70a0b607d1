"""An offline root of a test's own, worked with the openssl command as an operator would."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_CONFIG = """
[ca]
default_ca = this
[this]
database = {folder}/index.txt
serial = {folder}/serial
crlnumber = {folder}/crlnumber
new_certs_dir = {folder}
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
x509_extensions = below
crl_extensions = crl
[any]
commonName = supplied
organizationName = optional
[below]
authorityKeyIdentifier = keyid
[crl]
authorityKeyIdentifier = keyid
"""


_OWN = ("-config", "ca.cnf", "-cert", "cert.pem", "-keyfile", "key.pem")
_RIGHTS = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")


def _request(name: str) -> tuple[str, ...]:
    return ("-new", "-key", "key.pem", "-subj", f"/CN={name}", *_RIGHTS)


@dataclass(frozen=True)
class OpensslCa:
    """A CA in a folder: ``key.pem``, ``cert.pem`` and the files of `openssl ca`."""

    folder: Path

    @classmethod
    def root(cls, folder: Path, name: str) -> OpensslCa:
        """Make a root that signs itself."""
        made = cls._made(folder)
        made._openssl("req", "-x509", "-days", "3650", *_request(name), "-out", "cert.pem")
        return made

    def below(self, folder: Path, name: str) -> OpensslCa:
        """Make a CA that this one has signed."""
        made = self._made(folder)
        made._openssl("req", *_request(name), "-addext", "subjectKeyIdentifier=hash", "-out", "csr.pem")
        made.certificate.write_bytes(self.sign(made.folder / "csr.pem", days=365))
        return made

    @property
    def certificate(self) -> Path:
        """Where its certificate lies."""
        return self.folder / "cert.pem"

    def sign(self, csr: Path, days: int = 90) -> bytes:
        """Sign a request and return the certificate as PEM."""
        out = self.folder / "signed.pem"
        self._openssl("ca", "-batch", *_OWN, "-notext", "-in", str(csr), "-days", str(days), "-out", str(out))
        return out.read_bytes()

    def crl(self) -> Path:
        """Make a CRL that is good for long, and return where it lies."""
        out = self.folder / "crl.pem"
        lasting = ("-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20490101000000Z")
        self._openssl("ca", *_OWN, "-gencrl", *lasting, "-out", str(out))
        return out

    @classmethod
    def _made(cls, folder: Path) -> OpensslCa:
        folder.mkdir()
        (folder / "ca.cnf").write_text(_CONFIG.format(folder=folder))
        (folder / "index.txt").touch()
        for name in ("serial", "crlnumber"):
            (folder / name).write_text("01\n")
        made = cls(folder)
        made._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
        return made

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"openssl {arguments[0]}: {done.stderr}"
