"""Policies made in memory: what they take, what they refuse and in which words, and that they keep still."""

from __future__ import annotations

import copy
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
import trustme

from fazt.client.policies import Policy, Rule, Secret
from fazt.core.gates import judge_rule
from fazt.core.grants import expand_target
from fazt.core.policy import SecretMeta
from fazt.core.url import parse_url
from fazt.errors import ConfigError, FaztError, OperatorError, Reason

VALUE = "s3cr3t-0123456789"


def rule_of(policy: Policy, url: str, method: str = "GET") -> Any:
    return judge_rule(policy.current, app="", url=parse_url(url), method=method)


def refusal(policy: Policy, url: str, method: str = "GET") -> Reason:
    with pytest.raises(FaztError) as caught:
        rule_of(policy, url, method)
    return caught.value.reason


def test_a_policy_allows_what_it_names_and_nothing_else() -> None:
    policy = Policy(allow=["api.github.com", "*.example.com"], deny=["private.example.com"])
    assert rule_of(policy, "https://api.github.com/x").pattern == "api.github.com"
    assert rule_of(policy, "https://a.b.example.com/").pattern == "*.example.com"
    assert refusal(policy, "https://example.com/") is Reason.HOST_NOT_GRANTED
    assert refusal(policy, "http://api.github.com/") is Reason.SCHEME_NOT_ALLOWED
    assert refusal(policy, "https://api.github.com:8443/") is Reason.PORT_NOT_GRANTED
    assert refusal(policy, "https://private.example.com/") is Reason.DENIED_BY_RULE


def test_rules_are_those_of_the_command_line() -> None:
    rule = Rule(
        "https://intranet.corp:8443",
        addresses=["10.1.2.0/24"],
        methods=["get", "POST"],
        paths=["/v1", "/v2/"],
        rate=30,
        burst=3,
        timeout=2.5,
        max_response=1000,
        cache_ttl=60,
        inject="K",
        path_encoded_slash=True,
    )
    wanted = expand_target(
        "https://intranet.corp:8443",
        scope="",
        addresses=["10.1.2.0/24"],
        methods=["GET", "POST"],
        paths=["/v1", "/v2"],
        rate=30,
        burst=3,
        timeout_ms=2500,
        max_response=1000,
        cache_ttl=60,
        inject="K",
        path_encoded_slash=True,
    )
    assert rule.expand("allow") == wanted
    policy = Policy(allow=[rule], secrets={"K": Secret(VALUE, ["intranet.corp"])})
    assert {one.id for one in policy.current.rules.rules()} == {one.id for one in wanted}


def test_ports_and_http_multiply_as_at_the_command_line() -> None:
    policy = Policy(allow=[Rule("api.example.com", http=True, ports=[8080, 8081])])
    found = {(rule.scheme, rule.port) for rule in policy.current.rules.rules()}
    assert found == {("https", 8080), ("https", 8081), ("http", 8080), ("http", 8081)}


@pytest.mark.parametrize(
    ("rate", "burst", "expected"),
    [
        (0, None, (0, 0)),
        (60, None, (60, 60)),
        (60, 1, (60, 1)),
        ("10/second", None, (600, 10)),
        ("10/second", 2, (600, 2)),
        ("120/hour", None, (2, 120)),
        ("1/3second", None, (20, 1)),
        ("none", None, (0, 0)),
    ],
)
def test_rates(rate: int | str, burst: int | None, expected: tuple[int, int]) -> None:
    (rule,) = Rule("x.com", rate=rate, burst=burst).expand("allow")
    assert (rule.rate, rule.burst) == expected


