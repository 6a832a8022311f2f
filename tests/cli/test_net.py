"""`fazt net`: rules as they are stored and shown, warnings where a setting changes nothing."""

from __future__ import annotations

import pytest
from tests.cli.conftest import Fazt


def test_F2_allowing_again_changes_the_one_rule_there_is(fazt: Fazt) -> None:
    fazt("net", "allow", "api.x.com", "--rate", "60")
    fazt("net", "allow", "api.x.com", "--burst", "5")
    (rule,) = fazt.json("net", "list")
    assert (rule["scope"], rule["rate"], rule["burst"]) == ("", 60, 5)
    fazt("net", "allow", "api.x.com", "--http")
    assert sorted(rule["scheme"] for rule in fazt.json("net", "list")) == ["http", "https"]
    fazt("net", "check", "http://api.x.com/", "--resolve", "api.x.com=93.184.215.14")


def test_F27_settings_belong_to_the_canonical_host_and_stay_until_they_are_named_again(fazt: Fazt) -> None:
    fazt("net", "allow", "API.Stripe.com.", "--rate", "60", "--timeout", "2000")
    fazt("net", "allow", "api.stripe.com", "--rate", "0")
    (rule,) = fazt.json("net", "list")
    assert (rule["host"], rule["rate"], rule["timeoutMs"]) == ("api.stripe.com", 0, 2000)
    fazt("net", "allow", "api.stripe.com", "--address", "10.0.0.0/8")
    fazt("net", "allow", "api.stripe.com", "--inject", "KEY")
    fazt("net", "allow", "api.stripe.com", "--inject", "", "--address", "none")
    (rule,) = fazt.json("net", "list")
    assert (rule["inject"], rule["addresses"], rule["timeoutMs"]) == (None, [], 2000)


def test_F22_a_setting_without_effect_is_said_and_stored(fazt: Fazt) -> None:
    done = fazt("net", "allow", "api.x.com", "--cache-ttl", "60")
    assert "warning: --cache-ttl has no effect while the cache is off" in done.err
    assert fazt.json("net", "list")[0]["cacheTtl"] == 60
    fazt("limits", "set", "net.cache_max_items", "10")
    fazt("limits", "set", "net.cache_max_bytes", "100000")
    assert "warning" not in fazt("net", "allow", "api.x.com", "--cache-ttl", "60").err
    assert "only GET" in fazt("net", "allow", "b.x.com", "--cache-ttl", "60", "--method", "POST").err
    assert "without a rate" in fazt("net", "allow", "c.x.com", "--burst", "5").err
    assert "net.call_timeout" in fazt("net", "allow", "d.x.com", "--timeout", "9000").err
    assert "10485760" in fazt("net", "allow", "e.x.com", "--max-response", "99999999").err
    assert "no secret KEY yet" in fazt("net", "allow", "f.x.com", "--inject", "KEY", "--app", "shop").err
    fazt("secret", "set", "KEY", "--domain", "f.x.com", stdin=b"a-long-enough-value")
    assert "no secret" not in fazt("net", "allow", "f.x.com", "--inject", "KEY", "--app", "shop").err


def test_what_is_allowed_is_said_in_one_line_with_its_protocol_and_scope(fazt: Fazt) -> None:
    assert fazt("net", "allow", "api.x.com").out.splitlines()[0] == "Allowed api.x.com (HTTPS, global)"
    done = fazt("net", "allow", "api.y.com", "--http", "--app", "shop")
    assert done.out.splitlines()[0] == "Allowed api.y.com (HTTP+HTTPS, app:shop)"
    assert "created the app shop" in done.err
    assert "created" not in fazt("net", "allow", "api.z.com", "--app", "shop").err
    assert fazt("net", "deny", "bad.x.com").out.splitlines()[0] == "Denied bad.x.com (any protocol, global)"


def test_F61_no_https_is_an_alias(fazt: Fazt) -> None:
    fazt("net", "allow", "api.x.com", "--no-https")
    assert len(fazt.json("net", "list")) == 2


