"""JWT-SVIDs and the keys that sign them: in office by the rules of slots, and never for whom they may not be."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from fakes.ca import T0, TRUST_DOMAIN, UNREACHABLE, FakeSigner, World, node

from meshca.authority.authority import Authority, Settings
from meshca.authority.events import JwtTrustChanged
from meshca.authority.freezing import FrozenError
from meshca.authority.issuing import SuspendedError
from meshca.authority.jwt_keys import REFRESHED
from meshca.authority.jwt_trust import NoSigningKeyError
from meshca.authority.ports import KeyUnavailableError, Ports, Straggler
from meshca.authority.records import AuthorityRecord, Role
from meshca.authority.requests import IdentityRefusedError
from meshca.authority.tokens import IssuedToken, TokenRequest
from meshca.errors import ConflictError, NotFoundError
from meshca.spiffe import jwks, jwtsvid
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.spiffe.jws import TokenError
from meshca.spiffe.jwtsvid import AudienceError

WEB = node("web")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
KEY_LIFE = timedelta(days=30)
FOLLOWER = Straggler("jwt:1:1", "jwt", WEB)


@dataclass
class Followers:
    """Who follows the JWT bundle, and the generation that each has."""

    given: dict[Straggler, int] = field(default_factory=dict)

    def behind(self, generation: int, at: datetime) -> list[Straggler]:
        return [one for one, given in self.given.items() if given < generation]

    def holders(self, at: datetime) -> int:
        return len(self.given)


class Realm:
    """A CA whose JWT bundle somebody may follow."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.world = World()
        self.followers = Followers()
        self.settings = settings or Settings()
        self.events: list[JwtTrustChanged] = []
        self.authority = self.another()

    def another(self) -> Authority:
        """Return a second authority on the same ledger, as another replica has."""
        world = self.world
        ports = Ports(world.ledger, world.acknowledgements, world.keys, world.clock, world.entropy, self.followers)
        made = Authority(ports, self.settings)
        made.subscribe(lambda event: self.events.append(event) if isinstance(event, JwtTrustChanged) else None)
        return made

    @property
    def keys(self) -> dict[str, AuthorityRecord]:
        """Return the keys in use by state."""
        return {record.state: record for record in self.authority.jwt_keys.trust.keys}

    def token(self, spiffe_id: SpiffeId = WEB, *audience: str, authority: Authority | None = None) -> IssuedToken:
        """Return a token."""
        request = TokenRequest(spiffe_id, audience or ("db",), "uid:1")
        return (authority or self.authority).tokens.issue(request)

    def verify(self, token: IssuedToken, audience: str = "db") -> jwtsvid.Verified:
        """Verify a token by the bundle as it is published now."""
        keys = {TRUST_DOMAIN: jwks.parse(self.authority.jwt_keys.trust.bundle)}
        return jwtsvid.verify(token.text, audience, keys, self.world.clock.now())

    def move(self, span: timedelta) -> None:
        """Let time pass, and a tick come."""
        self.world.clock.move(span)
        self.authority.jwt_keys.advance()


def test_a_token_says_who_for_whom_and_how_long() -> None:
    realm = Realm()
    token = realm.token(WEB, "db", "cache")
    found = realm.verify(token, "cache")
    assert found.spiffe_id == WEB
    assert dict(found.claims) == {
        "sub": str(WEB),
        "aud": ["db", "cache"],
        "iat": int(T0.timestamp()),
        "exp": int((T0 + 5 * MINUTE).timestamp()),
        "jti": token.token_id,
    }
    assert token.expires_at == T0 + 5 * MINUTE
    assert token.text not in repr(token)


def test_every_token_stands_in_the_audit_log() -> None:
    realm = Realm()
    tokens = [realm.token(), realm.token()]
    entries = [entry for entry in realm.world.ledger.audit if entry.action == "issue-jwt"]
    assert len({token.token_id for token in tokens}) == 2
    for token, entry in zip(tokens, entries, strict=True):
        assert (entry.subject, entry.outcome, entry.actor) == (str(WEB), "ok", "uid:1")
        assert f"token {token.token_id} for db until" in entry.reason
        assert token.text not in entry.reason


