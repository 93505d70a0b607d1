"""The layouts: which files a generation consists of, for which kind of program.

    pem      svid.pem svid_key.pem bundle.pem crl.pem                        nginx, PostgreSQL, most others
    haproxy  haproxy.pem bundle.pem crl.pem                                  key, leaf and chain in one file
    grpc     certificates.pem private_key.pem ca_certificates.pem crl.pem    the names of gRPC's file-watcher examples

The rule this module keeps: a file that holds a key is in ``secret``, and gets the mode of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from meshca.drop.material import BUNDLE_FILE, CERTIFICATE_FILE, CRL_FILE, KEY_FILE, Material

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and contents of the files of one generation."""

    name: str
    certificate: str
    key: str
    bundle: str
    contents: Callable[[Material], Files]

    @property
    def secret(self) -> frozenset[str]:
        """The files that hold a key."""
        return frozenset({self.key})


PEM = Layout("pem", CERTIFICATE_FILE, KEY_FILE, BUNDLE_FILE, Material.files)


def _one_file(material: Material) -> Files:
    # One file is read in one go: whoever reads it, at whatever moment, has a key and its certificate.
    return {"haproxy.pem": material.key + material.chain, BUNDLE_FILE: material.bundle, CRL_FILE: material.crl}


def _watched(material: Material) -> Files:
    return {
        "certificates.pem": material.chain,
        "private_key.pem": material.key,
        "ca_certificates.pem": material.bundle,
        CRL_FILE: material.crl,
    }


HAPROXY = Layout("haproxy", "haproxy.pem", "haproxy.pem", BUNDLE_FILE, _one_file)
GRPC = Layout("grpc", "certificates.pem", "private_key.pem", "ca_certificates.pem", _watched)

LAYOUTS: Mapping[str, Layout] = MappingProxyType({each.name: each for each in (PEM, HAPROXY, GRPC)})