@pytest.mark.parametrize(
    ("target", "settings", "message", "hint"),
    [
        ("*.com", {}, "anybody can register", "name the domain"),
        ("*", {}, "every host would be no rule", "*.DOMAIN"),
        ("a.*.com", {}, "a star stands only", "*.DOMAIN"),
        ("*.github.io", {}, "customers who don't know each other", "shared_suffix=True"),
        ("10.0.0.1", {}, "is an IP address", 'addresses=["CIDR"]'),
        ("https://[::1]", {}, "is an IP address", 'resolve={"NAME": ["ADDRESS"]}'),
        ("https://x.com/v1", {}, "has a path or query", 'paths=["/PREFIX"]'),
        ("ftp://x.com", {}, "https or http", "https://HOST"),
        ("user:pw@x.com", {}, "without user name and password", "secrets="),
        ("x y", {}, "is not a host name", "DOMAIN"),
        ("", {}, "is not a host name", "DOMAIN"),
        ("x.com:80", {}, "which scheme port 80", 'fazt.Rule("http://x.com:80")'),
        ("https://x.com", {"ports": [8443]}, "names its port already", 'fazt.Rule("x.com", ports=[N])'),
        ("https://x.com", {"http": True}, "stands for itself alone", "http://x.com"),
        ("x.com", {"ports": [0]}, "ports takes a number from 1 to 65535", None),
        ("x.com", {"methods": ["G T"]}, "is not an HTTP method", 'methods=["GET", "POST"]'),
        ("x.com", {"methods": ["TRACE"]}, "never sent", None),
        ("x.com", {"paths": ["v1"]}, "is not a path", "/v1"),
        ("x.com", {"paths": ["/v1/*"]}, "not a pattern", "/v1"),
        ("x.com", {"paths": ["/a%2fb"]}, "holds an encoded slash", "path_encoded_slash=True"),
        ("x.com", {"path_encoded_slash": True}, "path_encoded_slash=True has no effect", "add paths"),
        ("x.com", {"addresses": ["10.1.2.3/8"]}, "not the network itself", "10.0.0.0/8"),
        ("x.com", {"addresses": ["0.0.0.0/0"]}, "can't be granted", "one private or loopback"),
        ("x.com", {"addresses": ["169.254.169.254"]}, "can't be granted", None),
        ("x.com", {"addresses": ["none"]}, "not a network", "leave addresses out"),
        ("x.com", {"max_response": -1}, "max_response takes a whole number", None),
        ("x.com", {"max_response": True}, "max_response takes a whole number", None),
        ("x.com", {"cache_ttl": 1.5}, "cache_ttl takes a whole number", None),
        ("x.com", {"timeout": 0}, "timeout is a number of seconds above 0", None),
        ("x.com", {"timeout": float("nan")}, "timeout is a number of seconds above 0", None),
        ("x.com", {"timeout": "5"}, "timeout is a number of seconds above 0", None),
        ("x.com", {"rate": -1}, "rate is a number of requests a minute", "10/second"),
        ("x.com", {"rate": True}, "rate is a number of requests a minute", "10/second"),
        ("x.com", {"rate": "10/fortnight"}, "no unit", "second, minute"),
        ("x.com", {"rate": "10/second; 100/hour"}, "a rule has one rate", "traffic"),
        ("x.com", {"rate": "7/hour"}, "no whole number of requests a minute", "1/minute"),
        ("x.com", {"burst": 3}, "burst has no effect without a rate", "rate=N"),
        ("x.com", {"rate": 3, "burst": 1.5}, "burst takes a whole number", None),
        ("x.com", {"http": True, "inject": "K"}, "never sent over plain http", "inject"),
        ("x.com", {"inject": 3}, "inject is the name", "secrets="),
        ("x.com", {"http": 1}, "http is True or False", None),
        ("x.com", {"paths": "/v1"}, "paths is a list of texts", "paths=['/v1']"),
        ("x.com", {"methods": b"GET"}, "methods is a list of texts", None),
        ("x.com", {"ports": 443}, "ports is a list of numbers", "ports=[443]"),
        ("x.com", {"ports": ["443"]}, "ports is a list of numbers", None),
        ("x.com", {"addresses": [None]}, "addresses is a list of texts", None),
        (None, {}, "names its host as text", None),
    ],
)
def test_what_no_rule_can_be_is_refused_in_the_words_of_a_program(
    target: Any, settings: dict[str, Any], message: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        Policy(allow=[Rule(target, **settings)])
    error = caught.value
    assert message in error.message
    assert "--" not in error.message + (error.hint or "")
    assert "fazt net" not in error.message + (error.hint or "")
    if hint is not None:
        assert error.hint is not None
        assert hint in error.hint
        assert f"hint: {error.hint}" in "".join(traceback.format_exception(error))  # seen by who reads the traceback


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="adresses"):
        Rule("x.com", adresses=["10.0.0.0/8"])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="verify"):
        Policy(allow=["x.com"], verify=False)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "arguments",
    [
        {"allow": "api.github.com"},
        {"allow": Rule("api.github.com")},
        {"allow": [3]},
        {"allow": 3},
        {"deny": "x.com"},
        {"deny": [Rule("x.com", rate=3)]},
        {"deny": [Rule("x.com", addresses=["10.0.0.0/8"])]},
        {"resolve": ["x.com=1.2.3.4"]},
        {"resolve": {"x.com": []}},
        {"resolve": {"x.com": ["nowhere"]}},
        {"resolve": {"x.com": ["10.0.0.1 y.com=10.0.0.2"]}},
        {"resolve": {"x.com": 3}},
        {"resolve": {"x.com": ["[::1]"]}},
        {"resolve": {"x.com": ["fe80::1%eth0"]}},
        {"resolve": {"10.0.0.1": ["10.0.0.1"]}},
        {"resolve": {"x.com": ["10.0.0.1"], "X.com.": ["10.0.0.2"]}},
        {"ca_file": "/no/such/file.pem"},
        {"ca_file": 3},
        {"ca_file": [3]},
        {"ca_file": b"/etc/ssl/certs"},
        {"secrets": [Secret(VALUE, ["x.com"])]},
        {"secrets": {"K": VALUE}},
        {"secrets": {"two words": Secret(VALUE, ["x.com"])}},
        {"secrets": {3: Secret(VALUE, ["x.com"])}},
        {"name": 3},
        {"allow": [Rule("x.com", inject="K")]},
        {"allow": ["x.com", Rule("x.com", rate=3)]},
    ],
)
def test_what_no_policy_can_be_made_of_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Policy(**arguments)
    assert VALUE not in "".join(traceback.format_exception_only(caught.value))


