"""The pool's bookkeeping: last in, first out; limits; expiry; the same cost whatever else is idle."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fazt.net.pool import FUNCTIONS, NONE, Pool, PoolLimits, Turn, Turns


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


# --- turns


class TurnsMachine(RuleBasedStateMachine):
    """Against what must hold: never more than the limit, nobody waits where there is room, first come, first served."""

    LIMIT = 3

    def __init__(self) -> None:
        super().__init__()
        self.turns: Turns[str, int] = Turns(self.LIMIT)
        self.queue: list[Turn[str, int]] = []
        self.woken: list[Turn[str, int]] = []
        self.open = 0

    @rule(key=st.sampled_from("ab"), reuse=st.booleans())
    def enter(self, key: str, reuse: bool) -> None:
        entered = self.turns.enter()
        assert entered is (self.open < self.LIMIT and not self.queue)
        if entered:
            self.open += 1
            return
        turn: Turn[str, int] = Turn(key, lambda: self.woken.append(turn), reuse)
        self.turns.wait(turn)
        self.queue.append(turn)

    @precondition(lambda self: self.open > 0)
    @rule()
    def over(self) -> None:
        self.turns.over()
        if self.queue:
            first = self.queue.pop(0)
            assert self.woken.pop() is first
            assert first.come
            assert first.connection is None
        else:
            self.open -= 1

    @precondition(lambda self: self.open > 0)
    @rule(key=st.sampled_from("ab"))
    def offer(self, key: str) -> None:
        wanted = bool(self.queue) and self.queue[0].key == key and self.queue[0].reuse
        assert self.turns.offer(key, 7) is wanted
        if wanted:
            first = self.queue.pop(0)
            assert self.woken.pop() is first
            assert first.connection == 7

    @precondition(lambda self: bool(self.queue))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.queue))
        self.queue.remove(turn)
        assert self.turns.leave(turn)

    @precondition(lambda self: self.open == self.LIMIT)
    @rule(key=st.sampled_from("ab"))
    def come_back(self, key: str) -> None:
        turn: Turn[str, int] = Turn(key, lambda: self.woken.append(turn))
        self.turns.wait(turn, first=True)
        self.queue.insert(0, turn)

    @invariant()
    def holds(self) -> None:
        self.turns.admit()
        assert not self.woken
        assert self.turns.open == self.open <= self.LIMIT
        assert self.turns.waiting is bool(self.queue)


TestTurnsProperty = TurnsMachine.TestCase
TestTurnsProperty.settings = settings(max_examples=30)


def test_a_turn_that_came_can_t_be_left() -> None:
    turns: Turns[str, int] = Turns(1)
    assert turns.enter()
    turn: Turn[str, int] = Turn("a", lambda: None)
    turns.wait(turn)
    turns.over()
    assert not turns.leave(turn)


def test_without_a_limit_everybody_enters() -> None:
    turns: Turns[str, int] = Turns(0)
    assert all(turns.enter() for _ in range(1000))
    assert turns.open == 1000
