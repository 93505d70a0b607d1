"""Keys in an HSM, through PKCS #11: they sign there and never leave.

Rules kept here:
- Login, sessions and PKCS #11 itself belong to the process, so there is one `Module` for each library, and one thread
  at a time is in it (python-pkcs11 initialises it without locks). Who waits too long gets an error, since a call into
  an HSM that hangs cannot be ended.
- After any failure the session is given up; the next call loads, finds the token, logs in and finds the key anew. A
  call that meets a lost session does so at once, and only once; a wrong PIN is never tried twice, since HSMs lock.
- The PIN is read when it is needed and is in no error, repr or URI.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from meshca.authority.ports import KeyUnavailableError
from meshca.errors import InvalidInputError
from meshca.keys.pkcs11_errors import Pkcs11MissingError, Pkcs11RefusedError, explained
from meshca.keys.place import KeyType, Pkcs11Place
from meshca.keys.proof import WrongKeyError, digest_of, key_type_of
from meshca.x509.publickey import ca_id

PIN_VARIABLE, MODULE_VARIABLE = "MESHCA_PKCS11_PIN", "MESHCA_PKCS11_MODULE"
_PATIENCE = 10.0
_CURVES: dict[KeyType, str] = {"ec-p256": "secp256r1", "ec-p384": "secp384r1"}
_LONGEST_PIN = 256

T = TypeVar("T")


class Pkcs11ConfigError(InvalidInputError):
    """PKCS #11 is not set up."""


@dataclass(slots=True)
class Module:
    """A loaded PKCS #11 library, with one session for each token."""

    path: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    sessions: dict[str, Any] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)  # private keys by URI, as long as the sessions live
    refused: dict[str, str] = field(default_factory=dict, repr=False)  # the PINs that a token did not take

    @contextmanager
    def mine(self, where: str) -> Iterator[None]:
        """Have the library for this thread alone."""
        if not self.lock.acquire(timeout=_PATIENCE):
            message = f"the HSM has not answered another call for {_PATIENCE:g} s"
            raise KeyUnavailableError(message, field=where, remedy="check the HSM; if it stays, restart the server")
        try:
            yield
        finally:
            self.lock.release()


_MODULES: dict[str, Module] = {}
_ONE_MODULE = threading.Lock()


