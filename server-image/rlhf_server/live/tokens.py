"""Feedback tokens: proof that a pod of the rollout gave an answer, made and checked here. Who asks for one is not here.

A token is `v1.<claims>.<signature>`, both base64url without padding: claims are the JSON list
[request id, revision, expiry in seconds since the epoch, slices], the signature is HMAC-SHA256 over `v1.<claims>`.
Nothing in it is secret; whoever holds it can give feedback about that answer.
"""

import base64
import binascii
import hashlib
import hmac
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .refusals import TokenExpired, TokenForged, TokenMalformed

MAX_TOKEN_CHARACTERS = 2048
MIN_KEY_BYTES = 32
_VERSION = "v1"
_MAX_REQUEST_ID = 256
_MAX_REVISION = 64
_MAX_SLICE = 128
_REREAD_SECONDS = 1.0


@dataclass(frozen=True)
class Claims:
    """What a token says: which answer it is about."""

    request_id: str
    revision: str
    expires_at: int
    """Seconds since the epoch; valid before it."""
    slices: Mapping[str, str] = field(default_factory=dict)
    """Slice label values of the answered request: feedback is counted with the same."""


def make_token(keys: Sequence[bytes], claims: Claims) -> str:
    """Sign the claims with the first key."""
    listed = [claims.request_id, claims.revision, claims.expires_at, dict(claims.slices)]
    body = json.dumps(listed, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    signed = f"{_VERSION}.{_encode(body)}"
    return f"{signed}.{_encode(_signature(keys[0], signed))}"


def check_token(keys: Sequence[bytes], token: str, now: float) -> Claims:
    """The claims of a token that one of the keys signed. Raises TokenMalformed, TokenForged, TokenExpired."""
    parts = token.split(".") if len(token) <= MAX_TOKEN_CHARACTERS and token.isascii() else []
    if len(parts) != 3 or parts[0] != _VERSION:
        raise TokenMalformed("this is no feedback token: send the answer's header x-rlhf-feedback-token as it came")
    given, signed = _decode(parts[2]), f"{_VERSION}.{parts[1]}"
    # All keys, always: how long it takes tells neither which one fits nor how many there are.
    fitting = [hmac.compare_digest(_signature(key, signed), given) for key in keys]
    if not any(fitting):
        raise TokenForged("no key of this rollout signed this feedback token: another rollout did, or a former key")
    claims = _claims(_decode(parts[1]))
    if now >= claims.expires_at:
        raise TokenExpired("this feedback token has expired: feedback about this answer is no longer taken")
    return claims


def load_keys(path: Path) -> list[bytes]:
    """The keys in a file, one to the line; the first one signs, all are accepted. Raises OSError, ValueError."""
    keys = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
    if not keys:
        raise ValueError(f"{path} holds no key: put one of at least {MIN_KEY_BYTES} random characters on a line")
    if short := [number for number, key in enumerate(keys, 1) if len(key) < MIN_KEY_BYTES]:
        raise ValueError(f"key {short[0]} of {path} is shorter than {MIN_KEY_BYTES} bytes: anyone could guess it")
    return keys


class KeyFile:
    """Keys that may be rotated while we run: the file is looked at again when it has changed."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises OSError, ValueError: without a key nothing can be signed."""
        self._path = path
        self._stamp = self._stamp_now()
        self._keys = load_keys(path)
        self._next_look = time.monotonic() + _REREAD_SECONDS

    def keys(self) -> list[bytes]:
        """The newest readable keys; a file that is being replaced or broken leaves the former ones in force."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _REREAD_SECONDS
            try:
                if (stamp := self._stamp_now()) != self._stamp:
                    self._keys, self._stamp = load_keys(self._path), stamp
            except (OSError, ValueError):
                return self._keys
        return self._keys

    def _stamp_now(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size


def _signature(key: bytes, signed: str) -> bytes:
    return hmac.new(key, signed.encode(), hashlib.sha256).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TokenMalformed("this feedback token is cut off or altered: send it as it came") from None
    if _encode(raw) != text:
        # The unused bits of the last character: two texts must not be one token.
        raise TokenMalformed("this feedback token is cut off or altered: send it as it came")
    return raw


def _claims(body: bytes) -> Claims:
    """Claims that we signed ourselves; checked all the same, because another release may have signed them."""
    try:
        listed = json.loads(body)
    except ValueError:
        listed = None
    match listed:
        case [str() as request_id, str() as revision, int() as expires_at, dict() as slices] if (
            0 < len(request_id) <= _MAX_REQUEST_ID
            and 0 < len(revision) <= _MAX_REVISION
            and not isinstance(expires_at, bool)
            and math.isfinite(expires_at)
            and all(isinstance(value, str) and len(value) <= _MAX_SLICE for value in slices.values())
        ):
            return Claims(request_id, revision, expires_at, slices)
    raise TokenMalformed("this feedback token says nothing that this server understands: it is of another release")
