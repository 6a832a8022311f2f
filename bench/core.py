"""Rows of the core and the pool: what must not grow with the number of rules or idle connections."""

from __future__ import annotations

from bench.measure import Row, paired
from fazt.core.call import Target
from fazt.core.rules import Rule, RuleIndex, rule_id
from fazt.core.url import parse_url
from fazt.net.pool import Pool, PoolLimits


def index(count: int) -> RuleIndex:
    """Return an index of `count` rules for as many hosts."""
    rules = []
    for number in range(count):
        key = ("", "allow", "https", f"host{number}.example.com", 443, (), "")
        rules.append(Rule(rule_id(key), "", "allow", "https", f"host{number}.example.com", 443))  # type: ignore[arg-type]
    return RuleIndex.build(rules)


def decide() -> list[Row]:
    """decide() with 10, 1,000 and 100,000 rules, for ten hosts in turn."""
    sizes = (10, 1_000, 100_000)
    runs = []
    for size in sizes:
        held = index(size)
        urls = [parse_url(f"https://host{number}.example.com/v1") for number in range(0, size, size // 10)]

        def run(n: int, held: RuleIndex = held, urls=urls) -> None:  # type: ignore[no-untyped-def]
            for _ in range(n // len(urls)):
                for url in urls:
                    held.decide(app="fazt_app_0", url=url, method="GET")

        runs.append(run)
    costs = paired(runs, 10_000, rounds=101)
    small = min(costs)
    return [
        Row(
            f"decide() with {size:,} rules",
            cost,
            "µs",
            "within 1.3x of each other",
            max(costs) <= 1.3 * small,
            "cheapest",
            small,
        )
        for size, cost in zip(sizes, costs, strict=True)
    ]


class _Idle:
    __slots__ = ()


def pool() -> list[Row]:
    """Take and give back a connection with 1 and with 1,000 idle connections to other origins."""
    runs = []
    for others in (1, 1_000):
        held: Pool[Target, _Idle] = Pool(PoolLimits(total=5_000, per_key=8, expiry=1e9))
        for number in range(others):
            held.put(Target("https", f"h{number}.example", 443, "", "t"), _Idle(), 0.0)
        mine = Target("https", "mine.example", 443, "", "t")
        held.put(mine, _Idle(), 0.0)

        def run(n: int, held=held, mine=mine) -> None:  # type: ignore[no-untyped-def]
            for _ in range(n):
                connection = held.take(mine, 1.0)
                assert connection is not None
                held.put(mine, connection, 1.0)

        runs.append(run)
    few, many = paired(runs, 10_000, rounds=101)
    return [
        Row("pool, 1,000 idle connections elsewhere", many, "µs", "≤ 1.2x", many <= 1.2 * few, "1 idle", few),
    ]
