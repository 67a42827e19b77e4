"""The allow-list of addresses, and which IP addresses nobody may call."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.common.measurements import BasicAuth, PrometheusTarget
from rlhf_operator.errors import SettingsInvalid
from rlhf_operator.prometheus.addresses import AllowList, NotAllowed, Prefix, refused
from rlhf_operator.settings import load_settings


@pytest.mark.parametrize(
    ("listed", "asked", "request_url"),
    [
        ("http://prometheus.monitoring:9090", "http://prometheus.monitoring:9090", ":9090/api/v1/query"),
        ("http://prometheus.monitoring:9090/", "http://PROMETHEUS.monitoring:9090/", ":9090/api/v1/query"),
        ("http://prometheus.monitoring", "http://prometheus.monitoring:80/team-a", ":80/team-a/api/v1/query"),
        ("https://m.example/prom", "https://m.example:443/prom/team-a/", "/prom/team-a/api/v1/query"),
        ("http://[fd00::1]:9090", "http://[fd00::1]:9090", "[fd00::1]:9090/api/v1/query"),
    ],
)
def test_what_lies_at_or_below_a_listed_address_is_allowed(listed: str, asked: str, request_url: str) -> None:
    url = AllowList.of([listed]).query_url(asked)
    assert str(url).endswith(request_url.removeprefix(":80")), url


@pytest.mark.parametrize(
    "asked",
    [
        "https://prometheus.monitoring:9090/prom",
        "http://prometheus.monitoring:9091/prom",
        "http://prometheus.monitoring:90901/prom",
        "http://prometheus.monitoring/prom",
        "http://prometheus.monitoring.evil.example:9090/prom",
        "http://evil.prometheus.monitoring:9090/prom",
        "http://prometheus.monitoring:9090",
        "http://prometheus.monitoring:9090/",
        "http://prometheus.monitoring:9090/prometheus",
        "http://prometheus.monitoring:9090/other/prom",
        "http://prometheus.monitoring:9090/prom/../admin",
        "http://prometheus.monitoring:9090/prom/./x",
        "http://prometheus.monitoring:9090/prom/%2e%2e/admin",
        "http://prometheus.monitoring:9090/prom//x",
        "http://prometheus.monitoring:9090//prom",
        "http://prometheus.monitoring:9090/prom?x=1",
        "http://prometheus.monitoring:9090/prom#x",
        "http://prometheus.monitoring:9090\\@evil.example/prom",
        "http://prometheus.monitoring:9090@evil.example/prom",
        "http://user:hunter2@prometheus.monitoring:9090/prom",
        "http://prometheus.monitoring:9090 .evil.example/prom",
        "ftp://prometheus.monitoring:9090/prom",
        "prometheus.monitoring:9090/prom",
        "//prometheus.monitoring:9090/prom",
        "http:///prom",
        "http://",
        "",
        "http://[::1/prom",
        "http://a:b:c/prom",
        "http://" + "a" * 3000,
    ],
)
def test_everything_else_is_refused(asked: str) -> None:
    allowed = AllowList.of(["http://prometheus.monitoring:9090/prom"])
    with pytest.raises(NotAllowed) as raised:
        allowed.query_url(asked)
    assert "hunter2" not in str(raised.value), "no credentials in a message"


def test_an_empty_list_allows_nothing() -> None:
    with pytest.raises(NotAllowed):
        AllowList.of(["", ""]).query_url("http://localhost:9090")


@given(st.text(alphabet="htps:/@.?#[]%\\ab1", max_size=40))
def test_whatever_is_asked_goes_to_a_listed_host_or_nowhere(asked: str) -> None:
    allowed = AllowList((Prefix("http", "a", 80, ()), Prefix("https", "b", 443, ("p",))))
    try:
        url = allowed.query_url(asked)
    except NotAllowed:
        return
    assert (url.scheme, url.raw_host, url.port) in {("http", "a", 80), ("https", "b", 443)}
    assert url.raw_path.endswith("/api/v1/query")


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "::ffff:169.254.1.1",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",  # noqa: S104
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ],
)
def test_addresses_that_nobody_may_call(address: str) -> None:
    assert refused(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["10.96.0.10", "127.0.0.1", "::1", "192.168.1.1", "8.8.8.8", "fd00::1", "2606::1", "64:ff9b::a00:1"]
)
def test_addresses_of_servers(address: str) -> None:
    assert refused(ipaddress.ip_address(address)) is None


def test_the_setting_is_read_and_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_OPERATOR_ANALYSIS_ALLOWED_URLS", "http://a:9090, https://b/prom")
    monkeypatch.setenv("RLHF_OPERATOR_PROMETHEUS_URL", "http://own:9090")
    addresses = load_settings().analysis_addresses()
    for url in ("http://a:9090", "https://b/prom", "http://own:9090"):
        addresses.query_url(url)
    monkeypatch.setenv("RLHF_OPERATOR_ANALYSIS_ALLOWED_URLS", "http://a:9090,prometheus:9090")
    with pytest.raises(SettingsInvalid, match=r"RLHF_OPERATOR_ANALYSIS_ALLOWED_URLS.*http:// or https://"):
        load_settings()


@pytest.mark.parametrize(
    ("bearer", "basic", "words"),
    [
        ("token\n", None, "line break"),
        ("tok\ren", None, "line break"),
        ("tökén", None, "can't carry"),
        (None, BasicAuth("a:b", "secret"), "colon"),
        (None, BasicAuth("a", "secret\n"), "password contains control characters"),
        ("token", BasicAuth("a", "secret"), "not both"),
    ],
)
def test_credentials_that_no_header_carries_are_refused_without_being_shown(
    bearer: str | None, basic: BasicAuth | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        PrometheusTarget("http://a", bearer=bearer, basic=basic)
    for secret in ("tok", "tök", "secret"):
        assert secret not in str(raised.value).replace("token contains", "").replace("a token or", "")
