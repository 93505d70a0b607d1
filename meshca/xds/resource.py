"""One resource as it goes over the wire, shared by every stream that is sent it.

Rules this module keeps:
- A resource is opaque here: a name, a version and the bytes of its message.
- The bytes exist once. A response is joined from short per-response headers and these same bytes.
- The version is what a delta client may hold and name again; the digest is the content itself. Text may change
  without meaning (see ``View.reworded``): then the digest differs although the version may stay.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

ADS_TYPES = frozenset({SDS, CDS, EDS, LDS, RDS})

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Resource:
    """A named, versioned message; ``body`` may hold a private key, so it never shows in a repr."""

    type_url: str
    name: str
    version: str
    body: bytes = field(repr=False)
    digest: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.body).hexdigest()[: 2 * _DIGEST_BYTES]
        object.__setattr__(self, "digest", digest)
