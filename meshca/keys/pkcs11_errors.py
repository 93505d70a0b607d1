"""What the return values of PKCS #11 mean to an operator."""

from __future__ import annotations

from meshca.authority.ports import KeyUnavailableError


class Pkcs11MissingError(KeyUnavailableError):
    """The HSM has no such token or key, or more than one."""


class Pkcs11RefusedError(KeyUnavailableError):
    """The HSM does not let us in, or not do this."""


_GONE = "the HSM does not answer"
_CHECK = "check the HSM and its connection"

# By the name of python-pkcs11's class, so that nothing is imported before an HSM is used.
_EXPLANATIONS: dict[str, tuple[type[KeyUnavailableError], str, str]] = {
    "NoSuchToken": (KeyUnavailableError, "the HSM shows no such token", "check that it is connected, and the URI"),
    "MultipleTokensReturned": (Pkcs11MissingError, "more than one token fits", "add serial=… to the URI"),
    "NoSuchKey": (
        Pkcs11MissingError,
        "the token has no such key",
        "restore it from the HSM's backup, or rotate the CA",
    ),
    "MultipleObjectsReturned": (Pkcs11MissingError, "more than one key fits", "add id=%… to the URI"),
    "PinIncorrect": (
        Pkcs11RefusedError,
        "the PIN is wrong; it is not tried again",
        "correct the PIN file, or the variable",
    ),
    "PinInvalid": (Pkcs11RefusedError, "the token does not take this PIN", "correct the PIN file, or the variable"),
    "PinLenRange": (Pkcs11RefusedError, "the token does not take this PIN", "correct the PIN file, or the variable"),
    "PinLocked": (Pkcs11RefusedError, "the PIN is locked after too many failures", "unlock it as the security officer"),
    "PinExpired": (Pkcs11RefusedError, "the PIN has expired", "set a new one"),
    "UserPinNotInitialized": (Pkcs11RefusedError, "the token has no user PIN yet", "initialise it"),
    "TokenWriteProtected": (
        Pkcs11RefusedError,
        "there is no such key, and the token is write-protected",
        "make a key pair of curve P-256 or P-384 with the HSM's own tools, under this label",
    ),
    "AttributeValueInvalid": (
        Pkcs11RefusedError,
        "the HSM does not make such a key",
        "make a key pair of curve P-256 or P-384 with the HSM's own tools, under this label",
    ),
    "MechanismInvalid": (Pkcs11RefusedError, "the HSM has no ECDSA for this key", "use another token"),
    "FunctionNotSupported": (Pkcs11RefusedError, "the HSM does not support this", "use another token"),
}


def explained(error: Exception, where: str) -> KeyUnavailableError:
    """Return the error to raise instead; what PKCS #11 itself says is one short name."""
    name = type(error).__name__
    if name in _EXPLANATIONS:
        kind, message, remedy = _EXPLANATIONS[name]
        return kind(message, field=where, remedy=remedy)
    if name == "PKCS11Error" and "loading" in str(error):
        return Pkcs11MissingError("the PKCS #11 library cannot be loaded", field=where, remedy="check module-path")
    return KeyUnavailableError(f"{_GONE} ({name})", field=where, remedy=_CHECK)
