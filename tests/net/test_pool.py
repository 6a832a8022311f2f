"""The pool's bookkeeping: last in, first out; limits; expiry; the same cost whatever else is idle."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fazt.net.pool import FUNCTIONS, NONE, Pool, PoolLimits


def pool(total: int = 4, per_key: int = 2, expiry: float = 10.0) -> Pool[str, str]:
    return Pool(PoolLimits(total, per_key, expiry))


def test_numbers_of_the_functions_door() -> None:
    assert PoolLimits(total=20, per_key=2, expiry=10.0) == FUNCTIONS


def test_the_last_one_used_is_taken_first() -> None:
    held = pool()
    held.put("a", "a1", 0)
    held.put("a", "a2", 1)
    held.put("b", "b1", 2)
    assert [held.take("a", 3), held.take("a", 3), held.take("a", 3)] == ["a2", "a1", None]
    assert held.take("b", 3) == "b1"
    assert len(held) == 0


def test_over_the_limit_of_a_key_its_oldest_goes() -> None:
    held = pool()
    assert held.put("a", "a1", 0) == ()
    assert held.put("a", "a2", 1) == ()
    assert held.put("a", "a3", 2) == ("a1",)
    assert len(held) == 2


def test_over_the_total_the_oldest_of_all_goes() -> None:
    held = pool(total=3)
    for now, key in enumerate("abc"):
        assert held.put(key, key + "1", now) == ()
    assert held.put("d", "d1", 3) == ("a1",)
    assert held.take("a", 3) is None
    assert held.take("b", 3) == "b1"


def test_nothing_is_kept_without_room() -> None:
    held: Pool[str, str] = Pool(NONE)
    assert held.put("a", "a1", 0) == ("a1",)
    assert held.take("a", 0) is None


def test_an_expired_one_is_neither_taken_nor_kept() -> None:
    held = pool(expiry=10)
    held.put("a", "a1", 0)
    held.put("b", "b1", 5)
    assert held.next_expiry() == 10
    assert held.take("a", 10) is None
    assert held.expire(9.9) == []
    assert held.expire(10) == ["a1"]
    assert held.next_expiry() == 15
    assert held.take("b", 14) == "b1"
    assert held.next_expiry() is None


def test_drop_remove_and_clear() -> None:
    held = pool()
    held.put("a", "a1", 0)
    held.put("b", "b1", 0)
    held.put("b", "b2", 0)
    assert held.drop(lambda key: key == "b") == ["b1", "b2"]
    assert not held.remove("b1")
    assert held.remove("a1")
    held.put("c", "c1", 0)
    assert held.clear() == ["c1"]
    assert len(held) == 0


class _Counted(str):
    """A key that counts how often it is compared or hashed."""

    steps = 0

    def __hash__(self) -> int:
        _Counted.steps += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        _Counted.steps += 1
        return super().__eq__(other)


def _steps(others: int) -> int:
    held: Pool[_Counted, object] = Pool(PoolLimits(5_000, 5_000, 1e9))
    for index in range(others):
        held.put(_Counted(f"other{index}"), object(), 0)
    for _ in range(others):
        held.put(_Counted("full"), object(), 0)
    _Counted.steps = 0
    for _ in range(100):
        held.put(_Counted("mine"), object(), 1)
        assert held.take(_Counted("mine"), 1) is not None
    return _Counted.steps


def test_cost_does_not_grow_with_what_is_idle_elsewhere() -> None:
    assert _steps(1_000) <= _steps(1) + 20  # hash collisions apart


class PoolMachine(RuleBasedStateMachine):
    """Against a model that keeps a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.model: list[tuple[str, int, float]] = []
        self.now = 0.0
        self.made = 0
        self.pool: Pool[str, int] = Pool(PoolLimits(4, 2, 5))

    @rule(key=st.sampled_from("abc"))
    def put(self, key: str) -> None:
        self.made += 1
        self.model.append((key, self.made, self.now))
        surplus = None
        mine = [entry for entry in self.model if entry[0] == key]
        if len(mine) > 2:
            surplus = mine[0]
        elif len(self.model) > 4:
            surplus = self.model[0]
        if surplus is not None:
            self.model.remove(surplus)
        assert self.pool.put(key, self.made, self.now) == (() if surplus is None else (surplus[1],))

    @rule(key=st.sampled_from("abc"))
    def take(self, key: str) -> None:
        fresh = [entry for entry in self.model if entry[0] == key and self.now - entry[2] < 5]
        expected = fresh[-1] if fresh else None
        if expected is not None:
            self.model.remove(expected)
        assert self.pool.take(key, self.now) == (None if expected is None else expected[1])

    @rule(by=st.floats(0.1, 4))
    def wait(self, by: float) -> None:
        self.now += by

    @rule()
    def expire(self) -> None:
        old = [entry for entry in self.model if self.now - entry[2] >= 5]
        self.model = [entry for entry in self.model if entry not in old]
        assert self.pool.expire(self.now) == [entry[1] for entry in old]

    @rule(key=st.sampled_from("abc"))
    def drop(self, key: str) -> None:
        doomed = [entry for entry in self.model if entry[0] == key]
        self.model = [entry for entry in self.model if entry not in doomed]
        assert self.pool.drop(lambda other: other == key) == [entry[1] for entry in doomed]

    @invariant()
    def same_size(self) -> None:
        assert len(self.pool) == len(self.model)


TestPoolProperty = PoolMachine.TestCase
TestPoolProperty.settings = settings(max_examples=30)