@dataclass(frozen=True, slots=True)
class Pkcs11Key:
    """A key's place, with what opens it."""

    place: Pkcs11Place
    module: Module
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def at(cls, place: Pkcs11Place, environ: Mapping[str, str]) -> Pkcs11Key:
        """Return the key at ``place``; nothing is loaded yet.

        Raises:
            Pkcs11ConfigError: python-pkcs11 is not installed, or no library is named.
        """
        library()
        path = place.module or environ.get(MODULE_VARIABLE, "")
        if not path:
            remedy = f"add ?module-path=/…/lib….so, or set {MODULE_VARIABLE}"
            raise Pkcs11ConfigError("names no PKCS #11 library", field=str(place), remedy=remedy)
        with _ONE_MODULE:
            return cls(place, _MODULES.setdefault(path, Module(path)), environ)

    def use(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` with a session that is logged in.

        Raises:
            KeyUnavailableError: The HSM does not answer, or refuses.
        """
        where, name = str(self.place), str(sorted(self.place.token.items()))
        with self.module.mine(where):
            kept = name in self.module.sessions
            try:
                return self._tried(work, name)
            except (Pkcs11MissingError, Pkcs11RefusedError):
                raise
            except KeyUnavailableError:
                if not kept:
                    raise
                return self._tried(work, name)  # the session was lost meanwhile

    def _tried(self, work: Callable[[Any], T], name: str) -> T:
        sessions = self.module.sessions
        try:
            if name in sessions:
                _probe(sessions[name])
            else:
                sessions[name] = self._session(name)
            return work(sessions[name])
        except library().PKCS11Error as error:
            self._give_up()
            raise explained(error, str(self.place)) from None

    def _give_up(self) -> None:
        """Drop every session of the library; what it knows of slots is asked for anew."""
        self.module.sessions.clear()
        self.module.objects.clear()
        with suppress(library().PKCS11Error):
            library().lib(self.module.path).finalize()

    def _session(self, name: str) -> Any:
        pkcs11, pin = library(), self._pin()
        if self.module.refused.get(name) == pin:
            raise pkcs11.PinIncorrect
        tokens = [token for token in pkcs11.lib(self.module.path).get_tokens() if self._is_ours(token)]
        if len(tokens) != 1:
            raise pkcs11.MultipleTokensReturned if tokens else pkcs11.NoSuchToken
        try:
            return tokens[0].open(rw=True, user_pin=pin)
        except pkcs11.UserAlreadyLoggedIn:
            return tokens[0].open(rw=True)
        except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
            self.module.refused[name] = pin
            raise

    def _is_ours(self, token: Any) -> bool:
        serial = token.serial.decode("ascii", "replace") if isinstance(token.serial, bytes) else str(token.serial)
        shown = {
            "token": token.label,
            "serial": serial.strip(),
            "manufacturer": token.manufacturer_id,
            "model": token.model,
            "slot-id": str(token.slot.slot_id),
        }
        return all(shown[name] == wanted for name, wanted in self.place.token.items())

    def _pin(self) -> str:
        if not self.place.pin_source:
            if pin := self.environ.get(PIN_VARIABLE, ""):
                return pin
            remedy = f"add pin-source=FILE to its URI, or set {PIN_VARIABLE}"
            raise Pkcs11RefusedError("no PIN for this token", field=str(self.place), remedy=remedy)
        try:
            with Path(self.place.pin_source).open("rb") as file:
                pin = file.read(_LONGEST_PIN).decode().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise Pkcs11RefusedError(
                f"the PIN file cannot be read: {why}", field=self.place.pin_source, remedy="check path, owner and mode"
            ) from None
        if not pin:
            raise Pkcs11RefusedError(
                "the PIN file is empty", field=self.place.pin_source, remedy="write the PIN into it"
            )
        return pin


class Pkcs11Signer:
    """Signs with a key of an HSM. Any thread may call it."""

    __slots__ = ("_key", "_place", "_spki")

    def __init__(self, key: Pkcs11Key, spki: bytes) -> None:
        self._key, self._place, self._spki = key, key.place, spki
        key_type_of(spki, str(key.place))

    @property
    def key_id(self) -> str:
        """The id of the CA that the key belongs to."""
        return ca_id(self._spki)

    @property
    def key_ref(self) -> str:
        """The key's URI."""
        return str(self._place)

    @property
    def spki(self) -> bytes:
        """The public key."""
        return self._spki

    def sign(self, data: bytes) -> bytes:
        """Return a DER ECDSA signature over ``data``.

        Raises:
            KeyUnavailableError: The HSM does not sign; the message says why.
        """
        digest = digest_of(data, self._spki)

        def signature(session: Any) -> bytes:
            known = self._key.module.objects
            key = known.get(self.key_ref) or _find(session, self._place, library().ObjectClass.PRIVATE_KEY)
            known[self.key_ref] = key
            raw: bytes = key.sign(digest, mechanism=library().Mechanism.ECDSA)
            return raw

        raw = self._key.use(signature)
        half = len(raw) // 2  # PKCS #11 §6.3.1: r and s, of equal length
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def __repr__(self) -> str:
        return f"Pkcs11Signer({self._place})"


def create_pkcs11_key(key: Pkcs11Key, kind: KeyType | None) -> Pkcs11Signer:
    """Return the signer of a key, which is made where it is missing.

    Raises:
        KeyUnavailableError: The HSM does not answer, or does not let us make one.
        WrongKeyError: There is a key, but of another type.
    """

    def public_key(session: Any) -> bytes:
        try:
            _find(session, key.place, library().ObjectClass.PRIVATE_KEY)
        except library().NoSuchKey:
            _make(session, key.place, kind or "ec-p256")
        return _spki(session, key.place)

    spki = key.use(public_key)
    if kind is not None and key_type_of(spki, str(key.place)) != kind:
        raise WrongKeyError(f"the key that exists is no {kind}", field=str(key.place), remedy="name another object")
    return Pkcs11Signer(key, spki)


def _probe(session: Any) -> None:
    """Raise if the session is lost. A search that meets this instead fails once more when python-pkcs11 ends it."""
    pkcs11 = library()
    with suppress(pkcs11.RandomNoRNG, pkcs11.FunctionNotSupported):  # the answer is what counts
        session.generate_random(8)


def _make(session: Any, place: Pkcs11Place, kind: KeyType) -> None:
    pkcs11 = library()
    if not place.label:
        raise Pkcs11MissingError("there is no such key", field=str(place), remedy="add object=LABEL to have it made")
    curve = {pkcs11.Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters(_CURVES[kind])}
    parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
    attribute = pkcs11.Attribute
    parameters.generate_keypair(
        label=place.label,
        id=place.object_id or None,
        store=True,
        capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
        private_template={attribute.SENSITIVE: True, attribute.EXTRACTABLE: False, attribute.PRIVATE: True},
    )


def _find(session: Any, place: Pkcs11Place, kind: Any) -> Any:
    attribute = library().Attribute
    wanted: dict[Any, Any] = {attribute.CLASS: kind}
    wanted |= {attribute.LABEL: place.label} if place.label else {}
    wanted |= {attribute.ID: place.object_id} if place.object_id else {}
    found = list(session.get_objects(wanted))
    if len(found) != 1:
        raise library().MultipleObjectsReturned if found else library().NoSuchKey
    return found[0]


def _spki(session: Any, place: Pkcs11Place) -> bytes:
    public = _find(session, place, library().ObjectClass.PUBLIC_KEY)
    try:
        spki: bytes = library().util.ec.encode_ec_public_key(public)
    except (ValueError, TypeError, LookupError, library().AttributeTypeInvalid):
        raise WrongKeyError("not an EC key", field=str(place), remedy="name another object") from None
    return spki


def library() -> ModuleType:
    """Return python-pkcs11, which is an extra.

    Raises:
        Pkcs11ConfigError: It is not installed.
    """
    try:
        import pkcs11
        import pkcs11.util.ec
    except ImportError as error:
        raise Pkcs11ConfigError("keys in an HSM need python-pkcs11", remedy="pip install 'meshca[pkcs11]'") from error
    module: ModuleType = pkcs11
    return module