def test_a_rule_said_twice_is_one_rule() -> None:
    assert len(Policy(allow=["x.com", "X.COM", Rule("https://x.com:443/")]).current.rules) == 1


def test_a_wildcard_too_wide_to_allow_may_be_denied() -> None:
    policy = Policy(allow=["api.example.com"], deny=[Rule("*.com", methods=["DELETE"])])
    assert refusal(policy, "https://api.example.com/", "DELETE") is Reason.DENIED_BY_RULE
    assert rule_of(policy, "https://api.example.com/", "GET").action == "allow"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": ""}, "empty"),
        ({"value": "a\nb"}, "line break"),
        ({"value": " padded "}, "white space"),
        ({"value": 3}, "is text"),
        ({"domains": []}, "needs a host"),
        ({"domains": ["*.com"]}, "anybody can register"),
        ({"domains": ["10.0.0.1"]}, "IP address"),
        ({"domains": "x.com"}, "list of texts"),
        ({"any_domain": True}, "exclude each other"),
        ({"any_domain": 1}, "any_domain is True or False"),
        ({"kind": "cookie"}, "unknown kind"),
        ({"kind": "header"}, "needs key"),
        ({"kind": "header", "key": "Host"}, "belongs to the connection"),
        ({"kind": "header", "key": 3}, "are text"),
        ({"key": "X-Key"}, "takes no key"),
        ({"kind": "query"}, "needs key"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused_without_its_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Secret(**{"value": VALUE, "domains": ["x.com"], **arguments})
    said = "".join(traceback.format_exception_only(caught.value))
    assert message in said
    assert VALUE not in said
    assert "--" not in said


def test_secrets_are_judged_by_the_policy_and_given_out_by_the_vault() -> None:
    policy = Policy(
        allow=["api.example.com"],
        secrets={"K": Secret(VALUE, ["*.Example.com", "x.com"], kind="header", key="X-Api-Key")},
    )
    meta = policy.current.secret("", "K", "api.example.com", "https")
    assert meta == SecretMeta("K", "", ("*.example.com", "x.com"), False, "header", "X-Api-Key", meta.version)
    assert policy.vault.value("", "K", version=meta.version) == VALUE
    assert policy.vault.value("", "K") == VALUE
    for scope, name, version, reason in (
        ("", "N", None, Reason.SECRET_UNKNOWN),
        ("app", "K", None, Reason.SECRET_UNKNOWN),
        ("", "K", meta.version + 1, Reason.STORE),
    ):
        with pytest.raises(FaztError) as caught:
            policy.vault.value(scope, name, version=version)
        assert caught.value.reason is reason


def test_no_value_of_a_secret_is_shown() -> None:
    secret = Secret(VALUE, any_domain=True)
    policy = Policy(allow=["x.com"], secrets={"K": secret}, name="mine")
    shown = [repr(secret), repr(policy), str(policy), repr(policy.vault), repr(policy.current), policy.id]
    shown += [str(policy.explain("https://x.com/", secret="K")), repr(policy._arguments)]
    assert all(VALUE not in text for text in shown)
    assert repr(policy) == "<Policy 'mine': 1 rule, 1 secret>"


def test_a_policy_cannot_be_changed() -> None:
    policy = Policy(allow=["x.com"])
    for name in ("current", "name", "_made", "other"):
        with pytest.raises(AttributeError):
            setattr(policy, name, None)
    with pytest.raises(AttributeError):
        del policy._made
    with pytest.raises(TypeError):
        policy.resolve["x.com"] = ("10.0.0.1",)  # type: ignore[index]


def test_what_was_handed_over_may_be_changed_afterwards_without_effect() -> None:
    allow, resolve, secrets = ["x.com"], {"x.com": ["10.0.0.1"]}, {"K": Secret(VALUE, ["x.com"])}
    policy = Policy(allow=allow, resolve=resolve, secrets=secrets)
    before = policy.id
    allow.append("y.com")
    resolve["x.com"].append("10.0.0.2")
    secrets["N"] = Secret(VALUE, ["y.com"])
    assert policy.resolve == {"x.com": ("10.0.0.1",)}
    assert policy == pickle.loads(pickle.dumps(policy))
    assert policy.id == before
    assert refusal(policy, "https://y.com/") is Reason.HOST_NOT_GRANTED


def test_equal_policies_are_equal_and_have_one_id() -> None:
    def make(**changes: Any) -> Policy:
        given: dict[str, Any] = {
            "allow": ["x.com", Rule("y.com", methods=["GET", "POST"])],
            "deny": ["z.com"],
            "resolve": {"x.com": ["10.0.0.1"]},
            "secrets": {"K": Secret(VALUE, ["x.com"])},
        }
        return Policy(**{**given, **changes})

    first = make()
    again = make(allow=[Rule("y.com", methods=["POST", "GET"]), "x.com"], name="other name")
    assert (first, hash(first), first.id) == (again, hash(again), again.id)
    others = [
        make(allow=["x.com"]),
        make(deny=[]),
        make(resolve={"x.com": ["10.0.0.2"]}),
        make(secrets={"K": Secret(VALUE, ["y.com"])}),
        make(secrets={"K": Secret(VALUE, ["x.com"], kind="query", key="k")}),
        Policy.public(allow=["x.com", Rule("y.com", methods=["GET", "POST"])], deny=["z.com"]),
    ]
    assert len({first.id, *(other.id for other in others)}) == len(others) + 1
    rotated = make(secrets={"K": Secret("another-value-1234", ["x.com"])})
    assert rotated.id == first.id  # no value goes into an id, which is written to disk
    assert rotated != first


def test_a_policy_travels_to_another_process_whole() -> None:
    for policy in (
        Policy(allow=["x.com"], secrets={"K": Secret(VALUE, ["x.com"])}, resolve={"x.com": ["10.0.0.1"]}, name="n"),
        Policy.public(deny=["x.com"], rate=3),
    ):
        for other in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy), copy.copy(policy)):
            assert other == policy
            assert (other.name, other.id, dict(other.resolve)) == (policy.name, policy.id, dict(policy.resolve))
            assert len(other.current.rules) == len(policy.current.rules)
            assert other.current.public == policy.current.public
    assert pickle.loads(pickle.dumps(Policy(secrets={"K": Secret(VALUE, ["x.com"])}))).vault.value("", "K") == VALUE


