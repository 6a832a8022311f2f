"""The one pipeline: every call of every door goes through `exchange()`, a generator that yields effects.

The order of the gates is the order of the architecture file. What a gate refuses is raised as a `FaztError`; what an
effect cannot do, the driver throws in. Nothing is cleaned up here: the driver's lease owns slot, token, connection
and record, and ends each once. There is no `finally` around a `yield` for the same reason.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fazt.core import headers as fields_of
from fazt.core.budget import Invocation, call_timeout, response_cap
from fazt.core.cache.decision import ERRORS, UNREACHED, Found
from fazt.core.cache.entry import Entry
from fazt.core.cache.request import SAFE, CacheRequest
from fazt.core.caching import as_cached, cached_here, stored
from fazt.core.call import (
    DEFAULTS,
    Earlier,
    Fields,
    Hop,
    Opened,
    Phases,
    Profile,
    Request,
    Response,
    ResponseHead,
    Target,
    Upload,
)
from fazt.core.effects import (
    Again,
    Discard,
    Effect,
    EnterSlot,
    Fill,
    Invalidate,
    Keep,
    LookUp,
    Moment,
    Pace,
    Read,
    Renew,
    Send,
    StandIn,
    TakeToken,
)
from fazt.core.gates import judge_rule, secret_for
from fazt.core.injection import Injection, plan
from fazt.core.profiles import STREAM_IDLE
from fazt.core.public import PUBLIC_PATTERN
from fazt.core.ratelimit import effective
from fazt.core.record import CallRecord
from fazt.core.redirects import STATUSES, Final, Follow, Leg, follow
from fazt.core.retry import Again as Retry
from fazt.core.retry import retry_after_of, was_sent
from fazt.core.rules import Rule
from fazt.core.url import parse_url
from fazt.errors import FaztError, Reason, StaleConnectionError
from fazt.version import __version__

if TYPE_CHECKING:
    from fazt.core.cache.responses import ResponseCache
    from fazt.core.policy import Policy
    from fazt.core.traffic import Traffic

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
"""Methods that may be sent again on a fresh connection (RFC 9110 section 9.2.2); TRACE is never sent."""

_MAX_NAME = 128  # what a script calls a secret waits in the log's buffer; no secret has a longer name


def exchange(
    request: Request,
    *,
    policy: Policy,
    profile: Profile,
    record: CallRecord,
    now: float,
    tls: str,
    invocation: Invocation | None = None,
    traffic: Traffic | None = None,
    cache: ResponseCache | None = None,
) -> Generator[Effect, Any, Response | Opened]:
    """Decide and carry out one call.

    Args:
        request: the call as the door made it.
        policy: the one snapshot that decides this call, redirects included.
        profile: the numbers of the door.
        record: filled while the call runs; the driver writes it.
        now: monotonic seconds at the start of the call.
        tls: id of the TLS configuration connections are made with.
        invocation: call counter and time budget shared by the calls of one handler run; None where a door has none.
        traffic: the limits that every trip to the network passes, None where there are none.
        cache: whose rules decide which calls are cached; None where nothing can be kept. The driver keeps.

    Returns (as the generator's value): the response, whole, within its caps and scrubbed; for a call that asks for a
    stream, the response without its body and the limits under which the driver hands that out.

    Raises:
        FaztError: the refusal or failure; `hop` says on which redirect hop it happened.
    """
    options = request.options
    record.revision = policy.revision
    record.method = request.method[:32]
    if options is not DEFAULTS:
        record.service, record.role = options.service, options.role
    if invocation is not None:
        invocation.count_call()
    if request.invalid is not None:
        raise FaztError(Reason.BAD_OPTION, request.invalid)
    url = parse_url(request.url)
    record.scheme, record.host, record.port, record.path = url.scheme, url.host, url.port, url.path
    record.method = method = fields_of.method(request.method)
    record.request_bytes = _size_of(request.body)
    record.auth = request.auth and request.auth[:_MAX_NAME]
    app = request.app
    for field, value in request.headers:
        if len(field) == 11 and field.lower() == "traceparent":
            record.trace = value[:55]
    # of this hop, as method and url
    headers, keep_secret = request.headers, True
    body: bytes | Upload | None = request.body if request.upload is None else request.upload
    phases = options.phases
    retry = options.retry
    if traffic is not None:
        retry = traffic.retry_for(options.service, retry)
        if phases is None and (seconds := traffic.read_timeout_for(options.service)) is not None:
            phases = Phases(read=seconds)
    idle = phases.read if phases is not None else STREAM_IDLE if options.stream else None
    visited: set[tuple[str, str]] = set()
    hops: tuple[Hop, ...] = ()
    history: tuple[Earlier, ...] = ()
    deadline = 0.0
    cap: int | None = None
    secret_params: set[str] = set()
    used_secret = False
    while True:
        try:
            rule = judge_rule(policy, app=app, url=url, method=method)
            record.rule_id = rule.id
            if body is not None:
                _check_size(max(_size_of(body), request.body_size), profile.max_request)
            name = request.auth if keep_secret else None
            if name is None:
                name = rule.inject or None
            # an empty name is none that exists: a variable that was not set must not send the call without its secret
            meta = secret_for(policy, app=app, name=name, url=url) if name is not None else None
            injection: Injection | None = None
            if meta is not None:
                record.auth = meta.name
                used_secret = True
                injection = plan(meta)
                if injection.parameter is not None:
                    secret_params.add(injection.parameter)
            # a secret that comes back in a coded body could not be found there, and be taken out
            coding = options.coding if injection is None else "identity"
            sent = fields_of.to_send(headers, injection.header if injection is not None else None, __version__, coding)
            if not hops:
                deadline = now + call_timeout(
                    now,
                    invocation,
                    option_ms=request.timeout_ms,
                    rule_ms=rule.timeout_ms,
                    limit_ms=None if options.stream else profile.call_ms,
                )
            elif rule.timeout_ms > 0:  # as with the cap: a call keeps within what each rule on its way allows
                deadline = min(deadline, now + rule.timeout_ms / 1000)
            cap = response_cap(
                rule=rule.max_response, limit=profile.max_response, hard=profile.hard_response, earlier=cap
            )
            if options.max_response is not None and options.max_response < cap:
                cap = options.max_response
            lookup: CacheRequest | None = None
            entry: Entry | None = None
            conditions: Fields = ()
            ours = cache if cache is not None and profile.cacheable and cached_here(cache, rule, hops) else None
            if ours is not None:
                lookup = as_cached(
                    request,
                    cache=ours,
                    policy=policy,
                    rule=rule,
                    method=method,
                    url=url,
                    fields=sent,
                    body=body is not None,
                    secret=meta,
                    first=not hops,
                )
                record.cache = "bypass" if lookup is None else "miss"
                if lookup is not None:
                    found: Found = yield LookUp(lookup, deadline, cap, profile, options.follow, options.stream)
                    if found.head is not None:
                        record.cache = found.cache
                        answer = found.head, found.body
                        return stored(answer, record, url=url, method=method, sent=headers, hops=hops, history=history)
                    entry, conditions = found.entry, found.fields
            if options.cache == "only-if-cached" and lookup is None:
                raise FaztError(Reason.NOT_CACHED, "there is no cache for this request")
            if not hops:
                yield EnterSlot(app, profile.app_slots, profile.global_slots)
            order = Send(
                Target(url.scheme, url.host, url.port, app, tls, rule.addresses),
                method,
                url,
                (*sent, *conditions) if conditions else sent,
                None if isinstance(body, Upload) else body,
                injection,
                deadline,
                False,
                body if isinstance(body, Upload) else None,
                phases,
            )
            number = 1
            while True:  # trips to the network; more than one only under a retry policy
                # of this trip alone: the body of one answer is never kept under the head of another
                content: bytes | None = None
                kept: bool | None = None
                trouble: FaztError | None = None
                head: ResponseHead | None = None
                try:
                    if traffic is not None:
                        yield Pace(url.host, options.service, options.role, method, deadline)
                    if rule.rate or profile.rate:
                        rate, burst = effective(
                            rule.rate, rule.burst, default_rate=profile.rate, default_burst=profile.burst
                        )
                        yield TakeToken(_bucket(policy, app, rule, host=url.host, rate=rate, burst=burst), rate, burst)
                    try:
                        head = yield order
                    except StaleConnectionError as stale:
                        if stale.sent and (method not in IDEMPOTENT or _spent(body)):
                            raise
                    if head is None:
                        head = yield replace(order, fresh=True)
                        assert head is not None
                    record.status = head.status
                    if conditions and head.status == 304:
                        assert lookup is not None
                        assert entry is not None
                        renewed = yield Renew(lookup, entry, head)
                        if renewed is not None:
                            record.cache = "revalidated"
                            return stored(
                                renewed, record, url=url, method=method, sent=headers, hops=hops, history=history
                            )
                        entry, conditions, order = None, (), replace(order, headers=sent)
                        yield Again(method, url, 0.0, None, None)
                        number += 1
                        record.number = number
                        record.status = None
                        continue
                    if retry is None or head.status not in retry.statuses:
                        if not (options.follow and head.status in STATUSES):
                            if lookup is not None and (entry is None or head.status not in ERRORS):
                                kept = yield Keep(lookup, head, entry)
                            if not options.stream:
                                content = yield Read(cap, deadline, idle)
                        break
                except FaztError as error:
                    if retry is None and not (entry is not None and error.reason in UNREACHED):
                        raise
                    trouble = error
                if retry is None:
                    break
                moment, wall, draw = yield Moment()
                decision = retry.decide(
                    attempt=number,
                    method=method,
                    headers=sent,
                    status=head.status if trouble is None and head is not None else None,
                    reason=trouble.reason if trouble is not None else None,
                    retry_after=_asked(head, trouble, wall),
                    replayable=not _spent(body),
                    sent=was_sent(trouble) if trouble is not None else True,
                    elapsed=moment - now,
                    left=deadline - moment,
                    draw=draw,
                )
                if not isinstance(decision, Retry) or (
                    # a refusal of the next trip would hide what became of this one
                    traffic is not None
                    and not traffic.closed_for(
                        url.host,
                        service=options.service,
                        role=options.role,
                        method=method,
                        now=moment + decision.delay,
                        left=deadline - moment - decision.delay,
                    )
                ):
                    if trouble is not None and not (entry is not None and trouble.reason in UNREACHED):
                        raise trouble
                    break
                yield Again(method, url, decision.delay, _asked(head, trouble, wall), trouble)
                number += 1
                record.number = number
                record.status = None
            if entry is not None and (trouble is not None or (head is not None and head.status in ERRORS)):
                assert lookup is not None
                stood_in = yield StandIn(lookup, entry, method, url, trouble)
                if stood_in is not None:
                    record.cache = "stale"
                    record.detail = trouble.reason.value if trouble is not None else f"status {record.status}"
                    return stored(stood_in, record, url=url, method=method, sent=headers, hops=hops, history=history)
                if trouble is not None:
                    raise trouble
            step: Final | Follow | None = None
            assert head is not None
            if ours is not None and method not in SAFE:
                yield Invalidate(app, url, head)
            if options.follow and head.status in STATUSES:
                visited.add((method, str(url)))
                if request.between is not None and fields_of.first(head.headers, "set-cookie") is not None:
                    visited.clear()  # the caller keeps cookies: with a new one the same request is another
                step = follow(
                    Leg(method, url, headers, body, keep_secret),
                    head,
                    followed=len(hops),
                    limit=profile.max_redirects if options.max_redirects is None else options.max_redirects,
                    visited=visited,
                    secret_headers=policy.secret_headers | options.sensitive,
                    secret_params=secret_params,
                    secret_used=used_secret,
                )
            if not isinstance(step, Follow):
                response = Response(
                    head.status,
                    head.headers,
                    b"",
                    url,
                    record.call_id,
                    hops,
                    record.cache,
                    method,
                    head.phrase,
                    head.version,
                    history,
                    headers,
                )
                if kept is None and lookup is not None:
                    kept = yield Keep(lookup, head, entry)
                if options.stream:
                    return Opened(response, cap, deadline, idle)
                if content is None:
                    content = yield Read(cap, deadline, idle)
                    assert content is not None
                record.response_bytes = len(content)
                if kept:
                    yield Fill(content)
                response.body = content
                return response
            leg = step.leg
            earlier = Earlier(method, url, head, headers)
            history = (*history, earlier)
            method, url, headers, body, keep_secret = leg.method, leg.url, leg.headers, leg.body, leg.keep_secret
            record.redirects = hops = (*hops, Hop(head.status, url.redacted()))
        except FaztError as error:
            if hops and error.hop is None:
                error.hop = len(hops)
            raise
        changed: Fields | None = yield Discard(earlier, method, url, headers)
        record.status = None
        if changed is not None:
            headers = changed


def _spent(body: bytes | Upload | None) -> bool:
    """Tell whether a body has begun to be sent that cannot be sent again."""
    return isinstance(body, Upload) and body.opened and not body.replayable


def _size_of(body: bytes | Upload | None) -> int:
    if body is None:
        return 0
    return (body.length or 0) if isinstance(body, Upload) else len(body)


def _asked(head: ResponseHead | None, trouble: FaztError | None, wall: float) -> float | None:
    """Return the seconds that the server, or fazt's own limits, ask to wait before another try."""
    if trouble is not None:
        return trouble.retry_after
    return retry_after_of(head.headers, wall_now=wall) if head is not None else None


def _bucket(policy: Policy, app: str, rule: Rule, *, host: str, rate: int, burst: int) -> tuple[str, str]:
    """Return the key of the bucket to draw on; an app whose own limits make its rate differ has one to itself.

    The one rule that stands for all public hosts has a bucket for each of them.
    """
    scope, name = policy.rules.bucket(rule)
    if rule.pattern == PUBLIC_PATTERN:
        name = f"{name} {host}"
    net = policy.limits.net
    if (rate, burst) != effective(rule.rate, rule.burst, default_rate=net.rate_limit, default_burst=net.rate_burst):
        scope = app
    return scope, name


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise FaztError(Reason.REQUEST_BODY, f"the request body is larger than the limit of {limit} bytes")
