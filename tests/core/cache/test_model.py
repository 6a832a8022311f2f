"""The cache against a plain model: whatever is asked, kept, renewed, invalidated and purged in whatever order."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from tests.core.cache.asked import NOW, ask, body_of, keep

from fazt.core.cache.memory import MemoryStore
from fazt.core.cache.responses import ResponseCache
from fazt.core.call import ResponseHead
from fazt.core.url import parse_url

LANGUAGES = ("en", "de")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["keep", "keep", "ask", "ask", "renew", "post", "purge", "wait"]),
        st.integers(0, 2),
        st.sampled_from(LANGUAGES),
        st.integers(0, 3),
    ),
    max_size=50,
)
KINDS = ("max-age=10", "max-age=10, no-cache", "no-store", "max-age=30, stale-while-revalidate=10")


@dataclass
class Held:
    """What the model holds of one URL and language."""

    body: bytes
    kind: int
    since: float


def _varied(number: int, language: str, **more: str):  # type: ignore[no-untyped-def]
    return ask(f"https://h{number}.test/", fields=(("Accept-Language", language),), **more)


def _expected(held: Held | None, now: float) -> bytes | None:
    if held is None or held.kind == 1:
        return None
    age = now - held.since
    return held.body if age < (10 if held.kind == 0 else 40) else None


@given(STEPS)
def test_the_cache_against_a_plain_model(steps: list[tuple[str, int, str, int]]) -> None:
    cache = ResponseCache(MemoryStore(1 << 20))
    model: dict[tuple[int, str], Held] = {}
    now, made = NOW, 0
    for what, number, language, kind in steps:
        now += 1
        request, key = _varied(number, language), (number, language)
        match what:
            case "keep":
                made += 1
                body = b"%d" % made
                fields = (("Cache-Control", KINDS[kind]), ("Vary", "Accept-Language"), ("ETag", f'"{made}"'))
                assert keep(cache, request, *fields, body=body, now=now) is (kind != 2)
                model.pop(key, None)
                if kind != 2:
                    model[key] = Held(body, kind, now)
            case "renew":
                found = cache.look(request, now=now)
                if found.entry is not None:
                    held = model[key]
                    tag = dict(found.fields)["If-None-Match"]
                    head = ResponseHead(304, (("ETag", tag),))
                    answer = cache.renew(
                        request, found.entry, head, requested_at=now, now=now, generation=cache.generation
                    )
                    assert answer is not None
                    assert answer[1] == held.body
                    held.since = now
            case "post":
                url = parse_url(f"https://h{number}.test/")
                gone = cache.invalidate(app="app1", url=url, status=204, fields=(), now=now)
                assert gone == sum((number, name) in model for name in LANGUAGES)
                for name in LANGUAGES:
                    model.pop((number, name), None)
            case "purge":
                gone = cache.purge(pattern=f"h{number}.test")
                assert gone == sum((number, name) in model for name in LANGUAGES)
                for name in LANGUAGES:
                    model.pop((number, name), None)
            case "wait":
                now += 10 * kind
            case _:
                pass
        assert body_of(cache, request, now=now) == _expected(model.get(key), now)
        assert cache.stats().items == len(model)
