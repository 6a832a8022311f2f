"""The blocking client, for either library: its own engine under httpx's face."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Never, Self, Unpack

from fazt.client.backend import SyncBackend
from fazt.client.door import UNSET, Door, Q, R, refuse_body, setup_of
from fazt.client.failures import translate
from fazt.client.incoming import streaming, unpack, whole
from fazt.client.intake import Intake
from fazt.client.keywords import BodyOptions, CallOptions, ClientArguments, Signature
from fazt.client.trips import Trip
from fazt.errors import FaztError, Reason

_clock = time.perf_counter


class SyncDoor(Door[Q, R]):
    """Everything of `fazt.Client` that is not httpx's own."""

    __signature__ = Signature(ClientArguments)

    def __init__(self, *no: Never, **arguments: Unpack[ClientArguments]) -> None:
        """Make a client.

        Args:
            policy: what is allowed: `fazt.Policy(…)`, `Policy.public()`, `Policy.from_file(…)`. None: the rules of the
                data directory, by which nothing is reachable that was not granted.
            app: name or id of the app of the data directory on whose behalf calls are made.
            auth, params, headers, cookies, timeout, follow_redirects, max_redirects, event_hooks, base_url,
            default_encoding: as httpx has them. `timeout` limits single waits; by default 5 s to connect, 30 s to read
                and to write, 5 s for a place in the pool. At most 20 redirects are followed, each judged like
                a request.
            limits: `httpx.Limits` of the pool; 64 connections, 20 of them idle, for 30 s, by default.
            verify: True for the system's roots and the policy's `ca_file`; a path for that root alone; an
                `ssl.SSLContext` that verifies.
            cert: our own certificate: a path, (certificate, key) or (certificate, key, password).
            http2: use HTTP/2 where the server offers it and `fazt-net[http2]` is installed.
            secret, deadline, max_bytes, cache, retry, service, role: what every request asks for that does not say
                otherwise. `deadline` is the total of a call in seconds: 60 unless set, none for streams. `cache` is
                also where responses are kept: a `fazt.Cache`, True for one in memory, a path.
            traffic: rates, breakers and retries of hosts (`core.traffic_config`); services: the same per service.
            sinks: where events go (`fazt.telemetry`), beside the policy's own log.
            sensitive_headers: names of header fields that no redirect carries to another origin, beside
                `Authorization`, `Cookie` and what is named like a credential.
            on_request, on_response, on_error: called once per call, the last two one instead of the other.

        Raises:
            ConfigError: an argument that would go around the policy (`transport`, `mounts`, `proxy`, `trust_env`,
                `verify=False`), or that cannot be used.
            TypeError: an unknown argument.
        """
        known = self._family_of()
        if no:
            raise TypeError(f"{type(self).__name__} takes arguments by name: policy={no[0]!r}")
        given: Any = arguments
        own = self._httpx_arguments(given)
        defaults, hooks = self._fazt_arguments(given)
        backend = given.pop("_backend", None)
        shared = backend is not None
        if not shared:
            backend = SyncBackend(setup_of(**given))
        try:
            intake = Intake(known, backend, defaults, asynchronous=False)
            super().__init__(transport=self._carrier(intake), trust_env=False, **own)  # type: ignore[call-arg]
            self._finish(intake, hooks, timed="timeout" in own)
            self._borrowed = shared
        except BaseException:
            if not shared:
                backend.close()
            raise

    def _carrier(self, intake: Intake) -> Any:
        raise NotImplementedError

    def request(self, method: str, url: Any, **options: Unpack[BodyOptions]) -> R:
        """Send a request and read its answer; options as `build_request`, and `auth`, `follow_redirects`.

        Raises:
            FaztError: refused or failed; it is httpx's matching exception too.
        """
        given: Any = options
        auth = given.pop("auth", UNSET)
        follow = given.pop("follow_redirects", UNSET)
        return self.send(self.build_request(method, url, **given), auth=auth, follow_redirects=follow)

    @contextlib.contextmanager
    def stream(self, method: str, url: Any, **options: Unpack[BodyOptions]) -> Iterator[R]:
        """Send a request and give its answer when the head has come; the body is read from it as it comes.

        There is an idle limit (`timeout.read`, 60 s unless set), and no total one unless `deadline=` sets it.
        """
        given: Any = options
        auth = given.pop("auth", UNSET)
        follow = given.pop("follow_redirects", UNSET)
        request = self.build_request(method, url, **given)
        response: Any = self.send(request, auth=auth, follow_redirects=follow, stream=True)
        try:
            yield response
        finally:
            response.close()

    def send(
        self, request: Any, *, stream: bool = False, auth: Any = UNSET, follow_redirects: Any = UNSET, **options: Any
    ) -> R:
        """Send a request that was built before; options are fazt's own (`secret`, `deadline`, `max_bytes`, …)."""
        known = self._family
        self._open(known)
        if options:
            self._request_options(request, options)
        if "timeout" not in request.extensions:
            self._set_timeout(request)
        unset = known.unset
        if follow_redirects is UNSET or follow_redirects is unset:
            follow_redirects = self.follow_redirects
        if auth is UNSET:
            auth = unset
        if (auth is None or (auth is unset and self._auth is None)) and not request.url.userinfo:
            if self._hooks is None:
                return self._call(request, follow=follow_redirects, history=[], stream=stream)  # type: ignore[no-any-return]
            return self._go(request, follow=follow_redirects, history=[], stream=stream)  # type: ignore[no-any-return]
        flow = self._build_request_auth(request, auth)
        return self._authenticated(request, flow, follow=follow_redirects, stream=stream)  # type: ignore[no-any-return]

    def _authenticated(self, request: Any, auth: Any, *, follow: bool, stream: bool) -> Any:
        """Send what an authentication asks for until it is content."""
        flow = auth.sync_auth_flow(request)
        history: list[Any] = []
        try:
            request = next(flow)
            while True:
                if "timeout" not in request.extensions:
                    self._set_timeout(request)
                response = self._go(request, follow=follow, history=history, stream=stream)
                try:
                    try:
                        request = flow.send(response)
                    except StopIteration:
                        return response
                    response.history = list(history)
                    response.read()
                    history.append(response)
                except BaseException:
                    response.close()
                    raise
        finally:
            flow.close()

    def _go(self, request: Any, *, follow: bool, history: list[Any], stream: bool) -> Any:
        """Make one call of the engine, and the library's response of its answer."""
        if self._hooks is None:
            return self._call(request, follow=follow, history=history, stream=stream)
        run = self._hooks.begin()
        try:
            run.request(request)
            response = self._call(request, follow=follow, history=history, stream=stream)
        except BaseException as error:
            run.error(error)
            raise
        try:
            run.response(response)
        except BaseException:  # interrupted in a hook: nobody gets the answer, so nobody would close it
            response.close()
            raise
        return response

    def _call(self, request: Any, *, follow: bool, history: list[Any], stream: bool) -> Any:
        hooks, known, intake = self._event_hooks, self._family, self._intake
        for hook in hooks["request"]:
            hook(request)
        trip: Trip | None = None
        limit = None
        if follow:
            trip = Trip(self, request, list(history))
            limit = self.max_redirects
        started = _clock()
        live = stream or bool(hooks["response"])
        try:
            if len(history) > self.max_redirects:
                raise FaztError(Reason.REDIRECT_LIMIT, "the authentication asks for too many requests")
            call, settled = intake.take(
                request,
                stream=live,
                follow=limit,
                total=not stream,
                between=trip.between if trip is not None else None,
                jar=self._own_cookies.jar(request.headers),
            )
            backend = intake.backend
            if live:
                streamed = backend.engine.open(call, profile=backend.profile)
                answer = streamed.response
            else:
                answer = backend.engine.call(call, profile=backend.profile, finish=partial(unpack, settled))
            last = request if trip is None else trip.request
            if live:
                response = streaming(known, streamed, settled, request=last, started=started)
            else:
                response = whole(known, answer, request=last, started=started)
        except FaztError as error:
            translate(known.library, error, request if trip is None else trip.request)
            raise
        try:
            self._complete(response, answer.headers, trip.history if trip is not None else history, follow=follow)
            for hook in hooks["response"]:
                hook(response)
            if live and not stream:
                response.read()
        except BaseException:
            response.close()
            raise
        return response

    def _send_handling_redirects(self, request: Any, follow_redirects: bool, history: list[Any]) -> Any:
        return self._go(request, follow=follow_redirects, history=history, stream=True)

    def _send_single_request(self, request: Any) -> Any:
        return self._go(request, follow=False, history=[], stream=True)

    def get(self, url: Any, **options: Unpack[CallOptions]) -> R:
        """Send a GET request; options as `request`."""
        refuse_body("get", options)
        return self.request("GET", url, **options)

    def options(self, url: Any, **options: Unpack[CallOptions]) -> R:
        """Send an OPTIONS request; options as `request`."""
        refuse_body("options", options)
        return self.request("OPTIONS", url, **options)

    def head(self, url: Any, **options: Unpack[CallOptions]) -> R:
        """Send a HEAD request; options as `request`."""
        refuse_body("head", options)
        return self.request("HEAD", url, **options)

    def delete(self, url: Any, **options: Unpack[CallOptions]) -> R:
        """Send a DELETE request; options as `request`."""
        refuse_body("delete", options)
        return self.request("DELETE", url, **options)

    def post(self, url: Any, **options: Unpack[BodyOptions]) -> R:
        """Send a POST request; options as `request`."""
        return self.request("POST", url, **options)

    def put(self, url: Any, **options: Unpack[BodyOptions]) -> R:
        """Send a PUT request; options as `request`."""
        return self.request("PUT", url, **options)

    def patch(self, url: Any, **options: Unpack[BodyOptions]) -> R:
        """Send a PATCH request; options as `request`."""
        return self.request("PATCH", url, **options)

    def websocket(self, *_: Any, **__: Any) -> Any:
        """Refuse: the wire speaks HTTP/1.1 requests and answers alone."""
        raise NotImplementedError("fazt's client opens no WebSockets")

    def close(self) -> None:
        """Close the client and its connections."""
        if not self._borrowed:
            super().close()  # type: ignore[misc]

    def __enter__(self) -> Self:
        if not self._borrowed:
            return super().__enter__()  # type: ignore[misc, no-any-return]
        self._open(self._family)
        return self

    def __exit__(self, *exc: Any) -> None:
        if not self._borrowed:
            super().__exit__(*exc)  # type: ignore[misc]
