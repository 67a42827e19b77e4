"""Users of a rollout's route in a test's namespace: demo.users, who give every answer its full length."""

from __future__ import annotations

from demo import users
from demo.users import Seen, Users, failures, shares
from e2e.harness import Space

__all__ = ["Seen", "Users", "failures", "gateway_address", "shares", "start_users"]


def gateway_address(space: Space) -> tuple[str, int]:
    """Where the public Gateway listens, inside the cluster."""
    return users.gateway_address(space.cluster)


def start_users(
    space: Space,
    name: str,
    host: str,
    model: str,
    prompts: list[str],
    *,
    rate: float = 2.0,
    tokens: int = 16,
    stream: bool = False,
    headers: dict[str, str] | None = None,
    address: tuple[str, int] | None = None,
) -> Users:
    """Start a pod that asks the route of `host`, so many times a second; returns when the first answer is there."""
    body = {"model": model, "max_tokens": tokens, "ignore_eos": True, "stream": stream}
    where = address or gateway_address(space)
    image = space.site.operator_image
    return users.start(space.cluster, image, name, where, host, body, prompts, rate=rate, headers=headers)
