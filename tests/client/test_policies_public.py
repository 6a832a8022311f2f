"""`Policy.public()`: any public host, and never an address that is not public, whatever DNS says."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.client.policies import Policy, Rule, Secret
from fazt.core import profiles
from fazt.core.addresses import Address
from fazt.core.call import Request, Target
from fazt.core.gates import judge_rule, still_granted
from fazt.core.public import PUBLIC_RULE
from fazt.core.url import parse_url
from fazt.engine.sync import Engine
from fazt.errors import ConfigError, FaztError, Reason
from fazt.net.sync import SyncWire
from fazt.net.sync_resolve import SyncResolver
from tests.core.test_addresses_table import A5, BLOCKS, NAMED, expected
from tests.fakes.calls import Ledger

REFUSED = [block for block, reachable in BLOCKS if not reachable] + NAMED + A5
PUBLIC_V4, PUBLIC_V6 = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


def decided(policy: Policy, url: str, method: str = "GET") -> str | Reason:
    """Return the id of the rule that allows a call, or why none does."""
    try:
        return judge_rule(policy.current, app="", url=parse_url(url), method=method).id
    except FaztError as refused:
        return refused.reason


def called(policy: Policy, url: str, answer: Sequence[str]) -> tuple[FaztError, Ledger]:
    """Make a call with a resolver that gives one answer; it must fail before anything is connected to."""
    ledger = Ledger()
    wire = SyncWire(resolver=SyncResolver(policy.resolve, ttl=0, lookup=lambda _host: tuple(answer)))
    engine = Engine(policies=policy, wire=wire, vault=policy.vault, sink=ledger)
    with pytest.raises(FaztError) as caught:
        engine.call(Request(url, door="client", timeout_ms=5000), profile=profiles.client(policy.limits))
    wire.close()
    return caught.value, ledger


@pytest.mark.parametrize("url", ["https://example.com/", "http://example.com/a?b", "https://a.b.c.example.org:443/"])
def test_any_host_is_granted_on_the_ports_of_the_web(url: str) -> None:
    assert decided(Policy.public(), url) == PUBLIC_RULE


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://example.com:8443/", Reason.PORT_NOT_GRANTED),
        ("http://example.com:22/", Reason.PORT_NOT_GRANTED),
        ("https://example.com:1/", Reason.PORT_NOT_GRANTED),
    ],
)
def test_C4_other_ports_are_refused_unless_they_are_named(url: str, reason: Reason) -> None:
    assert decided(Policy.public(), url) is reason
    port = parse_url(url).port
    assert decided(Policy.public(ports=[443, port]), url) == PUBLIC_RULE
    assert decided(Policy.public(ports=[443, port]), "http://example.com/") is Reason.PORT_NOT_GRANTED


def test_https_only_refuses_plain_http() -> None:
    policy = Policy.public(https_only=True)
    assert decided(policy, "http://example.com/") is Reason.SCHEME_NOT_ALLOWED
    assert decided(policy, "http://example.com:443/") is Reason.SCHEME_NOT_ALLOWED
    assert decided(policy, "https://example.com/") == PUBLIC_RULE


def test_methods_can_be_narrowed() -> None:
    policy = Policy.public(methods=["get", "HEAD"])
    assert decided(policy, "https://example.com/", "GET") == PUBLIC_RULE
    assert decided(policy, "https://example.com/", "POST") is Reason.METHOD_NOT_GRANTED


def test_a_deny_wins() -> None:
    policy = Policy.public(deny=["*.tracker.example", Rule("api.example.com", paths=["/private"])])
    assert decided(policy, "https://a.tracker.example/") is Reason.DENIED_BY_RULE
    assert decided(policy, "http://a.tracker.example/") is Reason.DENIED_BY_RULE
    assert decided(policy, "https://tracker.example/") == PUBLIC_RULE
    assert decided(policy, "https://api.example.com/private/x") is Reason.DENIED_BY_RULE
    assert decided(policy, "https://api.example.com/open") == PUBLIC_RULE


def test_a_rule_for_a_host_stands_in_place_of_the_grant_for_all() -> None:
    policy = Policy.public(allow=[Rule("api.example.com", methods=["GET"], paths=["/v1"])])
    assert str(decided(policy, "https://api.example.com/v1")).startswith("r_")
    assert decided(policy, "https://api.example.com/v2") is Reason.PATH_NOT_GRANTED
    assert decided(policy, "https://api.example.com/v1", "POST") is Reason.METHOD_NOT_GRANTED
    assert decided(policy, "http://api.example.com/v1") is Reason.SCHEME_NOT_ALLOWED


def test_a_policy_without_the_grant_refuses_hosts_without_a_rule() -> None:
    assert decided(Policy(allow=["api.example.com"]), "https://other.example.com/") is Reason.HOST_NOT_GRANTED
    assert decided(Policy(), "https://example.com/") is Reason.HOST_NOT_GRANTED


def test_an_app_is_not_known_to_it() -> None:
    with pytest.raises(FaztError) as caught:
        judge_rule(Policy.public().current, app="shop", url=parse_url("https://example.com/"), method="GET")
    assert caught.value.reason is Reason.HOST_NOT_GRANTED


def test_the_rules_settings_are_those_of_the_grant() -> None:
    policy = Policy.public(rate="2/second", burst=7, max_bytes=1000, timeout=1.5, cache_ttl=60)
    rule = judge_rule(policy.current, app="", url=parse_url("http://example.com/"), method="GET")
    assert (rule.rate, rule.burst, rule.max_response, rule.timeout_ms, rule.cache_ttl) == (120, 7, 1000, 1500, 60)
    assert rule.addresses == ()


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"port": 8443}, False),
        ({"scheme": "http", "port": 80}, True),
        ({"grant": ("10.0.0.0/8",)}, False),
        ({"app": "shop"}, False),
        ({"host": "a.denied.example"}, False),
        ({"host": "api.example.com"}, True),
        ({"host": "api.example.com", "port": 80, "scheme": "http"}, False),
    ],
)
def test_a_connection_is_kept_while_something_may_still_use_it(change: dict[str, Any], kept: bool) -> None:
    policy = Policy.public(deny=["*.denied.example"], allow=["api.example.com"])
    target = Target("https", "example.com", 443, "", "system")._replace(**change)
    assert still_granted(policy.current, target) is kept


def test_each_host_has_a_rate_of_its_own() -> None:
    policy = Policy.public(rate=1, resolve={"a.example.com": ["10.0.0.1"], "b.example.com": ["10.0.0.1"]})
    ledger = Ledger()
    wire = SyncWire(resolver=SyncResolver({"a.example.com": ("127.0.0.1",), "b.example.com": ("127.0.0.1",)}))
    engine = Engine(policies=policy, wire=wire, vault=policy.vault, sink=ledger)
    # a refused address gives the token back, so it is taken here
    engine.buckets.take(("", "public a.example.com"), rate_per_min=1, burst=1, now=engine.clock())
    reasons = []
    for host in ("a", "b", "a"):
        with pytest.raises(FaztError) as caught:
            engine.call(Request(f"http://{host}.example.com/", door="client"), profile=profiles.client(policy.limits))
        reasons.append(caught.value.reason)
    assert reasons == [Reason.HOST_RATE, Reason.PRIVATE_ADDRESS, Reason.HOST_RATE]
    assert [row.rule_id for row in ledger.rows] == [PUBLIC_RULE] * 3
    wire.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"ports": []},
        {"ports": [0]},
        {"ports": [65536]},
        {"ports": [True]},
        {"ports": ["443"]},
        {"ports": 443},
        {"rate": -1},
        {"rate": "sometimes"},
        {"rate": 1.5},
        {"burst": 3},
        {"rate": 3, "burst": -1},
        {"max_bytes": -1},
        {"max_bytes": 1.5},
        {"max_bytes": True},
        {"https_only": 1},
        {"methods": "GET"},
        {"methods": ["CONNECT"]},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": "5"},
        {"cache_ttl": -1},
        {"allow": "x.com"},
        {"deny": [3]},
        {"deny": [Rule("x.com", rate=3)]},
    ],
)
def test_what_cannot_be_used_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Policy.public(**arguments)


def test_nothing_takes_a_range_for_all_hosts() -> None:
    with pytest.raises(TypeError):
        Policy.public(addresses=["10.0.0.0/8"])  # type: ignore[call-arg]


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[str], Address]:
    """Draw an answer of DNS with at least one address that is not public, at any place, in any of its spellings."""
    block = draw(st.sampled_from(REFUSED))
    first, last = int(block.network_address), int(block.broadcast_address)
    number = draw(st.sampled_from([first, last]) | st.integers(first, last))
    bad: Address = ipaddress.IPv4Address(number) if block.version == 4 else ipaddress.IPv6Address(number)
    if isinstance(bad, ipaddress.IPv4Address):
        wrap = draw(st.sampled_from([None, "::ffff:0:0", "64:ff9b::"]))
        if wrap is not None:
            bad = ipaddress.IPv6Address(int(ipaddress.IPv6Address(wrap)) | number)
    others = draw(st.lists(st.sampled_from([PUBLIC_V4, PUBLIC_V6, "1.1.1.1"]), max_size=4))
    others.insert(draw(st.integers(0, len(others))), str(bad))
    return others, bad


@given(
    drawn=answers(), url=st.sampled_from(["https://example.com/", "http://example.com/", "https://example.com:80/x"])
)
def test_no_refused_address_is_ever_connected_to(drawn: tuple[list[str], Address], url: str) -> None:
    answer, bad = drawn
    if expected(bad)[0]:  # the one block of the registry whose addresses are judged by what is embedded in them
        assert ipaddress.IPv6Address(int(bad)).ipv4_mapped is not None or str(bad).startswith("64:ff9b::")
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", _no_socket)
        for policy in (
            Policy.public(),
            Policy.public(ports=[80, 443], https_only=url.startswith("https"), rate="100/second", burst=100),
            Policy.public(allow=[Rule("intranet.corp", addresses=["10.0.0.0/8", "127.0.0.0/8", "fc00::/7"])]),
            Policy.public(resolve={"example.com": answer}),
        ):
            refused, ledger = called(policy, url, answer)
            assert refused.reason is Reason.PRIVATE_ADDRESS
            assert [(row.rule_id, row.address) for row in ledger.rows] == [(PUBLIC_RULE, None)]


def test_a_secret_goes_to_its_own_hosts_also_where_all_are_granted() -> None:
    policy = Policy.public(secrets={"K": Secret("0123456789abcdef", ["api.example.com"])})
    snapshot = policy.current
    assert snapshot.secret("", "K", "api.example.com", "https").name == "K"
    with pytest.raises(FaztError) as caught:
        snapshot.secret("", "K", "other.example.com", "https")
    assert caught.value.reason is Reason.SECRET_WRONG_HOST


def test_explain_knows_it() -> None:
    policy = Policy.public(resolve={"good.example.com": [PUBLIC_V4], "bad.example.com": [PUBLIC_V4, "10.1.2.3"]})
    good = policy.explain("https://good.example.com/")
    assert good.allowed
    assert good.rule is not None
    assert good.rule.id == PUBLIC_RULE
    bad = policy.explain("https://bad.example.com/x")
    assert not bad
    assert bad.reason is Reason.PRIVATE_ADDRESS
    assert bad.fix == ('allow=[fazt.Rule("bad.example.com", addresses=["10.1.2.3/32"], methods=["GET"], paths=["/x"])]')
    assert "grant for public hosts" in str(bad)
    closed = policy.explain("https://good.example.com:8443/")
    assert closed.reason is Reason.PORT_NOT_GRANTED
    assert closed.fix == 'allow=[fazt.Rule("https://good.example.com:8443", methods=["GET"])]'
    metadata = Policy.public(resolve={"m.example.com": ["169.254.169.254"]}).explain("http://m.example.com/")
    assert metadata.reason is Reason.PRIVATE_ADDRESS
    assert metadata.fix is None  # no rule can grant it


def _no_socket(*_args: object, **_kwargs: object) -> Any:
    raise AssertionError("a socket was made")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1/", Reason.IP_LITERAL),
        ("http://169.254.169.254/latest/meta-data/", Reason.IP_LITERAL),
        ("http://2130706433/", Reason.IP_LITERAL),
        ("http://0x7f.1/", Reason.IP_LITERAL),
        ("http://localhost/", Reason.PRIVATE_ADDRESS),
        ("http://intranet.corp/", Reason.PRIVATE_ADDRESS),
        ("http://metadata.corp/", Reason.PRIVATE_ADDRESS),
    ],
)
def test_D12_loopback_metadata_and_private_addresses_are_refused(url: str, reason: Reason) -> None:
    policy = Policy.public(
        resolve={"intranet.corp": ["10.1.2.3"], "metadata.corp": ["169.254.169.254"], "localhost": ["127.0.0.1"]}
    )
    refused, ledger = called(policy, url, [])
    assert refused.reason is reason
    assert len(ledger.rows) == 1


@pytest.mark.parametrize("https_only", [False, True])
def test_D13_no_url_is_sent_to_another_port_or_scheme_than_it_says(https_only: bool) -> None:
    policy = Policy.public(ports=[80, 443, 8080], https_only=https_only)
    wanted = Reason.SCHEME_NOT_ALLOWED if https_only else PUBLIC_RULE
    assert decided(policy, "http://example.com:8080/") == wanted
    assert decided(policy, "http://example.com/") == wanted
    if not https_only:
        rule = judge_rule(policy.current, app="", url=parse_url("http://example.com:8080/"), method="GET")
        assert (rule.scheme, rule.port) == ("http", 8080)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://[::1]/", Reason.IP_LITERAL),  # D14
        ("https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:8443/", Reason.IP_LITERAL),  # D14
        ("https://example.com:99999/", Reason.BAD_URL),  # D15
        ("https://example.com:port/", Reason.BAD_URL),  # D15
        ("https://example.com\\@evil.example/", Reason.BAD_URL),  # D16
        ("https://exam\tple.com/", Reason.BAD_URL),  # D16
        ("https://user:pw@example.com/", Reason.USERINFO),  # D16
    ],
)
def test_D14_D15_D16_what_cannot_be_read_in_one_way_is_refused_by_a_coded_error(url: str, reason: Reason) -> None:
    refused, _ = called(Policy.public(), url, ["10.0.0.1"])
    assert refused.reason is reason
    found = Policy.public().explain(url)
    assert (found.allowed, found.reason) == (False, reason)


def test_D16_names_are_those_of_idna_2008() -> None:
    assert parse_url("https://faß.example/").host == "xn--fa-hia.example"
    policy = Policy.public(deny=["faß.example"])
    assert decided(policy, "https://xn--fa-hia.example/") is Reason.DENIED_BY_RULE
    assert decided(policy, "https://fass.example/") == PUBLIC_RULE


def test_D17_the_policy_object_decides_and_not_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("false", "true", "0"):
        monkeypatch.setenv("ENFORCE_HTTPS_URLS", value)
        assert decided(Policy.public(), "http://example.com/") == PUBLIC_RULE
        assert decided(Policy.public(https_only=True), "http://example.com/") is Reason.SCHEME_NOT_ALLOWED
