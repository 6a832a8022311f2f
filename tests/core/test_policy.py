"""One revision: which secret a call may carry, which limits an app has, whom a name means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fazt.core import limits as lim
from fazt.core.policy import AppMeta, Policy, SecretMeta
from fazt.core.public import PUBLIC_PATTERN, PUBLIC_RULE, PublicGrant
from fazt.core.rules import Allowed, Decision, Refused, RuleIndex, expand_target
from fazt.core.url import parse_url
from fazt.errors import Code, ConfigError, FaztError, Reason

BASE = lim.defaults(total_ram=2**32, available_ram=2**31, cpu_cores=2)


def secret(name: str, *domains: str, scope: str = "", any_domain: bool = False, version: int = 1) -> SecretMeta:
    return SecretMeta(name, scope, domains, any_domain, "bearer", "", version)


def policy(
    *secrets: SecretMeta, apps: tuple[AppMeta, ...] = (), overrides: dict[str, lim.Limits] | None = None
) -> Policy:
    return Policy(
        7,
        RuleIndex.build([]),
        {(each.scope, each.name): each for each in secrets},
        {app.id: app for app in apps},
        BASE,
        overrides or {},
    )


def refused(
    held: Policy, *, app: str = "a1", name: str = "K", host: str = "api.x.com", scheme: str = "https"
) -> FaztError:
    with pytest.raises(FaztError) as caught:
        held.secret(app, name, host, scheme)
    assert caught.value.code is Code.NET_AUTH
    return caught.value


def test_the_apps_own_secret_comes_before_the_one_for_all() -> None:
    held = policy(secret("K", "api.x.com", version=1), secret("K", "api.x.com", scope="a1", version=2))
    assert held.secret("a1", "K", "api.x.com", "https").version == 2
    assert held.secret("a2", "K", "api.x.com", "https").version == 1
    assert held.secret("", "K", "api.x.com", "https").version == 1


def test_the_apps_own_secret_is_final() -> None:
    held = policy(secret("K", "api.x.com"), secret("K", "api.y.com", scope="a1"))
    assert refused(held).reason is Reason.SECRET_WRONG_HOST


def test_a_name_nobody_has_is_unknown_and_one_of_another_app_is_not_ours() -> None:
    held = policy(secret("K", "api.x.com", scope="a2"))
    assert refused(held, name="N").reason is Reason.SECRET_UNKNOWN
    assert refused(held).reason is Reason.SECRET_WRONG_APP
    assert refused(held, app="").reason is Reason.SECRET_WRONG_APP


def test_F29_without_any_secret_a_call_that_names_one_is_refused() -> None:
    assert refused(policy()).reason is Reason.SECRET_UNKNOWN


@pytest.mark.parametrize("host", ["x.com", "api.y.com", "evil-api.x.com", "api.x.com.evil.net", "sub.api.x.com"])
def test_F8_a_secret_goes_to_its_own_hosts_only(host: str) -> None:
    assert refused(policy(secret("K", "api.x.com", "other.z.com")), host=host).reason is Reason.SECRET_WRONG_HOST


def test_F8_without_domains_a_secret_goes_nowhere_unless_the_operator_said_anywhere() -> None:
    assert refused(policy(secret("K"))).reason is Reason.SECRET_WRONG_HOST
    held = policy(secret("K", any_domain=True))
    assert held.secret("a1", "K", "anything.example", "https").any_domain


def test_a_wildcard_domain_covers_any_depth_but_not_itself() -> None:
    held = policy(secret("K", "*.x.com"))
    assert held.secret("a1", "K", "a.b.x.com", "https").name == "K"
    assert refused(held, host="x.com").reason is Reason.SECRET_WRONG_HOST


@pytest.mark.parametrize("held", [policy(secret("K", "api.x.com")), policy(secret("K", any_domain=True))])
def test_F8_a_secret_is_never_sent_in_clear(held: Policy) -> None:
    assert refused(held, scheme="http").reason is Reason.SECRET_NEEDS_HTTPS


def test_the_caller_learns_nothing_that_it_did_not_say() -> None:
    held = policy(secret("K", "internal.corp.example", scope="a1"), secret("M", "hidden.example", scope="other-app"))
    cases = [
        refused(held),
        refused(held, scheme="http", host="internal.corp.example"),
        refused(held, name="M"),
        refused(held, name="N"),
    ]
    for error in cases:
        for known_to_the_operator in ("corp", "hidden", "other-app", "a1"):
            assert known_to_the_operator not in error.message
        assert error.detail
    assert refused(held, name="M").message == refused(held, name="N").message


def test_an_id_comes_before_a_name_so_that_no_name_can_stand_in_for_an_id() -> None:
    one, two = AppMeta("app_1", "shop"), AppMeta("app_2", "app_1")
    held = policy(apps=(one, two))
    assert held.app_named("app_1") is one
    assert held.app_named("shop") is one
    assert held.app_named("app_2") is two
    assert held.app_named("gone") is None


def test_an_app_without_limits_of_its_own_has_the_operators() -> None:
    own = lim.clamp_override(BASE, {"net.max_calls": 2})
    held = policy(overrides={"a1": own})
    assert held.limits_for("a1").net.max_calls == 2
    assert held.limits_for("a2") is BASE
    assert held.limits_for("") is BASE


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        policy().revision = 8  # type: ignore[misc]


def granting(public: PublicGrant | None, *targets: str, action: Any = "allow") -> Policy:
    rules = [rule for target in targets for rule in expand_target(target, scope="", action=action)]
    return replace(policy(), rules=RuleIndex.build(rules), public=public)


def ask(held: Policy, url: str, method: str = "GET") -> Decision:
    return held.decide(app="", url=parse_url(url), method=method)


def test_without_a_grant_for_public_hosts_the_rules_alone_decide() -> None:
    found = ask(granting(None, "api.x.com"), "https://other.com/")
    assert isinstance(found, Refused)
    assert found.reason is Reason.HOST_NOT_GRANTED


def test_the_grant_for_public_hosts_is_asked_where_no_rule_names_the_host() -> None:
    held = granting(PublicGrant(rate=5, max_response=9), "api.x.com")
    found = ask(held, "http://other.com/")
    assert isinstance(found, Allowed)
    assert (found.rule.id, found.rule.pattern, found.rule.origin) == (PUBLIC_RULE, PUBLIC_PATTERN, "http://*")
    assert (found.rule.rate, found.rule.max_response, found.rule.addresses) == (5, 9, ())
    named = ask(held, "https://api.x.com/")
    assert isinstance(named, Allowed)
    assert named.rule.id != PUBLIC_RULE
    assert isinstance(ask(held, "http://api.x.com/"), Refused)


@pytest.mark.parametrize(
    ("grant", "url", "reason"),
    [
        (PublicGrant(), "https://x.com:8443/", Reason.PORT_NOT_GRANTED),
        (PublicGrant(ports=(8443,)), "https://x.com/", Reason.PORT_NOT_GRANTED),
        (PublicGrant(https_only=True), "http://x.com/", Reason.SCHEME_NOT_ALLOWED),
        (PublicGrant(methods=frozenset({"POST"})), "https://x.com/", Reason.METHOD_NOT_GRANTED),
    ],
)
def test_what_the_grant_for_public_hosts_refuses(grant: PublicGrant, url: str, reason: Reason) -> None:
    found = ask(granting(grant), url)
    assert isinstance(found, Refused)
    assert (found.reason, found.rule) == (reason, None)
    assert found.detail


def test_a_deny_beats_the_grant_for_public_hosts() -> None:
    found = ask(granting(PublicGrant(), "*.x.com", action="deny"), "https://a.x.com/")
    assert isinstance(found, Refused)
    assert found.reason is Reason.DENIED_BY_RULE


def test_a_grant_needs_a_port() -> None:
    with pytest.raises(ConfigError):
        PublicGrant(ports=())


def test_no_stored_rule_looks_like_the_grant() -> None:
    with pytest.raises(ConfigError):
        expand_target(PUBLIC_PATTERN, scope="")
    assert not expand_target("x.com", scope="")[0].id.startswith(PUBLIC_RULE)
