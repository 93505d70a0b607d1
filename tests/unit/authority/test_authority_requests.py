from __future__ import annotations

from datetime import timedelta

import pytest
from fakes.ca import TRUST_DOMAIN, node

from meshca.authority.reasons import REASONS, ReasonError, parse_reason
from meshca.authority.requests import IdentityRefusedError, Kind, granted_life, require_issuable
from meshca.errors import InvalidInputError
from meshca.spiffe import reserved
from meshca.spiffe.id import SpiffeId, TrustDomain

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("spiffe_id", "kind"),
    [
        pytest.param(node("web"), "stream", id="a-node"),
        pytest.param(node("web"), "file", id="a-node-as-file"),
        pytest.param(SpiffeId(TRUST_DOMAIN, "/meshcat"), "stream", id="only-looks-reserved"),
        pytest.param(reserved.server(TRUST_DOMAIN, "a"), "server", id="server"),
        pytest.param(reserved.admin(TRUST_DOMAIN, "a"), "admin", id="admin"),
    ],
)
def test_these_identities_are_issued(spiffe_id: SpiffeId, kind: Kind) -> None:
    require_issuable(spiffe_id, kind, TRUST_DOMAIN)


@pytest.mark.parametrize(
    ("spiffe_id", "kind", "why"),
    [
        pytest.param(SpiffeId(TrustDomain("other.test"), "/a"), "stream", "outside the trust domain", id="foreign"),
        pytest.param(TRUST_DOMAIN.id, "stream", "no workload", id="no-path"),
        pytest.param(reserved.nobody(TRUST_DOMAIN), "stream", "nobody", id="nobody"),
        pytest.param(reserved.nobody(TRUST_DOMAIN), "server", "nobody", id="nobody-to-ourselves"),
        pytest.param(reserved.server(TRUST_DOMAIN, "a"), "stream", "meshca's own", id="server-to-a-stream"),
        pytest.param(reserved.admin(TRUST_DOMAIN, "a"), "file", "meshca's own", id="admin-to-a-file"),
        pytest.param(reserved.admin(TRUST_DOMAIN, "a"), "server", "meshca's own", id="admin-to-the-server"),
        pytest.param(SpiffeId(TRUST_DOMAIN, "/meshca"), "stream", "meshca's own", id="the-room-itself"),
        pytest.param(node("web"), "server", "/meshca/server/", id="a-node-to-the-server"),
    ],
)
def test_these_are_not(spiffe_id: SpiffeId, kind: Kind, why: str) -> None:
    with pytest.raises(IdentityRefusedError, match=why):
        require_issuable(spiffe_id, kind, TRUST_DOMAIN)


@pytest.mark.parametrize(
    ("ttl", "life"),
    [
        pytest.param(None, HOUR, id="default"),
        pytest.param(timedelta(minutes=5), timedelta(minutes=5), id="shorter"),
        pytest.param(timedelta(days=1), HOUR, id="capped"),
        pytest.param(timedelta(seconds=1.9), timedelta(seconds=1), id="whole-seconds"),
    ],
)
def test_a_life_is_what_was_asked_up_to_the_cap(ttl: timedelta | None, life: timedelta) -> None:
    assert granted_life(ttl, HOUR) == life


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta(seconds=0.9)])
def test_no_life_is_refused(ttl: timedelta) -> None:
    with pytest.raises(InvalidInputError) as refused:
        granted_life(ttl, HOUR)
    assert refused.value.field == "ttl"


@pytest.mark.parametrize("reason", REASONS)
def test_rfc_5280_reasons_are_taken(reason: str) -> None:
    assert parse_reason(reason) == reason


def test_no_reason_is_unspecified() -> None:
    assert parse_reason("") == "unspecified"


@pytest.mark.parametrize("reason", ["certificateHold", "removeFromCRL", "KeyCompromise", "keyCompromise ", "stolen"])
def test_others_are_refused_with_the_list(reason: str) -> None:
    with pytest.raises(ReasonError, match="keyCompromise, cACompromise"):
        parse_reason(reason)
