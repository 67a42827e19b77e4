"""Texts go to the cluster's Services and to listed hosts, and nowhere else."""

from __future__ import annotations

import pytest

from rlhf_operator.common.hosts import why_not_allowed

LISTED = ("api.example.com", "*.models.example.org")


@pytest.mark.parametrize(
    "url",
    [
        "http://judge/v1",
        "http://judge:8000",
        "http://judge.models.svc/v1",
        "http://judge.models.svc.cluster.local.:8000/v1",
        "https://api.example.com/v1",
        "https://API.Example.com:443/v1",
        "https://eu.models.example.org",
    ],
)
def test_services_and_listed_hosts_are_allowed(url: str) -> None:
    assert why_not_allowed(url, LISTED) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.com/v1",
        "https://api.example.com.evil.com",
        "https://notapi.example.com",
        "https://models.example.org",
        "https://evilmodels.example.org",
        "http://10.0.0.1",
        "http://[::1]:80",
        "http://judge.models",
        "http://judge.svc.evil.com",
    ],
)
def test_other_hosts_are_refused_by_name(url: str) -> None:
    words = why_not_allowed(url, LISTED)
    assert words is not None
    assert "allowedHosts" in words


@pytest.mark.parametrize(
    "url",
    ["http://judge.svc@evil.com", "http://evil.com\\@judge.svc", "http://judge.svc%2eevil.com", "http://judge svc/"],
)
def test_an_address_that_can_be_read_in_two_ways_is_none(url: str) -> None:
    assert "no plain address" in (why_not_allowed(url, LISTED) or "")


def test_without_a_list_only_the_cluster_is_allowed() -> None:
    assert why_not_allowed("https://api.example.com", ()) is not None
    assert why_not_allowed("http://judge.ns.svc", ()) is None
