"""What of the pipeline is a plain question: whether a connection may still be kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.calls import APP, OTHER, policy, rule

from fazt.core.call import Target
from fazt.core.gates import still_granted
from fazt.core.rules import Rule, expand_target

HOST = "api.example.com"
RANGE = ("10.1.0.0/16",)
TARGET = Target("https", HOST, 443, APP.id, "system")


def deny(target: str = HOST, *, app: str = "", **options: object) -> Rule:
    (made,) = expand_target(target, scope=app, action="deny", **options)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize(
    ("rules", "target", "kept"),
    [
        ([rule(HOST)], TARGET, True),
        ([rule(HOST, methods=["GET"], paths=["/v1"])], TARGET, True),
        ([rule("*.example.com", app="")], TARGET, True),
        ([], TARGET, False),
        ([rule(HOST, app=OTHER.id)], TARGET, False),
        ([rule(HOST)], TARGET._replace(app="fazt_app_gone00000000"), False),
        ([rule("http://" + HOST)], TARGET, False),
        ([rule(f"https://{HOST}:8443")], TARGET, False),
        ([rule(HOST, addresses=RANGE)], TARGET._replace(grant=RANGE), True),
        ([rule(HOST)], TARGET._replace(grant=RANGE), False),
        ([rule(HOST, addresses=RANGE)], TARGET, False),
        # the first tier with an allow is final
        ([rule("http://" + HOST), rule("*.example.com", app="")], TARGET, False),
        # a deny of everything there takes the host back, whatever its tier; a narrower one does not
        ([rule(HOST), deny()], TARGET, False),
        ([rule(HOST), deny(app=APP.id)], TARGET, False),
        ([rule(HOST), deny("*.example.com")], TARGET, False),
        ([rule(HOST), deny(f"https://{HOST}")], TARGET, False),
        ([rule(HOST), deny(app=OTHER.id)], TARGET, True),
        ([rule(HOST), deny(f"http://{HOST}")], TARGET, True),
        ([rule(HOST), deny(ports=[8443])], TARGET, True),
        ([rule(HOST), deny(methods=["DELETE"])], TARGET, True),
        ([rule(HOST), deny(paths=["/admin"])], TARGET, True),
    ],
)
def test_a_connection_is_kept_while_something_may_use_it(rules: list[Rule], target: Target, kept: bool) -> None:
    assert still_granted(replace(policy(*rules), revision=2), target) is kept
