"""Every gate with its verdict, and fixes that let exactly the refused call pass."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.calls import APP, OTHER, policy, rule, secret
from tests.fakes.commands import applied

from fazt.core.explain import GATES, Explanation, explain, with_addresses
from fazt.core.policy import Policy
from fazt.core.remedy import World
from fazt.core.rules import Action, Allowed, Rule, expand_target
from fazt.core.url import parse_url
from fazt.errors import FaztError, Reason

URL = "https://api.example.com/v1/orders"


def ask(held: Policy, url: str = URL, *, app: str = APP.id, **options: Any) -> Explanation:
    return explain(held, url, app=app, **options)


def answered(held: Policy, *addresses: str, url: str = URL, world: World | None = None, **options: Any) -> Explanation:
    found = ask(held, url, world=world, **options)
    assert found.address_open
    return with_addresses(found, held, addresses, world=world)


def verdicts(found: Explanation) -> dict[str, str]:
    return {gate.gate: gate.verdict for gate in found.gates}


def detail(found: Explanation, gate: str) -> str:
    return next(one.detail for one in found.gates if one.gate == gate)


def fix_of(found: Explanation) -> str:
    assert not found.allowed
    assert found.fix is not None
    return found.fix


SIBLINGS = (
    {"url": "https://api.example.com/v1/users"},
    {"url": "https://api.example.com/v1"},
    {"url": "https://api.example.com/"},
    {"method": "POST"},
    {"url": "https://www.example.com/v1/orders"},
    {"url": "https://example.com/v1/orders"},
    {"url": "https://api.example.com:8443/v1/orders"},
    {"url": "http://api.example.com/v1/orders"},
    {"app": OTHER.id},
    {"app": ""},
)


# Gates


def test_all_gates_stand_in_the_order_of_the_pipeline_whatever_the_verdict() -> None:
    held = policy(rule("api.example.com", methods=["GET"]))
    passed = answered(held, "93.184.215.14")
    assert [gate.gate for gate in passed.gates] == list(GATES)
    assert passed.allowed
    assert {gate.verdict for gate in passed.gates if gate.gate in ("url", "rule", "address")} == {"pass"}
    for url, method in (("ftp://x", "GET"), (URL, "POST"), ("https://other.example/", "GET")):
        refused = ask(held, url, method=method)
        assert [gate.gate for gate in refused.gates] == list(GATES)
        assert not refused.allowed
        assert not refused.address_open
        assert list(verdicts(refused).values()).count("refuse") == 1


def test_what_no_url_is_has_no_fix() -> None:
    for url in ("https://127.0.0.1/", "https://user:pw@api.example.com/", "ftp://api.example.com/", "https://a b/"):
        found = ask(policy(), url)
        assert verdicts(found)["url"] == "refuse"
        assert found.fix is None
        assert "pw" not in detail(found, "url")


def test_a_method_that_is_never_sent_has_no_fix() -> None:
    found = ask(policy(rule("api.example.com")), method="TRACE")
    assert found.reason is Reason.BAD_OPTION
    assert found.fix is None


def test_the_numbers_of_a_running_call_are_shown_and_not_decided() -> None:
    held = policy(
        rule("api.example.com", rate=60, burst=5, timeout_ms=1500, cache_ttl=30),
        limits={"net.cache_max_items": 5, "net.cache_max_bytes": 1000},
    )
    found = answered(held, "93.184.215.14")
    assert [verdicts(found)[gate] for gate in ("budget", "cache", "slot", "rate")] == ["skip"] * 4
    assert "1500 ms" in detail(found, "budget")
    assert "30 s" in detail(found, "cache")
    assert "60 a minute, 5 at once" in detail(found, "rate")


def test_the_document_has_the_agreed_shape() -> None:
    found = answered(policy(rule("api.example.com")), "93.184.215.14").as_dict()
    assert list(found) == ["allowed", "gates", "rule", "fix"]
    assert all(list(gate) == ["gate", "verdict", "detail"] for gate in found["gates"])
    assert found["rule"]["host"] == "api.example.com"


# Fixes of the rule gate


def test_the_fix_lets_this_call_pass_and_its_siblings_not() -> None:
    held = policy()
    fix = fix_of(ask(held))
    assert fix == "fazt net allow api.example.com --app hello --method GET --path /v1/orders"
    after = applied(held, fix)
    assert ask(after).allowed
    for sibling in SIBLINGS:
        assert not ask(after, **sibling).allowed, sibling  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "method"),
    [
        ("https://api.example.com:8443/v1", "GET"),
        ("http://api.example.com/v1", "GET"),
        ("http://api.example.com:8080/v1", "PATCH"),
        ("https://bücher.example/v1", "GET"),
        ("https://api.example.com/a%2Fb", "GET"),
        ("https://api.example.com/a%20b/ü", "GET"),
        ("https://api.example.com/v1/%2e%2e/x", "GET"),
        ("https://api.example.com/v1/*", "GET"),
        ("https://api.example.com/it's", "GET"),
        ("https://api.example.com/", "GET"),
        ("https://api.example.com/v1/?token=abc", "DELETE"),
    ],
)
def test_every_kind_of_url_that_can_be_granted_gets_a_fix_that_works(url: str, method: str) -> None:
    held = policy()
    fix = fix_of(ask(held, url, method=method))
    assert "token" not in fix
    after = applied(held, fix)
    assert ask(after, url, method=method).allowed
    assert not ask(after, url, method="HEAD").allowed
    assert not ask(after, url, method=method, app=OTHER.id).allowed
    assert not ask(after, f"{parse_url(url).scheme}://elsewhere.example/", method=method).allowed


def test_a_fix_that_covers_every_path_says_so() -> None:
    found = ask(policy(), "https://api.example.com/")
    assert "--path" not in fix_of(found)
    assert "covers every path" in detail(found, "rule")


def test_a_fix_that_is_for_all_apps_says_so() -> None:
    found = ask(policy(), app="")
    assert "--app" not in fix_of(found).split(" --method")[0]
    assert "for all apps" in detail(found, "rule")


def test_within_the_deciding_tier_nothing_that_was_allowed_is_lost() -> None:
    held = policy(rule("api.example.com", methods=["GET"], paths=["/v1"]))
    found = ask(held, method="POST")
    assert found.reason is Reason.METHOD_NOT_GRANTED
    assert "no longer appl" not in detail(found, "rule")
    after = applied(held, fix_of(found))
    assert ask(after, method="POST").allowed
    assert ask(after).allowed


def test_a_fix_that_shadows_wider_rules_names_them() -> None:
    wide = rule("api.example.com", app="", methods=["GET"])
    held = policy(wide)
    found = ask(held, method="POST")
    assert wide.id in detail(found, "rule")
    assert "no longer appl" in detail(found, "rule")
    after = applied(held, fix_of(found))
    assert ask(after, method="POST").allowed
    assert not ask(after, method="GET").allowed
    assert ask(after, method="GET", app=OTHER.id).allowed
    assert not ask(after, method="POST", app=OTHER.id).allowed


def test_a_deny_has_no_fix_and_names_what_to_take_back() -> None:
    (denied,) = expand_target("*.example.com", scope="", action="deny")
    found = ask(policy(rule("api.example.com"), denied))
    assert found.reason is Reason.DENIED_BY_RULE
    assert found.fix is None
    assert denied.id in detail(found, "rule")
    assert "fazt net remove" in detail(found, "rule")


def test_an_app_that_does_not_exist_gets_a_fix_only_where_one_can_be_made() -> None:
    held = policy()
    assert ask(held, app="newcomer").fix is None
    found = ask(held, app="newcomer", may_create=True)
    fix = fix_of(found)
    assert "--app newcomer" in fix
    after = applied(held, fix)
    made = after.app_named("newcomer")
    assert made is not None
    assert ask(after, app=made.id).allowed


# Secrets


def test_a_secret_that_is_missing_is_part_of_the_fix() -> None:
    held = policy()
    fix = fix_of(ask(held, auth="KEY"))
    assert fix.split(" && ")[1] == "fazt secret set KEY --domain api.example.com --app hello"
    assert ask(applied(held, fix), auth="KEY").allowed


def test_a_secret_for_other_hosts_keeps_them() -> None:
    held = policy(
        rule("api.example.com", inject="KEY"),
        secrets=[replace(secret("KEY", host="a.example", kind="header", key="X-Key"), scope="")],
    )
    found = ask(held)
    assert verdicts(found)["secret"] == "refuse"
    fix = fix_of(found)
    assert fix == (
        "fazt secret set KEY --as header --key X-Key --domain a.example --domain api.example.com --app hello"
    )
    after = applied(held, fix)
    assert ask(after).allowed
    assert after.secret(APP.id, "KEY", "a.example", "https").kind == "header"


def test_a_secret_over_http_or_with_an_impossible_name_has_no_fix() -> None:
    plain = policy(rule("http://api.example.com"), secrets=[secret()])
    assert ask(plain, "http://api.example.com/", auth="KEY").reason is Reason.SECRET_NEEDS_HTTPS
    assert ask(plain, "http://api.example.com/", auth="KEY").fix is None
    assert ask(plain, "http://api.example.com/", auth="OTHER").fix is None
    assert ask(policy(), auth="--any-domain").fix is None
    assert ask(policy(rule("api.example.com")), auth="a b").fix is None


# Addresses


def test_a_private_address_that_can_be_granted_is() -> None:
    held = policy(rule("api.example.com", rate=60, inject="KEY"), secrets=[secret()])
    found = answered(held, "10.1.2.3", "93.184.215.14")
    assert found.reason is Reason.PRIVATE_ADDRESS
    after = applied(held, fix_of(found))
    assert answered(after, "10.1.2.3", "93.184.215.14").allowed
    assert not answered(after, "10.1.2.4").allowed
    assert not answered(after, "10.1.2.3", url="https://api.example.com/other").allowed
    narrow = ask(after).rule
    assert narrow is not None
    assert (narrow.rate, narrow.inject, narrow.addresses) == (60, "KEY", ("10.1.2.3/32",))


def test_ranges_that_were_granted_stay_granted() -> None:
    held = policy(rule("api.example.com", methods=["GET"], paths=["/v1/orders"], addresses=["10.1.0.0/16"], rate=9))
    found = answered(held, "10.1.0.1", "fd12::1")
    after = applied(held, fix_of(found))
    assert answered(after, "10.1.0.1", "fd12::1").allowed
    changed = ask(after).rule
    assert changed is not None
    assert changed.addresses == ("10.1.0.0/16", "fd12::1/128")
    assert changed.rate == 9
    assert len(after.rules) == 1


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "100.100.100.200", "0.0.0.0", "224.0.0.1", "fd00:ec2::254"]
)
def test_what_no_rule_can_grant_has_no_fix(address: str) -> None:
    found = answered(policy(rule("api.example.com")), address)
    assert verdicts(found)["address"] == "refuse"
    assert found.fix is None
    mixed = answered(policy(rule("api.example.com")), "10.0.0.1", address)
    assert mixed.fix is None


def test_fazts_own_listener_has_no_fix() -> None:
    world = World(own=frozenset({("127.0.0.1", 443)}))
    found = answered(policy(rule("api.example.com")), "127.0.0.1", world=world)
    assert found.reason is Reason.OWN_LISTENER
    assert found.fix is None


def test_a_static_name_needs_no_lookup_so_the_first_fix_grants_its_address() -> None:
    world = World(static={"api.example.com": ("127.0.0.1",)})
    held = policy()
    found = ask(held, world=world)
    assert not found.address_open
    after = applied(held, fix_of(found))
    assert answered(after, "127.0.0.1", world=world).allowed


def test_a_static_name_that_no_rule_can_grant_has_no_fix() -> None:
    world = World(static={"api.example.com": ("169.254.169.254",)})
    assert ask(policy(), world=world).fix is None


def test_an_address_of_this_machine_is_granted_by_name() -> None:
    world = World(local=frozenset({"203.0.114.9"}))
    held = policy(rule("api.example.com"))
    found = answered(held, "203.0.114.9", world=world)
    assert found.reason is Reason.PRIVATE_ADDRESS
    assert answered(applied(held, fix_of(found)), "203.0.114.9", world=world).allowed


def test_a_name_that_does_not_resolve_is_no_refusal_of_a_rule() -> None:
    held = policy(rule("api.example.com"))
    failed = with_addresses(ask(held), held, FaztError(Reason.DNS_FAILED, "no", detail="NXDOMAIN"))
    assert failed.reason is Reason.DNS_FAILED
    assert failed.fix is None
    assert "NXDOMAIN" in detail(failed, "address")


# In general

HOSTS = ("api.example.com", "www.example.com", "example.com")
TARGETS = ("api.example.com", "*.example.com", "https://api.example.com:8443", "http://api.example.com", "example.com")
PATHS = ("", "/v1", "/v1/orders", "/v2")
METHODS = ("GET", "POST")
APPS = (APP.id, OTHER.id, "")


def every_rule() -> list[Rule]:
    shapes = itertools.product(TARGETS, APPS, ("allow", "deny"), ((), ("GET",), ("POST",)), PATHS)
    found: list[Rule] = []
    for target, scope, action, methods, path in shapes:
        found += expand_target(
            target, scope=scope, action=cast("Action", action), methods=methods, paths=[path] if path else []
        )
    return found


RULES = every_rule()
ALLOWS = [one for one in RULES if one.action == "allow"]
RULE_SETS = st.lists(
    st.one_of(*[st.sampled_from(ALLOWS)] * 3, st.sampled_from(RULES)), max_size=6, unique_by=lambda one: one.key
)


def everything() -> list[tuple[str, str, str]]:
    origins = [f"https://{host}" for host in HOSTS] + ["https://api.example.com:8443", "http://api.example.com"]
    paths = ("/", "/v1/orders", "/v1/orders/7", "/v2")
    return [(app, origin + path, method) for app in APPS for origin in origins for path in paths for method in METHODS]


CALLS = everything()


def granted(held: Policy) -> set[tuple[str, str, str]]:
    return {
        (app, url, method)
        for app, url, method in CALLS
        if isinstance(held.rules.decide(app=app, url=parse_url(url), method=method), Allowed)
    }


@given(rules=RULE_SETS, call=st.sampled_from(CALLS))
def test_whatever_the_rules_a_fix_grants_its_call_and_nothing_beside(
    rules: Sequence[Rule], call: tuple[str, str, str]
) -> None:
    held = policy(*rules)
    app, url, method = call
    found = ask(held, url, app=app, method=method)
    if found.allowed or found.fix is None:
        assert found.allowed or found.reason is Reason.DENIED_BY_RULE or denied_anyway(held, call)
        return
    before, after = granted(held), granted(applied(held, found.fix))
    assert call in after
    words = shlex.split(found.fix)
    prefix = words[words.index("--path") + 1] if "--path" in words else ""
    target = parse_url(url)
    for other_app, other_url, other_method in after - before:
        other = parse_url(other_url)
        assert other_app == app or not app
        assert other.origin == target.origin
        assert other_method == method
        assert other.path == prefix or other.path.startswith(f"{prefix}/")
    if before - after:
        assert "no longer appl" in detail(found, "rule")


def denied_anyway(held: Policy, call: tuple[str, str, str]) -> bool:
    app, url, method = call
    target = parse_url(url)
    opened = expand_target(target.origin, scope=app, methods=[method], paths=[target.path])
    tiers = held.rules.tiers(app=app, host=target.host)
    here = [one for tier in tiers for one in tier if (one.scope, one.pattern) == (app, target.host)]
    index = held.rules.replacing({(app, target.host): [*here, *opened]})
    return not isinstance(index.decide(app=app, url=target, method=method), Allowed)
