"""The bundle endpoint of a running server, put together as it is configured."""

from __future__ import annotations

from meshca.server.bundle_endpoint import BundleEndpoint, WebCertificate, bundle_context
from meshca.server.house import House
from meshca.server.own import OwnSvid, Shown
from meshca.server.services.trust import REFRESH_HINT, bundle_in
from meshca.server.state import State
from meshca.spiffe import reserved


def shown_to_federated(house: House) -> Shown:
    """Return what identity the endpoint has: the same on every replica, for others configure one."""
    return Shown("federation", reserved.federation(house.authority.realm.trust_domain), bundle_context)


def bundle_endpoint(house: House, state: State, own: OwnSvid) -> BundleEndpoint | None:
    """Return the endpoint, not yet open, or None where none is configured.

    Raises:
        InvalidInputError: Certificate and key of web PKI cannot be used.
    """
    config = house.config
    if config.federation is None:
        return None

    def bundle() -> bytes:
        return bundle_in("spiffe", state.snapshot)

    if config.federation_files is not None:
        return BundleEndpoint(WebCertificate(*config.federation_files).context, bundle, REFRESH_HINT)
    return BundleEndpoint(own.context, bundle, REFRESH_HINT, own)
