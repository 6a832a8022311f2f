"""The rule index: tiers that never fall through, denies that always win, and changes that touch one shard."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fazt.core.rules import ANY_PORT, ANY_SCHEME, Allowed, Refused, Rule, RuleIndex, expand_target, rule_id
from fazt.core.url import Url, parse_url, rule_path
from fazt.errors import Reason


def allow(target: str, *, app: str = "", **settings: object) -> tuple[Rule, ...]:
    return expand_target(target, scope=app, **settings)  # type: ignore[arg-type]


def deny(target: str, *, app: str = "", **settings: object) -> tuple[Rule, ...]:
    return expand_target(target, scope=app, action="deny", **settings)  # type: ignore[arg-type]


def verdict(
    rules: Iterable[Sequence[Rule]] | RuleIndex, url: str, *, app: str = "a1", method: str = "GET"
) -> Rule | Reason:
    index = rules if isinstance(rules, RuleIndex) else RuleIndex.build(itertools.chain.from_iterable(rules))
    match index.decide(app=app, url=parse_url(url), method=method):
        case Allowed(rule=rule):
            return rule
        case Refused(reason=reason):
            return reason


def allowed(rules: Iterable[Sequence[Rule]], url: str, *, app: str = "a1", method: str = "GET") -> bool:
    return isinstance(verdict(rules, url, app=app, method=method), Rule)


# Tiers


def test_nothing_granted_means_nothing_allowed() -> None:
    assert verdict([], "https://api.x.com/") is Reason.HOST_NOT_GRANTED


def test_F24_the_most_specific_tier_wins_whatever_the_order_of_the_rows() -> None:
    rows = [
        allow("api.eu.x.com", app="a1", rate=1),
        allow("*.eu.x.com", app="a1", rate=2),
        allow("*.x.com", app="a1", rate=3),
        allow("api.eu.x.com", rate=4),
        allow("*.eu.x.com", rate=5),
        allow("*.x.com", rate=6),
    ]
    for first in range(len(rows)):
        remaining = rows[first:]
        for order in (remaining, remaining[::-1], remaining[1:] + remaining[:1]):
            winner = verdict(order, "https://api.eu.x.com/")
            assert isinstance(winner, Rule)
            assert winner.rate == first + 1


def test_F24_a_call_decides_on_the_snapshot_it_holds() -> None:
    before = RuleIndex.build(allow("api.x.com", rate=1))
    after = before.replacing({("", "api.x.com"): ()})
    assert isinstance(verdict(before, "https://api.x.com/"), Rule)
    assert verdict(after, "https://api.x.com/") is Reason.HOST_NOT_GRANTED


@pytest.mark.parametrize(
    ("narrow", "url", "method", "reason"),
    [
        ({"target": "http://api.x.com"}, "https://api.x.com/", "GET", Reason.SCHEME_NOT_ALLOWED),
        ({"target": "https://api.x.com:8443"}, "https://api.x.com/", "GET", Reason.PORT_NOT_GRANTED),
        ({"target": "api.x.com", "methods": ["POST"]}, "https://api.x.com/", "GET", Reason.METHOD_NOT_GRANTED),
        ({"target": "api.x.com", "paths": ["/v1"]}, "https://api.x.com/v2", "GET", Reason.PATH_NOT_GRANTED),
    ],
)
@pytest.mark.parametrize("wide", [("*.x.com", "a1"), ("api.x.com", ""), ("*.x.com", "")])
def test_a_mismatch_in_the_final_tier_is_refused_with_its_own_reason_and_no_wider_tier_is_asked(
    narrow: dict[str, object], url: str, method: str, reason: Reason, wide: tuple[str, str]
) -> None:
    target, app = wide
    rules = [expand_target(scope="a1", **narrow), allow(target, app=app, http=True)]  # type: ignore[arg-type]
    assert verdict(rules, url, method=method) is reason


def test_each_wildcard_is_a_tier_of_its_own() -> None:
    rules = [allow("*.eu.x.com", methods=["GET"]), allow("*.x.com")]
    assert verdict(rules, "https://api.eu.x.com/", method="POST") is Reason.METHOD_NOT_GRANTED
    assert allowed(rules, "https://api.us.x.com/", method="POST")


def test_the_first_failing_gate_names_the_reason() -> None:
    rules = [allow("https://api.x.com:8443", methods=["POST"], paths=["/v1"])]
    assert verdict(rules, "http://api.x.com:8443/v2", method="GET") is Reason.SCHEME_NOT_ALLOWED
    assert verdict(rules, "https://api.x.com/v2", method="GET") is Reason.PORT_NOT_GRANTED
    assert verdict(rules, "https://api.x.com:8443/v2", method="GET") is Reason.METHOD_NOT_GRANTED
    assert verdict(rules, "https://api.x.com:8443/v2", method="POST") is Reason.PATH_NOT_GRANTED
    assert allowed(rules, "https://api.x.com:8443/v1", method="POST")


def test_gates_are_asked_of_one_rule_not_of_several_together() -> None:
    rules = [allow("api.x.com", methods=["GET"], paths=["/read"]), allow("api.x.com", methods=["POST"], paths=["/w"])]
    assert verdict(rules, "https://api.x.com/w", method="GET") is Reason.PATH_NOT_GRANTED
    assert verdict(rules, "https://api.x.com/w", method="PUT") is Reason.METHOD_NOT_GRANTED
    assert allowed(rules, "https://api.x.com/w", method="POST")


def test_a_wildcard_reaches_any_depth_but_not_its_own_domain() -> None:
    rules = [allow("*.x.com")]
    assert allowed(rules, "https://a.x.com/")
    assert allowed(rules, "https://" + "deep." * 40 + "x.com/")
    for url in ("https://x.com/", "https://ax.com/", "https://x.com.evil.net/", "https://a.x.com.evil.net/"):
        assert verdict(rules, url) is Reason.HOST_NOT_GRANTED


def test_an_apps_rule_is_for_that_app_alone() -> None:
    rules = [allow("api.x.com", app="a1")]
    assert allowed(rules, "https://api.x.com/", app="a1")
    for other in ("a2", "", "A1", "a1 "):
        assert verdict(rules, "https://api.x.com/", app=other) is Reason.HOST_NOT_GRANTED


def test_the_operators_own_calls_follow_the_rules_of_all_apps() -> None:
    rules = [allow("api.x.com", rate=1), allow("api.x.com", app="a1", rate=2)]
    winner = verdict(rules, "https://api.x.com/", app="")
    assert isinstance(winner, Rule)
    assert winner.rate == 1


def test_the_winning_rule_alone_supplies_the_settings() -> None:
    rules = [allow("api.x.com", app="a1", rate=7), allow("api.x.com", timeout_ms=900, cache_ttl=60)]
    winner = verdict(rules, "https://api.x.com/")
    assert isinstance(winner, Rule)
    assert (winner.rate, winner.timeout_ms, winner.cache_ttl) == (7, 0, 0)


# Methods and paths inside a tier


def test_the_longest_path_prefix_wins() -> None:
    rules = [allow("x.com", rate=1), allow("x.com", paths=["/v1"], rate=2), allow("x.com", paths=["/v1/a"], rate=3)]
    for path, rate in [("/", 1), ("/v10", 1), ("/v1", 2), ("/v1/", 2), ("/v1/b/a", 2), ("/v1/a", 3), ("/v1/a/b/c", 3)]:
        winner = verdict(rules, f"https://x.com{path}")
        assert isinstance(winner, Rule)
        assert winner.rate == rate, path


@pytest.mark.parametrize("prefix", ["/v1", "/v1/"])
def test_paths_match_on_segment_boundaries(prefix: str) -> None:
    rules = [allow("x.com", paths=[prefix])]
    for path in ("/v1", "/v1/", "/v1/x", "/v1/x/y?q=/..", "/%76%31/x", "/a/../v1/x", "/v1//x"):
        assert allowed(rules, f"https://x.com{path}"), path
    for path in ("", "/", "/v10", "/v1.json", "/V1", "/v1;a", "/v1/../v2", "/x/v1", "//v1"):
        assert verdict(rules, f"https://x.com{path}") is Reason.PATH_NOT_GRANTED, path


def test_a_slash_alone_restricts_nothing() -> None:
    rules = [allow("x.com", paths=["/"])]
    assert allowed(rules, "https://x.com/any%2fthing/%2e%2e/")


def test_with_equal_paths_the_rule_that_names_fewer_methods_wins() -> None:
    rules = [
        allow("x.com", rate=1),
        allow("x.com", methods=["GET", "PUT", "POST"], rate=2),
        allow("x.com", methods=["GET", "PUT"], rate=3),
        allow("x.com", methods=["GET"], rate=4),
    ]
    for order in itertools.permutations(rules):
        for method, rate in [("GET", 4), ("PUT", 3), ("POST", 2), ("DELETE", 1)]:
            winner = verdict(order, "https://x.com/", method=method)
            assert isinstance(winner, Rule)
            assert winner.rate == rate


_UNCLEAR = [
    "/v1/%2e%2e/x",
    "/v1/.%2E/x",
    "/v1/%5c..%5cx",
    "/v1/x%00",
    "/v1/..;/x",
    "/v1/.;a=b/x",
    "/v1/a%252fb",
    "/v1/%",
]


@pytest.mark.parametrize("path", [*_UNCLEAR, "/v1/a%2fb", "/v1/a%2F..%2Fb"])
def test_an_unclear_path_is_refused_when_the_winning_rule_restricts_paths_and_passes_when_it_does_not(
    path: str,
) -> None:
    assert verdict([allow("x.com", paths=["/v1"])], f"https://x.com{path}") is Reason.PATH_NOT_GRANTED
    assert allowed([allow("x.com")], f"https://x.com{path}")


def test_an_encoded_slash_is_a_slash_to_a_rule_that_says_so() -> None:
    rules = [allow("x.com", paths=["/@scope"], path_encoded_slash=True)]
    for path in ("/@scope%2fname", "/@scope%2Fname/-/name.tgz", "/%40scope%2fname", "/@scope/name"):
        assert allowed(rules, f"https://x.com{path}"), path
    for path in ("/@scope2%2fname", "/@scope%2f..%2fother", "/@scope/..%2fother", "/@scope%2f%2e%2e", "/@scope%252fx"):
        assert verdict(rules, f"https://x.com{path}") is Reason.PATH_NOT_GRANTED, path


def test_each_rule_reads_an_encoded_slash_its_own_way_and_the_longest_prefix_still_wins() -> None:
    strict, lenient = (
        allow("x.com", paths=["/v1"], rate=1),
        allow("x.com", paths=["/v1/x"], rate=2, path_encoded_slash=True),
    )
    winner = verdict([strict, lenient], "https://x.com/v1/x%2fy")
    assert isinstance(winner, Rule)
    assert winner.rate == 2
    assert verdict([strict, lenient], "https://x.com/v1/y%2fx") is Reason.PATH_NOT_GRANTED
    lenient, strict = (
        allow("x.com", paths=["/a"], rate=1, path_encoded_slash=True),
        allow("x.com", paths=["/a/b"], rate=2),
    )
    winner = verdict([strict, lenient], "https://x.com/a%2fb")
    assert isinstance(winner, Rule)
    assert winner.rate == 1
    assert verdict([strict, lenient], "https://x.com/a/b/x%2fy") is Reason.PATH_NOT_GRANTED


# Denies


@pytest.mark.parametrize("granted", [("api.x.com", "a1"), ("*.x.com", "a1"), ("api.x.com", ""), ("*.x.com", "")])
@pytest.mark.parametrize("denied", [("api.x.com", "a1"), ("*.x.com", "a1"), ("api.x.com", ""), ("*.x.com", "")])
def test_a_deny_beats_every_allow_in_every_tier(granted: tuple[str, str], denied: tuple[str, str]) -> None:
    rules = [allow(granted[0], app=granted[1]), deny(denied[0], app=denied[1])]
    assert verdict(rules, "https://api.x.com/") is Reason.DENIED_BY_RULE


def test_a_deny_of_a_bare_domain_covers_every_scheme_and_port() -> None:
    rules = [allow("x.com", http=True, ports=[443, 80, 8443]), deny("x.com")]
    for url in ("https://x.com/", "http://x.com/", "https://x.com:8443/", "http://x.com:8443/"):
        assert verdict(rules, url) is Reason.DENIED_BY_RULE


def test_a_deny_of_an_origin_covers_that_origin() -> None:
    rules = [allow("x.com", http=True), allow("https://x.com:8443"), deny("http://x.com")]
    assert verdict(rules, "http://x.com/") is Reason.DENIED_BY_RULE
    assert allowed(rules, "https://x.com/")
    assert allowed(rules, "https://x.com:8443/")


def test_a_deny_of_a_port_covers_both_schemes_there() -> None:
    rules = [allow("x.com", http=True, ports=[8080, 443]), deny("x.com", ports=[8080])]
    assert verdict(rules, "https://x.com:8080/") is Reason.DENIED_BY_RULE
    assert verdict(rules, "http://x.com:8080/") is Reason.DENIED_BY_RULE
    assert allowed(rules, "https://x.com/")


def test_a_deny_covers_what_it_names_and_no_more() -> None:
    rules = [
        allow("x.com"),
        allow("*.x.com"),
        deny("x.com", methods=["DELETE"]),
        deny("x.com", paths=["/admin"], methods=["POST"]),
        deny("*.y.x.com", app="a2"),
    ]
    assert verdict(rules, "https://x.com/", method="DELETE") is Reason.DENIED_BY_RULE
    assert verdict(rules, "https://x.com/admin/x", method="POST") is Reason.DENIED_BY_RULE
    assert allowed(rules, "https://x.com/admin/x")
    assert allowed(rules, "https://x.com/administrator", method="POST")
    assert allowed(rules, "https://a.y.x.com/")
    assert verdict(rules, "https://a.y.x.com/", app="a2") is Reason.DENIED_BY_RULE
    assert allowed(rules, "https://y.x.com/", app="a2")


def test_a_host_that_is_only_denied_does_not_end_the_search_for_an_allow() -> None:
    rules = [deny("api.x.com", app="a1", methods=["POST"]), allow("*.x.com")]
    assert allowed(rules, "https://api.x.com/")
    assert verdict([deny("api.x.com", methods=["POST"])], "https://api.x.com/") is Reason.HOST_NOT_GRANTED


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "/admin/",
        "/admin/x",
        "/%61dmin",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/admin;x=1/users",
        "/;/admin",
        "/admin%2fusers",
        "/x%2f..%2fadmin",
        "/x/..;/admin",
        "/%2e/admin",
        "/x%5c..%5cadmin",
        "/admin%00",
        "/x/%252e%252e/admin",
    ],
)
def test_a_path_deny_is_not_dodged_by_another_spelling(path: str) -> None:
    assert verdict([allow("x.com"), deny("x.com", paths=["/admin"])], f"https://x.com{path}") is Reason.DENIED_BY_RULE


def test_a_path_deny_may_read_encoded_slashes_too() -> None:
    rules = [allow("x.com"), deny("x.com", paths=["/@evil"], path_encoded_slash=True)]
    assert allowed(rules, "https://x.com/@good%2fname")
    for path in ("/@evil%2fname", "/@good%2f..%2f@evil", "/%2f@evil"):
        assert verdict(rules, f"https://x.com{path}") is Reason.DENIED_BY_RULE, path


def test_a_wildcard_scheme_or_port_grants_nothing_in_an_allow() -> None:
    rule = Rule("r_x", "", "allow", ANY_SCHEME, "x.com", ANY_PORT)
    assert verdict([[rule]], "https://x.com/") is Reason.SCHEME_NOT_ALLOWED


def test_a_refusal_tells_the_operator_what_is_granted() -> None:
    index = RuleIndex.build([*allow("x.com", methods=["GET"]), *deny("y.com")])
    refused = index.decide(app="", url=parse_url("https://x.com/"), method="POST")
    assert refused == Refused(Reason.METHOD_NOT_GRANTED, None, "granted: GET")
    refused = index.decide(app="", url=parse_url("https://x.com:99/"), method="GET")
    assert refused == Refused(Reason.PORT_NOT_GRANTED, None, "granted: https on port 443")
    refused = index.decide(app="", url=parse_url("https://y.com/"), method="GET")
    assert isinstance(refused, Refused)
    assert refused.rule == deny("y.com")[0]
    assert refused.detail == "deny y.com for all apps"


# Against a model that knows nothing of indexes

_METHODS = ("GET", "POST", "PUT")
_PATHS = ("", "/v1", "/v1/x", "/v10", "/a", "/a/b/c")
_rules = st.builds(
    lambda scope, action, scheme, pattern, port, methods, path, flag: Rule(
        rule_id(key := (scope, action, scheme, pattern, port, tuple(sorted(methods)), path)),
        *key[:5],
        methods=methods,
        path=path,
        path_encoded_slash=flag,
    ),
    st.sampled_from(["", "a1", "a2"]),
    st.sampled_from(["allow", "allow", "allow", "deny"]),
    st.sampled_from(["https", "https", "http", ANY_SCHEME]),
    st.sampled_from(["x.com", "a.x.com", "b.a.x.com", "*.x.com", "*.a.x.com", "*.com", "y.com"]),
    st.sampled_from([443, 443, 80, 8443, ANY_PORT]),
    st.frozensets(st.sampled_from(_METHODS), max_size=2),
    st.sampled_from(_PATHS),
    st.booleans(),
)
_rule_sets = st.lists(_rules, max_size=30, unique_by=lambda rule: rule.key)
_segments = st.sampled_from(
    ["v1", "v1", "x", "v10", "a", "a", "b", "c", "a%2Fb", "v1%2fx", "", "a;p=1", "%2e", "..;", "%76"]
)
_urls = st.builds(
    lambda scheme, host, port, segments: parse_url(f"{scheme}://{host}{port}/{'/'.join(segments)}"),
    st.sampled_from(["https", "https", "http"]),
    st.sampled_from(["x.com", "a.x.com", "b.a.x.com", "c.b.a.x.com", "y.com", "com", "z.y.com"]),
    st.sampled_from(["", "", ":443", ":8443"]),
    st.lists(_segments, max_size=4),
)


def _host_matches(pattern: str, host: str) -> bool:
    if pattern[:2] == "*.":
        parts = pattern[2:].split(".")
        return host.split(".")[-len(parts) :] == parts and len(host.split(".")) > len(parts)
    return pattern == host


def _below(path: str, prefix: str) -> bool:
    have, want = path.split("/"), prefix.split("/")
    return not prefix or have[: len(want)] == want


def _as_slashes(path: str) -> str:
    return path.replace("%2F", "/")


def _denies(rule: Rule, url: Url, method: str) -> bool:
    path = rule_path(url)
    if rule.scheme not in (url.scheme, "*") or rule.port not in (url.port, 0):
        return False
    if rule.methods and method not in rule.methods:
        return False
    if not rule.path or path.ambiguous or (path.encoded_slash and not rule.path_encoded_slash):
        return True
    bare = "/" + "/".join(s for s in (part.split(";")[0] for part in _as_slashes(path.path).split("/")) if s)
    return any(_below(reading, rule.path) for reading in (path.path, _as_slashes(path.path), bare))


def _reference(rules: Sequence[Rule], app: str, url: Url, method: str) -> Rule | Reason:
    mine = [rule for rule in rules if rule.scope in ("", app) and _host_matches(rule.pattern, url.host)]
    if any(_denies(rule, url, method) for rule in mine if rule.action == "deny"):
        return Reason.DENIED_BY_RULE
    allows = [rule for rule in mine if rule.action == "allow"]
    if not allows:
        return Reason.HOST_NOT_GRANTED

    def tier(rule: Rule) -> tuple[bool, bool, int]:
        return (rule.scope != app, rule.pattern.startswith("*."), -len(rule.pattern))

    left = [rule for rule in allows if tier(rule) == min(map(tier, allows))]
    left = [rule for rule in left if rule.scheme == url.scheme]
    if not left:
        return Reason.SCHEME_NOT_ALLOWED
    left = [rule for rule in left if rule.port == url.port]
    if not left:
        return Reason.PORT_NOT_GRANTED
    left = [rule for rule in left if not rule.methods or method in rule.methods]
    if not left:
        return Reason.METHOD_NOT_GRANTED
    path = rule_path(url)
    readings = {False: path.path, True: _as_slashes(path.path)}
    left = [rule for rule in left if _below(readings[rule.path_encoded_slash], rule.path)]
    if not left:
        return Reason.PATH_NOT_GRANTED
    winner = min(left, key=lambda rule: (-len(rule.path), len(rule.methods) or 99, rule.id))
    if winner.path and (path.ambiguous or (path.encoded_slash and not winner.path_encoded_slash)):
        return Reason.PATH_NOT_GRANTED
    return winner


@settings(max_examples=300, deadline=None)
@given(
    rules=_rule_sets,
    app=st.sampled_from(["", "a1", "a2", "a3"]),
    url=_urls,
    method=st.sampled_from([*_METHODS, "HEAD"]),
)
def test_the_index_decides_as_the_contract_reads(rules: list[Rule], app: str, url: Url, method: str) -> None:
    decision = RuleIndex.build(rules).decide(app=app, url=url, method=method)
    expected = _reference(rules, app, url, method)
    match decision:
        case Allowed(rule=rule):
            assert rule is expected
        case Refused(reason=reason, rule=rule):
            assert reason is expected
            if reason is Reason.DENIED_BY_RULE:
                assert rule is not None
                assert rule.action == "deny"
                assert _denies(rule, url, method)


@settings(max_examples=60, deadline=None)
@given(st.lists(_rule_sets, min_size=1, max_size=4), _urls)
def test_a_changed_index_equals_one_built_afresh(steps: list[list[Rule]], url: Url) -> None:
    index = RuleIndex.build(steps[0])
    for rules in steps[1:]:
        keys = {(rule.scope, rule.pattern) for rule in [*index.rules(), *rules]}
        index = index.replacing({key: [r for r in rules if (r.scope, r.pattern) == key] for key in keys})
        fresh = RuleIndex.build(rules)
        assert len(index) == len(fresh) == len(rules)
        assert set(index.rules()) == set(rules)
        for app, method in itertools.product(("", "a1"), _METHODS):
            assert index.decide(app=app, url=url, method=method) == fresh.decide(app=app, url=url, method=method)


def test_removing_one_wildcard_leaves_others_of_its_depth_in_force() -> None:
    index = RuleIndex.build([*allow("*.x.com"), *allow("*.y.com"), *allow("*.x.com", app="a1")])
    for app, pattern in (("", "*.x.com"), ("a1", "*.x.com")):
        index = index.replacing({(app, pattern): ()})
        assert isinstance(verdict(index, "https://a.y.com/"), Rule)
    assert verdict(index, "https://a.x.com/") is Reason.HOST_NOT_GRANTED
    index = index.replacing({("", "*.y.com"): allow("*.y.com", rate=9), ("", "*.never.there.com"): ()})
    assert isinstance(verdict(index, "https://a.y.com/"), Rule)
    assert verdict(index.replacing({("", "*.y.com"): ()}), "https://a.y.com/") is Reason.HOST_NOT_GRANTED


# Size


@pytest.fixture(scope="module")
def large() -> RuleIndex:
    hosts = [f"h{n}.example{n % 7}.com" for n in range(100_000)]
    return RuleIndex.build(Rule(f"r_{n}", "", "allow", "https", host, 443) for n, host in enumerate(hosts))


def test_changing_one_host_among_100_000_leaves_the_other_shards_as_they_are(large: RuleIndex) -> None:
    changed = large.replacing({("", "h5.example5.com"): [Rule("r_new", "", "allow", "https", "h5.example5.com", 443)]})
    before, after = large._shards, changed._shards
    touched = [n for n in range(len(before)) if before[n] is not after[n]]
    assert len(touched) == 1
    shard = before[touched[0]]
    same = [key for key in shard if shard[key] is after[touched[0]][key]]
    assert len(same) == len(shard) - 1
    assert (len(large), len(changed)) == (100_000, 100_000)
    assert max(map(len, after)) < 3 * 100_000 / len(after)
    assert isinstance(winner := verdict(changed, "https://h5.example5.com/"), Rule)
    assert winner.id == "r_new"
    assert isinstance(old := verdict(large, "https://h5.example5.com/"), Rule)
    assert old.id == "r_5"


class _Counting(dict[object, object]):
    looked_up = 0

    def get(self, key: object, default: object = None, /) -> object:
        type(self).looked_up += 1
        return super().get(key, default)


def _look_ups(index: RuleIndex, url: str) -> int:
    counted = RuleIndex(
        tuple(_Counting(shard) for shard in index._shards),  # type: ignore[misc]
        wildcards=index._wildcards,
        count=len(index),
    )
    _Counting.looked_up = 0
    counted.decide(app="a1", url=parse_url(url), method="GET")
    return _Counting.looked_up


def test_the_number_of_rules_does_not_change_what_a_decision_looks_at(large: RuleIndex) -> None:
    small = RuleIndex.build(allow("h5.example5.com"))
    for url in ("https://h5.example5.com/", "https://unknown.example5.com/"):
        assert _look_ups(large, url) == _look_ups(small, url) == 2
    wild = allow("*.example5.com")
    large = large.replacing({("", "*.example5.com"): wild})
    assert _look_ups(large, "https://" + "a." * 100 + "example5.com/") == 4
    gone = large.replacing({("", "*.example5.com"): ()})
    assert _look_ups(gone, "https://" + "a." * 100 + "example5.com/") == 2


def test_many_paths_on_one_host_are_found_by_their_segments() -> None:
    rules = [Rule(f"r_{n}", "", "allow", "https", "x.com", 443, path=f"/p{n}/q") for n in range(20_000)]
    index = RuleIndex.build(rules)
    winner = verdict(index, "https://x.com/p777/q/r/s")
    assert winner is rules[777]
    assert verdict(index, "https://x.com/p777/" + "a/" * 5000) is Reason.PATH_NOT_GRANTED


def test_a_rule_under_another_hosts_key_is_a_bug_and_not_a_grant() -> None:
    with pytest.raises(ValueError, match="another host"):
        RuleIndex.build([]).replacing({("", "x.com"): allow("y.com")})


def test_tiers_lists_what_names_a_host_in_the_order_of_asking() -> None:
    rules = [allow("*.x.com"), allow("a.x.com"), allow("*.x.com", app="a1"), deny("a.x.com", app="a1"), allow("y.com")]
    index = RuleIndex.build(itertools.chain.from_iterable(rules))
    named = [[str(rule) for rule in tier] for tier in index.tiers(app="a1", host="a.x.com")]
    assert named == [
        ["deny a.x.com for app a1"],
        ["allow https://*.x.com for app a1"],
        ["allow https://a.x.com for all apps"],
        ["allow https://*.x.com for all apps"],
    ]