def test_an_issuer_is_named_where_readers_of_openid_connect_know_us() -> None:
    realm = Realm(Settings(jwt_issuer="https://oidc.test"))
    assert realm.verify(realm.token()).claims["iss"] == "https://oidc.test"


def test_nothing_is_made_before_somebody_asks() -> None:
    realm = Realm()
    realm.authority.start()
    realm.move(DAY)
    assert not realm.authority.jwt_keys.trust.keys
    assert not realm.world.ledger.jwt_keys()
    eager = Realm(Settings(jwt_issuer="https://oidc.test"))
    eager.authority.start()
    assert list(eager.keys) == ["active"]


@pytest.mark.parametrize(
    ("spiffe_id", "error"),
    [
        pytest.param(SpiffeId(TrustDomain("other.test"), "/web"), IdentityRefusedError, id="another-trust-domain"),
        pytest.param(SpiffeId(TRUST_DOMAIN, "/meshca/nobody"), IdentityRefusedError, id="nobody"),
        pytest.param(SpiffeId(TRUST_DOMAIN, "/meshca/admin/a"), IdentityRefusedError, id="reserved"),
        pytest.param(SpiffeId(TRUST_DOMAIN), IdentityRefusedError, id="the-trust-domain-itself"),
    ],
)
def test_only_workloads_of_ours_get_tokens(spiffe_id: SpiffeId, error: type[Exception]) -> None:
    with pytest.raises(error):
        Realm().token(spiffe_id)


def test_no_token_without_an_audience() -> None:
    realm = Realm()
    with pytest.raises(AudienceError):
        realm.authority.tokens.issue(TokenRequest(WEB, (), "uid:1"))


def test_none_for_whom_is_suspended_until_it_is_resumed() -> None:
    realm = Realm()
    realm.token()
    realm.authority.suspend(WEB, "unspecified", "us")
    with pytest.raises(SuspendedError):
        realm.token()
    assert realm.token(node("db"))
    realm.authority.resume(WEB, "us")
    assert realm.token()


def test_a_suspension_between_signature_and_commit_wins() -> None:
    realm = Realm()
    realm.token()
    signing = realm.keys["active"]
    signer = realm.world.keys.signers[signing.key_ref]

    class Suspending(FakeSigner):
        def sign(self, data: bytes) -> bytes:
            signature = super().sign(data)
            realm.authority.suspend(WEB, "unspecified", "us")
            return signature

    realm.world.keys.signers[signing.key_ref] = Suspending(signer.key)
    with pytest.raises(SuspendedError):
        realm.token()
    assert [entry.action for entry in realm.world.ledger.audit].count("issue-jwt") == 1


def test_none_while_issuance_is_frozen() -> None:
    realm = Realm()
    realm.authority.freezing.freeze("", "us")
    with pytest.raises(FrozenError):  # not even the key is made
        realm.token()
    realm.authority.freezing.unfreeze("us")
    assert realm.token()
    realm.authority.freezing.freeze("", "us")
    with pytest.raises(FrozenError):
        realm.token()


def test_a_key_store_that_does_not_sign_gives_no_token() -> None:
    realm = Realm()
    realm.token()
    realm.world.keys.signers[realm.keys["active"].key_ref].failing = UNREACHABLE
    with pytest.raises(KeyUnavailableError):
        realm.token()


def test_a_key_store_that_signs_something_else_gives_no_token() -> None:
    realm = Realm()
    realm.token()
    realm.world.keys.signers[realm.keys["active"].key_ref] = FakeSigner()
    with pytest.raises(TokenError):
        realm.token()


def test_a_token_ends_with_its_key() -> None:
    realm = Realm()
    realm.token()
    realm.world.clock.move(KEY_LIFE - MINUTE)  # and no tick came
    assert realm.token().expires_at == T0 + KEY_LIFE


# ---- keys in office