def test_the_list_shows_every_column_and_counts(fazt: Fazt) -> None:
    assert "fazt net allow" in fazt("net", "list").out
    fazt(
        "net", "allow", "*.x.com", "--app", "shop", "--rate", "60", "--method", "GET", "--path", "/v1", "--port", "8443"
    )
    shown = fazt("net", "list").out
    for text in ("*.x.com", "app:shop", "8443", "GET", "/v1", "60/min", "Burst", "MaxResp", "CacheTTL", "1 rule"):
        assert text in shown
    fazt("net", "allow", "api.y.com")
    assert len(fazt.json("net", "list", "--app", "shop")) == 2
    fazt("net", "allow", "api.y.com", "--app", "other")
    assert len(fazt.json("net", "list", "--app", "shop")) == 2
    assert "there is no app" in fazt("net", "list", "--app", "nobody", expect=1).err


def test_remove_takes_a_host_an_origin_or_an_id_in_one_scope(fazt: Fazt) -> None:
    fazt("net", "allow", "api.x.com", "--http")
    fazt("net", "allow", "https://api.x.com:8443")
    fazt("net", "allow", "api.x.com", "--app", "shop")
    assert fazt("net", "remove", "api.x.com:8443").out == "Removed 1 rule of api.x.com (global)\n"
    assert fazt("net", "remove", "http://api.x.com").out == "Removed 1 rule of api.x.com (global)\n"
    fazt("net", "remove", "http://api.x.com", expect=1)
    (own,) = (rule for rule in fazt.json("net", "list") if rule["app"] == "shop")
    assert fazt("net", "remove", own["id"], "--app", "shop", expect=1).raw == b""
    assert fazt.json("net", "remove", own["id"])[0]["id"] == own["id"]
    assert fazt("net", "remove", "API.X.com").out == "Removed 1 rule of api.x.com (global)\n"
    assert fazt.json("net", "list") == []
    assert fazt("net", "remove", "api.x.com", expect=1).err.startswith("error: ")


def test_a_wildcard_over_a_shared_suffix_is_said_aloud(fazt: Fazt) -> None:
    assert "--shared-suffix" in fazt("net", "allow", "*.github.io", expect=1).err
    fazt("net", "allow", "*.github.io", "--shared-suffix")
    fazt("net", "remove", "*.github.io")


def test_check_answers_with_its_exit_code(fazt: Fazt) -> None:
    assert fazt("net", "check", "https://api.x.com/", expect=2).out == "refused: host_not_granted\n"
    fazt("net", "allow", "api.x.com", "--app", "shop")
    public = ("--resolve", "api.x.com=93.184.215.14")
    assert fazt("net", "check", "https://api.x.com/", "--app", "shop", *public).out == "allowed\n"
    found = fazt.json(
        "net", "check", "https://api.x.com/", "--app", "shop", "--resolve", "api.x.com=10.0.0.1", expect=2
    )
    assert found == {"allowed": False, "reason": "private_address", "rule": fazt.json("net", "list")[0]["id"]}


def test_the_running_servers_memory_needs_a_running_server(fazt: Fazt) -> None:
    for args in (("stats",), ("clear",)):
        done = fazt("net", "cache", *args, expect=1)
        assert "no server runs" in done.err
        assert "hint: start it: fazt serve" in done.err


@pytest.mark.parametrize("name", ["shop", "id"])
def test_an_app_is_named_by_its_name_or_its_id(fazt: Fazt, name: str) -> None:
    fazt("net", "allow", "api.x.com", "--app", "shop")
    app = fazt.json("app", "list")[0]
    fazt("net", "allow", "api.y.com", "--app", app[{"shop": "name"}.get(name, name)])
    assert {rule["scope"] for rule in fazt.json("net", "list")} == {app["id"]}
    assert "there is no app" in fazt("net", "allow", "api.z.com", "--app", "fazt_app_000000000000", expect=1).err
