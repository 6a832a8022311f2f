"""From a line typed by an operator to rules, and what an upsert keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fazt.core.rules import Rule, covers, expand_target, given, host_pattern, merge, rule_id
from fazt.core.suffixes import SuffixKind, suffix_kind
from fazt.errors import ConfigError


def origins(target: str, **settings: object) -> list[str]:
    rules = expand_target(target, scope="", **settings)  # type: ignore[arg-type]
    return [f"{rule.scheme} {rule.pattern} {rule.port}" for rule in rules]


@pytest.mark.parametrize(
    ("target", "settings", "expected"),
    [
        ("x.com", {}, ["https x.com 443"]),
        ("x.com", {"http": True}, ["https x.com 443", "http x.com 80"]),
        ("x.com", {"ports": [8443, 443, 8443]}, ["https x.com 8443", "https x.com 443"]),
        ("x.com", {"ports": [8080], "http": True}, ["https x.com 8080", "http x.com 8080"]),
        ("x.com:443", {}, ["https x.com 443"]),
        ("x.com:443", {"http": True}, ["https x.com 443", "http x.com 80"]),
        ("x.com:8443", {}, ["https x.com 8443"]),
        ("https://x.com", {}, ["https x.com 443"]),
        ("https://x.com/", {}, ["https x.com 443"]),
        ("HTTPS://X.com:8443", {}, ["https x.com 8443"]),
        ("http://x.com", {}, ["http x.com 80"]),
        ("http://x.com", {"http": True}, ["http x.com 80"]),
        ("http://x.com:8080", {}, ["http x.com 8080"]),
        ("http://x.com:443", {}, ["http x.com 443"]),
        ("https://x.com:80", {}, ["https x.com 80"]),
        ("*.x.com", {}, ["https *.x.com 443"]),
        ("*.x.com:8443", {}, ["https *.x.com 8443"]),
        ("http://*.x.com:8080", {}, ["http *.x.com 8080"]),
        ("bücher.example", {}, ["https xn--bcher-kva.example 443"]),
        ("localhost", {}, ["https localhost 443"]),
        ("github.io", {}, ["https github.io 443"]),
        ("co.uk", {}, ["https co.uk 443"]),
    ],
)
def test_what_a_target_stands_for(target: str, settings: dict[str, object], expected: list[str]) -> None:
    assert origins(target, **settings) == expected


@pytest.mark.parametrize(
    ("target", "settings", "expected"),
    [
        ("x.com", {}, ["* x.com 0"]),
        ("x.com:443", {}, ["* x.com 0"]),
        ("x.com", {"ports": [8443]}, ["* x.com 8443"]),
        ("x.com:8443", {}, ["* x.com 8443"]),
        ("https://x.com", {}, ["https x.com 443"]),
        ("http://x.com:8080", {}, ["http x.com 8080"]),
        ("*.com", {}, ["* *.com 0"]),
        ("*.github.io", {}, ["* *.github.io 0"]),
    ],
)
def test_a_deny_takes_the_stricter_reading(target: str, settings: dict[str, object], expected: list[str]) -> None:
    assert origins(target, action="deny", **settings) == expected


@pytest.mark.parametrize("text", ["API.Stripe.com", "api.stripe.com.", "api.stripe.com:443", "API.STRIPE.COM.:443"])
def test_F27_every_spelling_of_a_host_is_one_rule(text: str) -> None:
    (rule,) = expand_target(text, scope="", rate=60)
    (plain,) = expand_target("api.stripe.com", scope="")
    assert rule.key == plain.key
    assert rule.id == plain.id
    assert merge(plain, rule, given({"rate": 60})).rate == 60


def test_F27_every_spelling_of_a_path_and_method_is_one_rule() -> None:
    (rule,) = expand_target("x.com", scope="a1", paths=["/v1"], methods=["GET", "POST"])
    for path in ("/v1/", "/%76%31", "/./v1", "/x/../v1", "/v1//"):
        (other,) = expand_target("X.com.", scope="a1", paths=[path], methods=["post", "get", "GET"])
        assert other.key == rule.key, path


def test_F27_an_upsert_keeps_what_is_not_named_and_resets_what_is_0() -> None:
    (stored,) = expand_target(
        "x.com", scope="", rate=60, burst=5, cache_ttl=30, inject="K", addresses=["10.0.0.0/8"], created_at=5.0
    )
    named = {"rate": None, "burst": 0, "inject": None, "addresses": (), "timeout_ms": 900}
    (again,) = expand_target("X.COM", scope="", created_at=9.0, **named)  # type: ignore[arg-type]
    kept = merge(stored, again, given(named))
    assert (kept.rate, kept.burst, kept.cache_ttl, kept.timeout_ms) == (60, 0, 30, 900)
    assert (kept.inject, kept.addresses, kept.created_at, kept.id) == ("K", ("10.0.0.0/8",), 5.0, stored.id)


def test_F27_text_and_ranges_can_be_reset_too() -> None:
    (stored,) = expand_target(
        "x.com", scope="", inject="K", addresses=["10.0.0.0/8"], paths=["/a"], path_encoded_slash=True
    )
    named = {"inject": "", "addresses": ("none",), "path_encoded_slash": False}
    (again,) = expand_target("x.com", scope="", paths=["/a"], **named)  # type: ignore[arg-type]
    kept = merge(stored, again, given(named))
    assert (kept.inject, kept.addresses, kept.path_encoded_slash) == ("", (), False)


def test_a_first_upsert_stores_the_rule_as_it_is_and_two_keys_never_mix() -> None:
    (rule,) = expand_target("x.com", scope="", rate=3)
    assert merge(None, rule, frozenset()) is rule
    with pytest.raises(ValueError, match="two rules"):
        merge(expand_target("y.com", scope="")[0], rule, frozenset())


def test_F2_the_scope_of_all_apps_is_part_of_the_key_like_any_other() -> None:
    everyone, one = (expand_target("x.com", scope=scope)[0] for scope in ("", "a1"))
    assert everyone.key == expand_target("x.com", scope="")[0].key
    assert everyone.key != one.key
    assert everyone.id != one.id


def test_an_allow_and_a_deny_are_two_rules() -> None:
    (granted,) = expand_target("https://x.com", scope="")
    (denied,) = expand_target("https://x.com", scope="", action="deny")
    assert granted.key != denied.key
    assert granted.id != denied.id


def test_ids_are_short_stable_and_the_same_in_every_process() -> None:
    (rule,) = expand_target("x.com", scope="a1", methods=["PUT", "GET", "POST"], paths=["/v1"])
    code = (
        "from fazt.core.rules import expand_target as e;"
        "print(e('x.com',scope='a1',methods=['POST','PUT','GET'],paths=['/v1'])[0].id)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == rule.id == rule_id(rule.key)
    assert rule.id.startswith("r_")
    assert len(rule.id) == 14


def test_schemes_ports_and_paths_multiply_and_repetitions_fall_together() -> None:
    rules = expand_target("x.com", scope="", http=True, ports=[1, 2], paths=["/a", "/b/", "/a/"], methods=["GET"])
    assert len(rules) == len({rule.key for rule in rules}) == 8
    assert {rule.path for rule in rules} == {"/a", "/b"}
    assert all(rule.methods == {"GET"} for rule in rules)


def test_settings_are_carried_by_every_rule() -> None:
    rules = expand_target(
        "x.com", scope="", ports=[1, 2], rate=1, burst=2, timeout_ms=3, max_response=4, cache_ttl=5, inject="K"
    )
    for rule in rules:
        assert (rule.rate, rule.burst, rule.timeout_ms, rule.max_response, rule.cache_ttl) == (1, 2, 3, 4, 5)
        assert rule.inject == "K"


def test_granted_ranges_are_canonical_sorted_and_single() -> None:
    (rule,) = expand_target("x.com", scope="", addresses=["192.168.0.0/16", "127.0.0.1/32", "127.0.0.1"])
    assert rule.addresses == ("127.0.0.1/32", "192.168.0.0/16")
    with pytest.raises(ConfigError):
        expand_target("x.com", scope="", addresses=["169.254.0.0/16"])


@pytest.mark.parametrize(
    "target",
    [
        "",
        " ",
        "*",
        "*.",
        "**.x.com",
        "*.*.x.com",
        "a.*.x.com",
        "*x.com",
        "x.*",
        "＊.x.com",
        "%2a.x.com",
        "*.com",
        "*.COM.",
        "*.localhost",
        "*.internal",
        "*.co.uk",
        "*.CO.UK",
        "*.kobe.jp",
        "*.foo.ck",
        "*.xn--p1ai",
        "*.com.:443",
        "https://*.com",
        "*.127.0.0.1",
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "[::1]",
        "::1",
        "https://[::1]:8443",
        "http://10.0.0.1",
        "１２７.0.0.1",
        "x.com/",
        "x.com/v1",
        "https://x.com/v1",
        "https://x.com?q",
        "https://x.com/?q",
        "https://x.com#f",
        "https://x.com//",
        "https://user:hunter2secret@x.com",
        "user:hunter2secret@x.com",
        "ftp://x.com",
        "x.com:0",
        "x.com:65536",
        "x.com:http",
        "x.com:80",
        "x com",
        "x.com\n",
        "x..com",
        ".x.com",
        "x.com\\y",
        "https:x.com",
        "://x.com",
        "https://",
        "a" * 64 + ".com",
        "x.com,y.com",
    ],
)
def test_what_cannot_be_granted_is_refused_in_words(target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand_target(target, scope="")
    assert len(caught.value.message) > 10
    assert "hunter2secret" not in caught.value.message + (caught.value.hint or "")


@pytest.mark.parametrize("target", ["127.0.0.1", "https://[::1]:8443", "*.10.0.0.1"])
def test_an_ip_address_is_answered_with_the_way_to_reach_it(target: str) -> None:
    with pytest.raises(ConfigError, match="IP address") as caught:
        expand_target(target, scope="")
    assert "--address" in (caught.value.hint or "")


@pytest.mark.parametrize("target", ["*.github.io", "*.s3.amazonaws.com", "*.us-east-1.compute.amazonaws.com"])
def test_a_suffix_shared_by_strangers_has_to_be_said_aloud(target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand_target(target, scope="")
    assert "--shared-suffix" in (caught.value.hint or "")
    assert origins(target, shared_suffix=True) == [f"https {target} 443"]


def test_saying_it_aloud_does_not_open_a_registry() -> None:
    for target in ("*.com", "*.co.uk"):
        with pytest.raises(ConfigError):
            expand_target(target, scope="", shared_suffix=True)


@pytest.mark.parametrize(
    ("domain", "kind"),
    [
        ("com", SuffixKind.REGISTRY),
        ("invented", SuffixKind.REGISTRY),
        ("co.uk", SuffixKind.REGISTRY),
        ("foo.kobe.jp", SuffixKind.REGISTRY),
        ("city.kobe.jp", SuffixKind.OWN),
        ("github.io", SuffixKind.SHARED),
        ("someone.github.io", SuffixKind.OWN),
        ("googleapis.com", SuffixKind.OWN),
        ("example.com", SuffixKind.OWN),
        ("svc.invented", SuffixKind.OWN),
    ],
)
def test_who_holds_the_names_below_a_domain(domain: str, kind: SuffixKind) -> None:
    assert suffix_kind(domain) is kind


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": -1},
        {"burst": 1.5},
        {"timeout_ms": True},
        {"max_response": "10"},
        {"cache_ttl": 2**60},
        {"ports": [0]},
        {"ports": [65536]},
        {"ports": ["443"]},
        {"ports": [True]},
        {"methods": ["GET,POST"]},
        {"methods": [""]},
        {"methods": ["*"]},
        {"methods": ["TRACE"]},
        {"methods": ["connect"]},
        {"methods": ["GET\n"]},
        {"methods": ["ſ"]},
        {"paths": ["v1"]},
        {"paths": [""]},
        {"paths": ["/v1?x"]},
        {"paths": ["/v1#x"]},
        {"paths": ["/v1/*"]},
        {"paths": ["/a b"]},
        {"paths": ["/%2e%2e/x"]},
        {"paths": ["/a%2fb"]},
        {"paths": ["/a%2f..%2fb"], "path_encoded_slash": True},
        {"path_encoded_slash": True},
        {"http": True, "inject": "K"},
    ],
)
def test_an_option_that_cannot_work_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        expand_target("x.com", scope="", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("https://x.com", {"ports": [8443]}),
        ("https://x.com", {"http": True}),
        ("x.com:8443", {"ports": [1]}),
        ("x.com:8443", {"http": True}),
        ("http://x.com", {"inject": "K"}),
        ("x.com", {"action": "deny", "http": True}),
        ("http://x.com", {"action": "deny", "http": True}),
        ("x.com", {"action": "deny", "rate": 1}),
        ("x.com", {"action": "deny", "rate": 0}),
        ("x.com", {"action": "deny", "inject": "K"}),
        ("x.com", {"action": "deny", "addresses": ["127.0.0.1/32"]}),
    ],
)
def test_options_that_contradict_each_other_are_refused(target: str, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        expand_target(target, scope="", **settings)  # type: ignore[arg-type]


def test_a_path_with_an_encoded_slash_needs_the_flag_and_is_then_stored_with_a_slash() -> None:
    (rule,) = expand_target("x.com", scope="", paths=["/@a%2fb"], path_encoded_slash=True)
    assert rule.path == "/@a/b"
    assert rule.path_encoded_slash is True


def test_given_lists_the_settings_that_were_named() -> None:
    assert given({}) == frozenset()
    assert given({"rate": 0, "burst": None, "methods": ["GET"], "inject": "", "addresses": ()}) == {"rate", "inject"}
    assert given({"addresses": ["10.0.0.0/8"], "path_encoded_slash": False}) == {"addresses", "path_encoded_slash"}


@pytest.mark.parametrize(
    ("text", "pattern"), [("X.com", "x.com"), ("*.X.com.", "*.x.com"), ("api.x.com:443", "api.x.com")]
)
def test_a_secrets_domain_takes_the_same_form(text: str, pattern: str) -> None:
    assert host_pattern(text) == pattern


@pytest.mark.parametrize(
    "text", ["*", "*.com", "*.github.io", "10.0.0.1", "https://x.com", "x.com:8443", "x.com/a", ""]
)
def test_a_secrets_domain_is_held_to_the_same_refusals(text: str) -> None:
    with pytest.raises(ConfigError):
        host_pattern(text)


def test_a_pattern_covers_any_depth_below_but_not_itself() -> None:
    assert covers("*.x.com", "a.b.x.com")
    assert not covers("*.x.com", "x.com")
    assert not covers("*.x.com", "ax.com")
    assert not covers("x.com", "a.x.com")


def test_a_rule_reads_as_its_operator_wrote_it() -> None:
    texts = [
        str(expand_target("https://x.com:8443", scope="a1", methods=["POST", "GET"], paths=["/v1"])[0]),
        str(expand_target("x.com", scope="", action="deny")[0]),
        str(expand_target("x.com", scope="", action="deny", ports=[8080])[0]),
    ]
    assert texts == [
        "allow GET,POST https://x.com:8443/v1 for app a1",
        "deny x.com for all apps",
        "deny x.com:8080 for all apps",
    ]


def test_the_suffix_list_is_not_read_before_a_wildcard_is_granted() -> None:
    code = (
        "import sys; from fazt.core.rules import expand_target as e; e('x.com',scope='');"
        "e('*.com',scope='',action='deny'); print('publicsuffixlist' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_rules_are_values() -> None:
    (rule,) = expand_target("x.com", scope="")
    with pytest.raises(AttributeError):
        rule.scheme = "http"  # type: ignore[misc]
    assert isinstance(rule, Rule)
    assert hash(rule) == hash(expand_target("x.com", scope="")[0])