def test_a_key_follows_the_one_before_by_time() -> None:
    realm = Realm()
    first = realm.token()
    old = realm.keys["active"].id
    realm.move(KEY_LIFE / 2)
    assert set(realm.keys) == {"active", "prepared"}
    assert realm.keys["active"].id == old
    prepared = realm.keys["prepared"].id
    realm.move(KEY_LIFE / 3 - MINUTE)
    assert realm.keys["active"].id == old
    realm.move(MINUTE)
    assert (realm.keys["active"].id, realm.keys["old"].id) == (prepared, old)
    last_of_old = realm.world.clock.now()
    realm.move(5 * MINUTE + timedelta(seconds=59))
    assert "old" in realm.keys  # its last token has just expired
    realm.move(timedelta(seconds=1))
    assert set(realm.keys) == {"active"}
    assert realm.world.clock.now() == last_of_old + 6 * MINUTE
    with pytest.raises(TokenError):
        realm.verify(first)


def test_a_key_signs_only_after_every_follower_was_given_it() -> None:
    realm = Realm()
    realm.token()
    realm.followers.given[FOLLOWER] = realm.authority.jwt_keys.trust.generation
    wanted = realm.authority.jwt_keys.rotate("us")
    assert realm.keys["prepared"].id == wanted
    (prepared,) = [found for found in realm.authority.jwt_keys.progress() if found.record.id == wanted]
    assert prepared.waiting_for == (FOLLOWER,)
    realm.move(DAY)
    assert realm.keys["prepared"].id == wanted
    realm.followers.given[FOLLOWER] = realm.keys["prepared"].generation
    realm.move(timedelta(0))
    assert realm.keys["active"].id == wanted


def test_whoever_fetches_the_bundle_now_and_then_has_the_time_to() -> None:
    realm = Realm()
    realm.token()
    wanted = realm.authority.jwt_keys.rotate("us")
    realm.move(REFRESHED - timedelta(seconds=1))
    assert realm.keys["prepared"].id == wanted
    realm.move(timedelta(seconds=1))
    assert realm.keys["active"].id == wanted


def test_after_the_deadline_it_goes_on_and_names_who_was_left_behind() -> None:
    realm = Realm(Settings(ack_deadline=timedelta(hours=1)))
    realm.token()
    realm.followers.given[FOLLOWER] = 0
    wanted = realm.authority.jwt_keys.rotate("us")
    realm.move(REFRESHED + timedelta(minutes=59))
    assert realm.keys["prepared"].id == wanted
    realm.move(MINUTE)
    assert realm.keys["active"].id == wanted
    (entry,) = [e for e in realm.world.ledger.audit if e.subject == wanted and "activated" in e.reason]
    assert str(FOLLOWER) in entry.reason


def test_a_second_command_hastens_what_is_prepared() -> None:
    realm = Realm()
    realm.token()
    realm.move(KEY_LIFE / 2)
    prepared = realm.keys["prepared"].id
    realm.world.clock.move(REFRESHED)
    assert realm.authority.jwt_keys.rotate("us") == prepared
    assert realm.keys["active"].id == prepared


def test_a_tainted_key_signs_nothing_more_and_goes_with_its_successor() -> None:
    realm = Realm()
    stolen = realm.token()
    tainted = realm.keys["active"].id
    realm.followers.given[FOLLOWER] = 0
    realm.authority.jwt_keys.taint(tainted, "us")
    assert set(realm.keys) == {"active", "prepared"}
    with pytest.raises(NoSigningKeyError):  # who follows the bundle is waited for, a minute at most
        realm.token()
    realm.followers.given[FOLLOWER] = realm.keys["prepared"].generation
    realm.move(timedelta(0))
    assert set(realm.keys) == {"active"}
    assert realm.keys["active"].id != tainted
    with pytest.raises(TokenError):
        realm.verify(stolen)
    assert realm.verify(realm.token()).spiffe_id == WEB
    with pytest.raises(NotFoundError):
        realm.authority.jwt_keys.taint(tainted, "us")


