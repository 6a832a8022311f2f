"""Every promise and every defect row has a test, and what the checklist cites exists."""

from __future__ import annotations

import re

import pytest
from tests.meta.names import CITED, ROOT, all_tests, missing

CHECKLIST = (ROOT / "docs" / "checklist.md").read_text("utf-8")
BUILT = [*range(1, 43), *range(44, 48), 52, 53, *range(57, 91)]
DEFECTS = [
    *(f"F{number}" for number in range(1, 30)),
    *(f"F30{letter}" for letter in "abcde"),
    *(f"F{number}" for number in range(31, 44)),
    *("F52", "F53", "F54", "F56", "F58", "F60", "F61"),
]
LATER = {
    "F44": "realtime",
    "F45": "realtime",
    "F46": "background workers",
    "F47": "background workers",
    "F48": "document store",
    "F49": "key-value store",
    "F50": "key-value store",
    "F51": "storage",
    "F55": "deploy keys",
    "F57": "the full activity log",
    "F59": "logins",
}
"""Rows of parts that are not built yet."""


GAPS = [f"E-{number}" for number in range(10, 18)]
OF_THE_CLIENT = [f"D{number}" for number in range(1, 56)]
CLAIMS = ("003:5", "003:194", "003:190", "003:199", "003:217", "003:248", "003:183", "002:29", "002:30", "002:27")
CLAIMS += ("002:35", "004:48", "004:55", "004:60")
"""Seed and line of what the sources claimed (D.4)."""
ALL = [*(f"R{number}" for number in BUILT), *GAPS, *OF_THE_CLIENT, *CLAIMS]


def rows() -> dict[str, str]:
    found = {}
    for line in CHECKLIST.splitlines():
        match = re.match(r"\| (R\d+|E-\d+|D\d+|\d{3}:\d+) \| ([^|]+) \| ([^|]+) \|$", line)
        if match is not None:
            assert match[1] not in found
            found[match[1]] = match[3]
    return found


def test_every_row_of_the_checklist_is_there_in_order() -> None:
    assert list(rows()) == ALL


@pytest.mark.parametrize("row", ALL)
def test_what_the_checklist_cites_exists(row: str) -> None:
    cited = rows()[row]
    assert CITED.findall(cited)
    assert CITED.sub("", cited).strip("` ") == "", "nothing but citations"
    assert missing(cited) == []


@pytest.mark.parametrize("defect", [*DEFECTS, *OF_THE_CLIENT])
def test_every_defect_row_has_a_test_named_after_it(defect: str) -> None:
    named = [name for _, name in all_tests() if re.search(rf"(?:^test|_){defect}_", name)]
    assert named, f"no test is named test_{defect}_…"


def test_no_test_is_named_after_a_row_that_there_is_not() -> None:
    known = {*DEFECTS, *LATER}
    odd = [
        name for _, name in all_tests() if (found := re.match(r"test_(F\d+[a-e]?)_", name)) and found[1] not in known
    ]
    assert odd == []
    assert not set(DEFECTS) & set(LATER)
    numbers = {int(re.sub(r"\D", "", row)) for row in known}
    assert numbers == set(range(1, 62))


def test_no_test_is_named_after_a_row_of_the_client_that_there_is_not() -> None:
    known = {*OF_THE_CLIENT, *(gap.replace("-", "") for gap in GAPS), *(f"E{number}" for number in range(1, 10))}
    named = {row for _, name in all_tests() for row in re.findall(r"(?:(?<=test_)|(?<=_))([DE]\d+)(?=_)", name)}
    assert named <= known


def test_the_matrix_is_whole() -> None:
    """28 numbered cases and five of the schema (A.22)."""
    names = [name for path, name in all_tests() if path == "tests/e2e/test_matrix.py"]
    cases = {
        int(number) for name in names if name.startswith("test_A22_") for number in re.findall(r"(?<=_)\d\d(?=_)", name)
    }
    assert cases == set(range(1, 29))
    assert {name[5:7] for name in names if re.match(r"test_S\d_", name)} == {"S1", "S2", "S3", "S4", "S5"}
