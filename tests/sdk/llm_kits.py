"""The SDKs of language models through one set of names: openai and anthropic, blocking and asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import anthropic
import openai
import pytest

import fazt
import fazt.httpx

T = TypeVar("T")
KEY = "sk-0123456789-of-the-tests"


@dataclass(frozen=True)
class LlmKit:
    """One SDK in one of its two forms, over one of fazt's clients."""

    name: str
    sdk: Any
    asynchronous: bool
    legacy: bool = False
    """Whether the client is the one for httpx 0.28."""

    @property
    def error(self) -> Any:
        """The SDK's own base of errors."""
        return self.sdk.OpenAIError if self.sdk is openai else self.sdk.AnthropicError

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run(main())

    def client_class(self) -> Any:
        ours: Any = fazt.httpx if self.legacy else fazt
        return ours.AsyncClient if self.asynchronous else ours.Client

    @contextlib.asynccontextmanager
    async def over(self, client: Any, base: str, **settings: Any) -> AsyncIterator[Asker]:
        """The SDK over a client of fazt's, which is closed with it."""
        path = "/v1" if self.sdk is openai else ""
        kind = {
            (openai, False): openai.OpenAI,
            (openai, True): openai.AsyncOpenAI,
            (anthropic, False): anthropic.Anthropic,
            (anthropic, True): anthropic.AsyncAnthropic,
        }[self.sdk, self.asynchronous]
        sdk = kind(api_key=KEY, base_url=base + path, http_client=client, **settings)
        try:
            yield Asker(self, sdk)
        finally:
            if self.asynchronous:
                await sdk.close()
            else:
                sdk.close()

    @contextlib.asynccontextmanager
    async def sdk_over(self, base: str, *, sdk: dict[str, Any] | None = None, **client: Any) -> AsyncIterator[Asker]:
        """The same over a client that is made of these arguments."""
        async with self.over(self.client_class()(**client), base, **(sdk or {})) as asker:
            yield asker


class Asker:
    """An SDK that is asked something; all its answers are awaited."""

    def __init__(self, kit: LlmKit, sdk: Any) -> None:
        self.kit = kit
        self.sdk = sdk

    def _create(self, model: str, **options: Any) -> Any:
        messages: Any = [{"role": "user", "content": "Say hello"}]
        if self.kit.sdk is openai:
            return self.sdk.chat.completions.create(model=model, messages=messages, **options)
        return self.sdk.messages.create(model=model, messages=messages, max_tokens=16, **options)

    async def ask(self, model: str = "echo", **options: Any) -> str:
        """Return what the model says."""
        found = self._create(model, **options)
        if self.kit.asynchronous:
            found = await found
        text: str = found.choices[0].message.content if self.kit.sdk is openai else found.content[0].text
        return text

    async def collect(self, said: list[str], model: str = "echo", **options: Any) -> None:
        """Put what the model says into `said` as it comes."""
        async for token in self.tokens(model, **options):
            said.append(token)

    async def tokens(self, model: str = "echo", **options: Any) -> AsyncGenerator[str, None]:
        """Yield what the model says as it comes."""
        stream = self._create(model, stream=True, **options)
        if self.kit.asynchronous:
            async with await stream as parts:
                async for part in parts:
                    for token in self._token(part):
                        yield token
        else:
            with stream:
                for part in stream:
                    for token in self._token(part):
                        yield token

    def _token(self, part: Any) -> Iterator[str]:
        if self.kit.sdk is openai:
            yield part.choices[0].delta.content
        elif part.type == "content_block_delta":
            yield part.delta.text


LLM_KITS = [
    LlmKit("openai-sync", openai, asynchronous=False),
    LlmKit("openai-async", openai, asynchronous=True),
    LlmKit("openai-sync-httpx", openai, asynchronous=False, legacy=True),
    LlmKit("openai-async-httpx", openai, asynchronous=True, legacy=True),
    LlmKit("anthropic-sync", anthropic, asynchronous=False),
    LlmKit("anthropic-async", anthropic, asynchronous=True),
]


def without_waits(patch: pytest.MonkeyPatch) -> None:
    """Let the SDKs try again at once."""
    for module in (openai._base_client, anthropic._base_client):
        patch.setattr(module.BaseClient, "_calculate_retry_timeout", lambda *_, **__: 0.0)