def test_a_tainted_key_goes_after_a_minute_whoever_is_behind() -> None:
    realm = Realm()
    realm.token()
    tainted = realm.keys["active"].id
    realm.followers.given[FOLLOWER] = 0
    realm.authority.jwt_keys.taint(tainted, "us")
    with pytest.raises(ConflictError):
        realm.authority.jwt_keys.taint(tainted, "us")
    realm.move(MINUTE)
    assert tainted not in {record.id for record in realm.authority.jwt_keys.trust.keys}
    assert realm.token()


def test_a_prepared_key_that_is_tainted_is_given_up() -> None:
    realm = Realm()
    realm.token()
    active, wanted = realm.keys["active"].id, realm.authority.jwt_keys.rotate("us")
    realm.authority.jwt_keys.taint(wanted, "us")
    assert realm.keys["active"].id == active
    assert wanted not in {record.id for record in realm.authority.jwt_keys.trust.keys}


def test_after_everything_has_expired_the_next_token_makes_a_key() -> None:
    realm = Realm()
    realm.token()
    realm.world.clock.move(3 * KEY_LIFE)
    assert realm.verify(realm.token()).spiffe_id == WEB
    assert set(realm.keys) == {"active"}


def test_a_key_that_cannot_be_made_is_a_problem_until_it_can() -> None:
    realm = Realm()
    realm.token()
    create = realm.world.keys.create
    realm.world.keys.create = _failing  # type: ignore[method-assign, assignment]
    realm.move(KEY_LIFE / 2)
    assert [problem.what for problem in realm.authority.problems] == ["rotation of the JWT signing key"]
    assert realm.token()  # the old one signs on
    realm.world.keys.create = create  # type: ignore[method-assign]
    realm.move(timedelta(0))
    assert "prepared" not in realm.keys  # not so soon
    realm.move(MINUTE)
    assert not realm.authority.problems
    assert "prepared" in realm.keys


def _failing(*_: object) -> FakeSigner:
    raise UNREACHABLE


def test_nothing_is_prepared_while_frozen() -> None:
    realm = Realm()
    realm.token()
    realm.authority.freezing.freeze("", "us")
    realm.move(KEY_LIFE / 2)
    assert set(realm.keys) == {"active"}
    assert not realm.authority.problems


def test_another_replica_takes_over_what_is_in_office() -> None:
    realm = Realm()
    realm.token()
    other = realm.another()
    wanted = realm.authority.jwt_keys.rotate("us")
    realm.move(REFRESHED)
    assert realm.keys["active"].id == wanted
    token = realm.token(authority=other)  # it still thinks that the old one signs, until the ledger says no
    assert realm.verify(token).spiffe_id == WEB
    assert other.jwt_keys.trust == realm.authority.jwt_keys.trust


def test_of_two_replicas_that_make_the_first_key_one_does() -> None:
    realm = Realm()
    other, create = realm.another(), realm.world.keys.create

    def slowly(role: Role, trust_domain: TrustDomain, generation: int) -> FakeSigner:
        realm.world.keys.create = create  # type: ignore[method-assign]
        realm.token(authority=other)  # the other is faster
        return create(role, trust_domain, generation)

    realm.world.keys.create = slowly  # type: ignore[method-assign]
    assert realm.verify(realm.token()).spiffe_id == WEB
    assert [record.state for record in realm.world.ledger.jwt_keys()] == ["active"]


def test_each_change_is_told_with_its_generation() -> None:
    realm = Realm()
    realm.token()
    generations = [event.trust.generation for event in realm.events]
    assert generations == sorted(set(generations))
    assert realm.events[-1].trust == realm.authority.jwt_keys.trust
    told = len(realm.events)
    realm.move(MINUTE)
    assert len(realm.events) == told


def test_the_bundle_holds_public_keys_and_nothing_else() -> None:
    realm = Realm()
    realm.token()
    (key,) = json.loads(realm.authority.jwt_keys.trust.bundle)["keys"]
    assert key.keys() == {"use", "kid", "kty", "crv", "x", "y"}
    assert (key["use"], key["kid"]) == ("jwt-svid", realm.keys["active"].id)