def test_static_names_and_certificate_authorities(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(pem))
    policy = Policy(resolve={"Intranet.Corp.": "10.0.0.1", "b.corp": ("::1", "10.0.0.2")}, ca_file=str(pem))
    assert policy.resolve == {"intranet.corp": ("10.0.0.1",), "b.corp": ("::1", "10.0.0.2")}
    assert policy.ca_files == (pem,)
    assert Policy(ca_file=[pem]).ca_files == (pem,)


def test_what_has_nothing_to_tell_tells_nothing() -> None:
    policy = Policy(allow=["x.com"])
    assert (policy.app, policy.app_id, policy.sink, policy.error) == (None, "", None, None)
    assert (dict(policy.traffic), dict(policy.telemetry)) == ({}, {})
    stop = policy.watch(lambda change: pytest.fail(str(change)))
    stop()
    policy.close()
    policy.close()
    assert rule_of(policy, "https://x.com/").pattern == "x.com"


def test_explain_says_what_to_write() -> None:
    policy = Policy(
        allow=[Rule("https://intranet.corp:8443", addresses=["10.1.2.0/24"], methods=["GET"], paths=["/v1"])],
        resolve={"intranet.corp": ["10.1.2.3"], "x.com": ["93.184.215.14"]},
    )
    good = policy.explain("https://intranet.corp:8443/v1/x")
    assert good.allowed
    assert str(good).endswith("pass    address  10.1.2.3 (private)\nallowed")
    bad = policy.explain("https://x.com/v1/a", "POST", secret="K")
    assert bad.reason is Reason.HOST_NOT_GRANTED
    assert bad.fix is not None
    made = Policy(
        **{"resolve": dict(policy.resolve)} | eval(f"dict({bad.fix.replace('…', repr(VALUE))})", {"fazt": _Names})
    )
    assert made.explain("https://x.com/v1/a", "POST", secret="K").allowed
    assert not made.explain("https://x.com/v1/b", "POST", secret="K").allowed
    assert not policy.explain("ftp://x.com/").allowed
    assert "--" not in str(bad)


def test_explain_has_the_shape_of_the_command() -> None:
    import json

    said = json.loads(Policy(allow=["localhost"]).explain("https://localhost/").json())
    assert list(said) == ["allowed", "gates", "rule", "fix"]
    assert said["allowed"] is False
    assert [gate["gate"] for gate in said["gates"]][-1] == "address"
    assert "loopback" in said["gates"][-1]["detail"]
    assert said["fix"].startswith('allow=[fazt.Rule("localhost", addresses=[')


def test_a_name_that_does_not_exist_is_a_refusal_of_the_address_gate() -> None:
    found = Policy(allow=["nowhere.invalid"]).explain("https://nowhere.invalid/")
    assert found.reason in (Reason.DNS_FAILED, Reason.DNS)
    assert found.fix is None


def test_an_app_means_nothing_to_it() -> None:
    found = Policy(allow=["x.com"]).explain("https://x.com/", app="shop")
    assert found.reason is Reason.HOST_NOT_GRANTED


def test_config_errors_are_the_operators() -> None:
    assert issubclass(ConfigError, OperatorError)


class _Names:
    Rule = Rule
    Secret = Secret
