"""The URL gate against the web platform tests: agree with the WHATWG standard, or refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fazt.core.url import DEFAULT_PORTS, Url, parse_host, parse_url
from fazt.errors import FaztError

DATA = Path(__file__).parent / "data" / "wpt-url"
CASES: list[dict[str, Any]] = [
    case for case in json.loads((DATA / "urltestdata.json").read_text("utf-8")) if isinstance(case, dict)
]
HOSTS: list[dict[str, Any]] = [
    case for case in json.loads((DATA / "toascii.json").read_text("utf-8")) if isinstance(case, dict)
]

# Absolute http(s) cases that hold none of the mandatory refusals and are refused all the same. No "//": where there is
# a base they are relative references. The others: labels on which ada and idna disagree, as contracts.md has it.
EXCEPTIONS = {
    "http:/example.com/",
    "https:/example.com/",
    "http:example.com/",
    "https:example.com/",
    "http://a.b.c.xn--pokxncvks",
    "http://10.0.0.xn--pokxncvks",
    "http://a.b.c.XN--pokxncvks",
    "http://a.b.c.Xn--pokxncvks",
    "http://10.0.0.XN--pokxncvks",
    "http://10.0.0.xN--pokxncvks",
    "http://!\"$&'()*+,-.;=_`{}~/",
    "https://%e2%98%83",
    "https://xn--/",
}
DISAGREED_LABELS = {case for case in EXCEPTIONS if "xn--" in case.lower() or "%e2" in case or "!" in case}


def gate(case: dict[str, Any]) -> Url | None:
    try:
        base = parse_url(case["base"]) if case.get("base") else None
    except FaztError:
        base = None  # a base that fazt would not fetch sends no redirects; the input may still be absolute
    try:
        return parse_url(case["input"], base=base)
    except FaztError:
        return None


def must_be_refused(case: dict[str, Any]) -> bool:
    """Contracts, "refused always": read off the standard's own result, not by the gate."""
    if re.search(r"[\x00-\x20\x7f\\]", case["input"]) or case["username"] or case["password"] or case["port"] == "0":
        return True
    if re.match(r"https?:/*[^/?#]*@", case["input"]):
        return True
    host = case["hostname"]
    if host.startswith("[") or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", host):
        return True
    labels = host.removesuffix(".").split(".")
    return len(host) > 253 or not all(0 < len(label) <= 63 for label in labels)


def test_the_corpus_is_there() -> None:
    assert len(CASES) > 800
    assert len(HOSTS) > 80


def test_no_failure_case_is_accepted() -> None:
    assert [case["input"] for case in CASES if case.get("failure") and gate(case) is not None] == []


def test_accepted_cases_agree_on_scheme_host_port_and_target() -> None:
    agreed = 0
    for case in CASES:
        url = gate(case)
        if url is None or case.get("failure"):
            continue
        agreed += 1
        port = "" if DEFAULT_PORTS[url.scheme] == url.port else str(url.port)
        ours = (url.scheme + ":", url.host, port)
        assert ours == (case["protocol"], case["hostname"].removesuffix("."), case["port"]), case
        if "%2e" not in url.path.lower():
            assert (url.path, url.query or "") == (case["pathname"], case["search"].removeprefix("?")), case
    assert agreed > 100


def test_nine_of_ten_absolute_cases_are_accepted() -> None:
    # Absolute: read alone it is an http(s) URL. Where two cases have the same input, it counts once.
    absolute = {
        case["input"]: case
        for case in CASES
        if not case.get("failure")
        and case["protocol"] in ("http:", "https:")
        and not must_be_refused(case)
        and (case.get("base") is None or re.match(r"https?://", case["input"], re.IGNORECASE))
    }
    refused = {text for text, case in absolute.items() if gate({**case, "base": None}) is None}
    assert refused == EXCEPTIONS
    # contracts.md refuses labels on which the two parsers disagree, so those can't count against the gate.
    counted = len(absolute) - len(DISAGREED_LABELS)
    assert len(refused - DISAGREED_LABELS) / counted <= 0.10


def test_to_ascii_agrees_or_refuses() -> None:
    accepted = 0
    for case in HOSTS:
        try:
            host = parse_host(case["input"])
        except FaztError:
            continue
        assert case["output"] is not None, case
        assert host == case["output"].removesuffix("."), case
        accepted += 1
    assert accepted > 15
