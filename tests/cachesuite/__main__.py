"""Print how many cases each cache passes."""

from __future__ import annotations

from collections import Counter

from tests.cachesuite.play import GUESSING, PRIVATE, SHARED, Player
from tests.cachesuite.table import TABLE


def main() -> None:
    """Play every case in every mode, and print what fails."""
    for kind in ("sync", "async"):
        for mode, rules in (("private", PRIVATE), ("shared", SHARED), ("guessing", GUESSING)):
            player = Player(kind, rules)
            passed: Counter[str] = Counter()
            all_of: Counter[str] = Counter()
            for category, cases in TABLE.items():
                for case in cases:
                    if case.mode in ("any", mode):
                        all_of[case.kind] += 1
                        wrong = player.play(case)
                        passed[case.kind] += not wrong
                        if wrong:
                            print(f"  {kind} {mode} {category} {case.kind} {case.name}: {wrong}")
            player.close()
            print(kind, mode, ", ".join(f"{name} {passed[name]} of {all_of[name]}" for name in all_of))


if __name__ == "__main__":
    main()
