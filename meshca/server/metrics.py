"""The numbers of a running server, for Prometheus.

Rules: names are constants here and nowhere else; labels come from small fixed sets, never from a caller; no label or
value carries a secret.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    """One registry per server, so that two in one process (tests) don't meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.issued = Counter("meshca_issued", "Certificates issued.", ["kind"], registry=self.registry)
        self.refused = Counter("meshca_refused", "Refusals, by what was refused.", ["action"], registry=self.registry)
        self.revoked = Counter("meshca_revoked", "Certificates revoked.", registry=self.registry)
        self.nacks = Counter("meshca_xds_nacks", "Contents that an Envoy rejected.", registry=self.registry)
        self.unsafe = Counter("meshca_xds_withheld", "Resources withheld as unsafe.", registry=self.registry)
        self.alarms = Counter("meshca_alarms", "Trust that could not be published.", registry=self.registry)
        self.streams = Gauge("meshca_xds_streams", "Open xDS streams.", registry=self.registry)
        self.generation = Gauge("meshca_trust_generation", "The trust generation.", registry=self.registry)
        self.revision = Gauge("meshca_mesh_revision", "The mesh revision.", registry=self.registry)
        self.crl_number = Gauge("meshca_crl_number", "CRL number of the active issuing CA.", registry=self.registry)

    def text(self) -> bytes:
        """Return everything in Prometheus' text form."""
        return generate_latest(self.registry)
