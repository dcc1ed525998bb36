"""An OpenAI-compatible LLM that says as many words as it was asked for, without thinking.

`python -m benchmarks.scripted_llm PORT`
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.loopback_http import Exchange, serve
from benchmarks.wishes import Wish, read, word

_DEFAULT = Wish(10, 0)
_USAGE = b'{"prompt_tokens":100,"completion_tokens":%d,"total_tokens":%d}'


class Llm(Exchange):
    def requested(self, method: str, path: str, head: bytes, body: bytes) -> None:
        if not path.endswith("/chat/completions"):
            self.reply("200 OK", b'{"object":"list","data":[{"id":"scripted","object":"model","created":1}]}')
            return
        wish = read(body, default=_DEFAULT)
        usage = _USAGE % (wish.tokens, 100 + wish.tokens)
        if b'"stream":true' in body or b'"stream": true' in body:
            self._stream(wish, usage)
            return
        answer = (
            b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"scripted","choices":[{"index":0,'
            b'"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}],"usage":%s}'
        ) % (wish.text().encode(), usage)
        if wish.delay_ms:
            seconds = wish.delay_ms * wish.tokens / 1000
            asyncio.get_running_loop().call_later(seconds, self._say, self.reply, "200 OK", answer)
        else:
            self.reply("200 OK", answer)

    def _say(self, call: object, *arguments: object) -> None:
        if not self.transport.is_closing():
            call(*arguments)  # type: ignore[operator]

    def _stream(self, wish: Wish, usage: bytes) -> None:
        opening = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + _chunk(
            b'{"role":"assistant","content":""}'
        )
        words = [_chunk(b'{"content":"%s"}' % word(index).encode()) for index in range(wish.tokens)]
        ending = _chunk(b"{}", finish=b'"stop"') + _chunk(None, usage=usage) + _sized(b"data: [DONE]\n\n") + _sized(b"")
        if not wish.delay_ms:
            self.transport.write(opening + b"".join(words) + ending)
            return
        self.transport.write(opening)
        self._next([*words[:-1], words[-1] + ending], 0, wish.delay_ms / 1000)

    def _next(self, pieces: list[bytes], index: int, seconds: float) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(pieces[index])
        if index + 1 < len(pieces):
            asyncio.get_running_loop().call_later(seconds, self._next, pieces, index + 1, seconds)


def _chunk(delta: bytes | None, *, finish: bytes = b"null", usage: bytes = b"null") -> bytes:
    choices = b'[{"index":0,"delta":%s,"finish_reason":%s}]' % (delta, finish) if delta is not None else b"[]"
    return _sized(
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"scripted","choices":%s,'
        b'"usage":%s}\n\n' % (choices, usage)
    )


def _sized(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


if __name__ == "__main__":
    serve(Llm, port=int(sys.argv[1]))
