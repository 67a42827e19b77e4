"""The Prometheus of an analysis with its credentials, as read from a Secret. None of it reaches a status or a log."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.measurements import BasicAuth, Problem, ProblemReason, PrometheusTarget, Round
from rlhf_operator.common.reader import Reader, ReadFailed
from rlhf_operator.common.resources import SECRETS

from .rounds import Ask

TOKEN, USERNAME, PASSWORD, CA = "token", "username", "password", "ca.crt"


async def target_of(ask: Ask, namespace: str, reader: Reader) -> PrometheusTarget | Round:
    """Return whom to ask; or, where that can't be said, a round in which every query has the same problem."""
    if not ask.url:
        words = "no Prometheus is known: set analysis.prometheus.url, or the operator's prometheusURL"
        return _all(ask, ProblemReason.NOT_ALLOWED, words)
    if not ask.secret:
        return PrometheusTarget(ask.url)
    try:
        found = await reader.fetch(SECRETS, namespace, ask.secret)
    except ReadFailed as error:
        return _all(ask, ProblemReason.UNAUTHORIZED, f"Secret {ask.secret} can't be read: {error}")
    if found is None:
        words = f"there is no Secret {ask.secret} (analysis.prometheus.secretRef): create it"
        return _all(ask, ProblemReason.UNAUTHORIZED, words)
    try:
        return _target(ask.url, _decoded(found))
    except ValueError as error:
        return _all(ask, ProblemReason.UNAUTHORIZED, f"Secret {ask.secret}: {error}")


def _target(url: str, values: Mapping[str, str]) -> PrometheusTarget:
    """Raises ValueError, without a value in it."""
    ca, token = values.get(CA), values.get(TOKEN)
    if token is not None:
        return PrometheusTarget(url, ca=ca, bearer=token.strip())
    if USERNAME in values and PASSWORD in values:
        return PrometheusTarget(url, ca=ca, basic=BasicAuth(values[USERNAME].strip(), values[PASSWORD].strip("\r\n")))
    if ca is None:
        raise ValueError(f"it needs {TOKEN}, or {USERNAME} and {PASSWORD}")
    return PrometheusTarget(url, ca=ca)


def _decoded(secret: Manifest) -> dict[str, str]:
    """Raises ValueError for what is not text."""
    found = {}
    for name, value in (secret.get("data") or {}).items():
        if name in (TOKEN, USERNAME, PASSWORD, CA):
            try:
                found[name] = base64.b64decode(value, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise ValueError(f"{name} is not text") from None
    return found


def _all(ask: Ask, reason: ProblemReason, words: str) -> Round:
    return Round(at=None, samples={name: Problem(reason, words) for name in ask.queries})
