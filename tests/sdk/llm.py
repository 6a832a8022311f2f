"""A language model's service as the openai and the anthropic SDK speak to it; the name of the model says what it does.

"echo" answers; "busy-N" answers 503 N times first; "said-no" answers 400; "moved" redirects elsewhere; "mute" never
answers; streams of "gated" wait for the test after the first token, those of "stalls" for ever, those of "endless" give
tokens for ever, "breaks" ends in the middle of one.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

TOKENS = ["Gr\u00fc\u00dfe", ", ", "Welt", " \u2713"]


class Service:
    """The service and what it has seen."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        """Path, fields, body of every request."""
        self.go = threading.Event()
        """Lets gated streams go on."""
        self._busy: Counter[str] = Counter()
        self.elsewhere = ""
        """Where "moved" redirects to."""
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self.openai, methods=["POST"]),
                Route("/v1/messages", self.anthropic, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/v1/files", self.files, methods=["POST"]),
                Route("/v1/files/{name}/content", self.content),
            ]
        )

    async def _asked(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(await request.body())
        self.seen.append((request.url.path, dict(request.headers), body))
        return body

    def _misbehaves(self, model: str) -> Response | None:
        kind, _, number = model.partition("-")
        if kind == "busy" and self._busy[model] < int(number):
            self._busy[model] += 1
            return JSONResponse({"error": {"message": "busy"}}, 503)
        if model == "said-no":
            return JSONResponse({"error": {"message": "no such model", "type": "invalid_request_error"}}, 400)
        if model == "moved":
            return RedirectResponse(self.elsewhere, 307)
        return None

    async def openai(self, request: Request) -> Response:
        asked = await self._asked(request)
        model = asked["model"]
        odd = self._misbehaves(model)
        if odd is not None:
            return odd
        if model == "mute":
            await self._for_ever(request)
        base = {"id": "c1", "created": 1, "model": model}
        if not asked.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "".join(TOKENS)}}
            return JSONResponse({**base, "object": "chat.completion", "choices": [choice]})

        def part(token: str) -> str:
            choice = {"index": 0, "delta": {"role": "assistant", "content": token}, "finish_reason": None}
            return json.dumps({**base, "object": "chat.completion.chunk", "choices": [choice]})

        async def lines() -> AsyncIterator[bytes]:
            async for token in self._tokens(request, model):
                yield f"data: {part(token)}\n\n".encode()
            yield b"data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def anthropic(self, request: Request) -> Response:
        asked = await self._asked(request)
        model = asked["model"]
        odd = self._misbehaves(model)
        if odd is not None:
            return odd
        if model == "mute":
            await self._for_ever(request)
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": "m1", "type": "message", "role": "assistant", "model": model, "usage": usage}
        message |= {"stop_reason": None, "stop_sequence": None}
        if not asked.get("stream"):
            text = {"type": "text", "text": "".join(TOKENS)}
            return JSONResponse({**message, "content": [text], "stop_reason": "end_turn"})

        def event(kind: str, **data: Any) -> bytes:
            return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()

        async def lines() -> AsyncIterator[bytes]:
            yield event("message_start", message={**message, "content": []})
            yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            async for token in self._tokens(request, model):
                yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": token})
            yield event("content_block_stop", index=0)
            yield event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage)
            yield event("message_stop")

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def _tokens(self, request: Request, model: str) -> AsyncIterator[str]:
        if model == "endless":
            while not await request.is_disconnected():
                yield "and "
                await asyncio.sleep(0.005)
        for number, token in enumerate(TOKENS):
            yield token
            if number == 0 and model == "gated":
                await asyncio.to_thread(self.go.wait, 30)
            if number == 0 and model == "stalls":
                await self._for_ever(request)
            if number == 1 and model == "breaks":
                raise ConnectionResetError("as asked")

    async def _for_ever(self, request: Request) -> None:
        """Wait until the client is gone."""
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)

    async def models(self, request: Request) -> Response:
        self.seen.append((request.url.path, dict(request.headers), {}))
        model = {"id": "echo", "object": "model", "created": 1, "owned_by": "us"}
        return JSONResponse({"object": "list", "data": [model]})

    async def files(self, request: Request) -> Response:
        async with request.form() as form:
            upload = form["file"]
            assert not isinstance(upload, str)
            data = await upload.read()
            fields = {"name": upload.filename, "purpose": form["purpose"]}
        self.seen.append((request.url.path, dict(request.headers), {**fields, "size": len(data)}))
        made = {"id": "f1", "object": "file", "created_at": 1, "bytes": len(data), "status": "processed"}
        return JSONResponse({**made, "filename": fields["name"], "purpose": fields["purpose"]})

    async def content(self, request: Request) -> Response:
        return Response(request.path_params["name"].encode() * 10_000, media_type="application/octet-stream")
