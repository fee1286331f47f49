"""A provider on this machine: an HTTP server that speaks OpenAI's protocol, counts what it is asked and fails on request.

Its vectors are sums of hashed word vectors, so texts with words in common are near each other. Its chat model quotes the
first passage. As a program it serves until it is interrupted: `python tests/fakes.py --port 8399 --dimension 256`;
`GET /_stats` then returns the counters.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

Flaw = Literal[
    "status",  # an error status with a body
    "error_in_200",  # status 200, but the body is an error
    "truncated",  # half of the body that was announced
    "closed",  # the connection ends without an answer
    "wrong_count",  # one vector too few
    "wrong_dimension",  # vectors one number too long
    "nan",  # a vector with a number that is none
    "empty",  # a chat reply without text
    "broken_stream",  # a stream that ends in the middle
]

WORD = re.compile(r"\w+")
TOKEN = re.compile(r"\w+|[^\w\s]")
PASSAGE = re.compile(r"<passage\b[^\n]*>\n(.*?)\n</passage>", re.DOTALL)
NOTHING_FOUND = "Nothing in this collection answers the question."
COMMON_WORDS = frozenset(
    WORD.findall(
        "a an and are as at be by do does for from has have how i in is it its of on or that the this to was what when "
        "where which who why will with you your"
    )
)


def count_words(text: str) -> int:
    return len(TOKEN.findall(text))


class WordVectors:
    """A fixed vector for each word, drawn from its hash; a text's vector is the sum over its distinct words."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._rows: dict[str, int] = {}
        self._vectors = np.empty((1024, dimension), np.float32)
        self._lock = threading.Lock()

    def embed(self, text: str) -> NDArray[np.float32]:
        words = sorted(set(WORD.findall(text.lower())))
        words = [word for word in words if word not in COMMON_WORDS] or words or [""]
        with self._lock:
            rows = [self._rows.get(word) or self._add(word) for word in words]
            total = self._vectors[rows].sum(axis=0)
        return np.asarray(np.round(total / np.linalg.norm(total), 6), np.float32)

    def _add(self, word: str) -> int:
        row = len(self._rows) + 1
        if row == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
        self._vectors[row] = np.random.default_rng(seed).standard_normal(self.dimension, np.float32)
        self._rows[word] = row
        return row


@dataclass
class Fault:
    flaw: Flaw
    status: int = 500
    body: str | None = None
    retry_after: str | None = None
    path: str = ""


class OpenAIServer:
    """The server. Counters and the record of what was asked are attributes; `reset()` forgets them and all faults.

    `texts` are the texts embedded, in the order they came; `chats` the bodies of chat requests, `authorizations`
    the Authorization headers. `max_texts` refuses larger requests for embeddings with 400, `refused_word` any that
    contains the word, a model in `refused_models` is refused as a wrong key would be, and `delay_s` makes every reply
    wait. `count_tokens` counts what is embedded; `base64` says what becomes of a wish for that encoding.
    """

    def __init__(self, dimension: int = 64, *, port: int = 0, keep_texts: bool = True) -> None:
        self.dimension = dimension
        self.keep_texts = keep_texts
        self._words = WordVectors(dimension)
        self._lock = threading.Lock()
        self.reset()
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.provider = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def reset(self) -> None:
        with self._lock:
            self.requests = self.failures = self.tokens = self.texts_embedded = 0
            self.in_flight = self.most_in_flight = 0
            self.texts: list[str] = []
            self.batches: list[int] = []
            self.chats: list[dict[str, Any]] = []
            self.authorizations: list[str | None] = []
            self.max_texts: int | None = None
            self.refused_word: str | None = None
            self.refused_models: set[str] = set()
            self.delay_s = 0.0
            self.count_tokens: Callable[[str], int] = count_words
            self.base64: Literal["taken", "ignored", "refused"] = "taken"
            self._faults: deque[Fault] = deque()
            self._replies: deque[str] = deque()

    @property
    def url(self) -> str:
        """The base address, ending in /v1."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    @property
    def port(self) -> int:
        return self._http.server_port

    def fail(
        self,
        next_n: int = 1,
        *,
        status: int = 500,
        body: str | None = None,
        retry_after: str | float | None = None,
        flaw: Flaw = "status",
        path: str = "",
    ) -> None:
        """Spoil the next n replies (to paths that end in `path`): with an error status, or with another flaw."""
        wait = None if retry_after is None else str(retry_after)
        with self._lock:
            self._faults.extend(Fault(flaw, status, body, wait, path) for _ in range(next_n))

    def reply(self, *texts: str) -> None:
        """What the chat model says to the next questions, one text each."""
        with self._lock:
            self._replies.extend(texts)

    def stats(self) -> dict[str, int]:
        with self._lock:
            return {
                "requests": self.requests,
                "failures": self.failures,
                "texts_embedded": self.texts_embedded,
                "tokens": self.tokens,
                "most_in_flight": self.most_in_flight,
            }

    def embed(self, text: str) -> NDArray[np.float32]:
        """The vector that the server gives for a text."""
        return self._words.embed(text)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # What follows is called by the handler's threads.

    def began(self, authorization: str | None, path: str) -> Fault | None:
        with self._lock:
            self.requests += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.authorizations.append(authorization)
            del self.authorizations[:-10_000]
            if self._faults and path.endswith(self._faults[0].path):
                self.failures += 1
                return self._faults.popleft()
            return None

    def ended(self) -> None:
        with self._lock:
            self.in_flight -= 1

    def refusal(self, texts: list[str], encoding: str | None) -> str | None:
        """Why a request for these texts is bad, if it is."""
        if encoding == "base64" and self.base64 == "refused":
            return "encoding_format: base64 is not supported."
        if self.max_texts is not None and len(texts) > self.max_texts:
            return f"Too many inputs: the most is {self.max_texts}."
        if self.refused_word and any(self.refused_word in text for text in texts):
            return "The input was rejected."
        if any(not text for text in texts):
            return "'$.input' is invalid: an input is empty."
        return None

    def embeddings(self, body: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
        texts: list[str] = [body["input"]] if isinstance(body["input"], str) else body["input"]
        tokens = sum(self.count_tokens(text) for text in texts)
        vectors = [self._words.embed(text) for text in texts]
        with self._lock:
            self.tokens += tokens
            self.texts_embedded += len(texts)
            self.batches.append(len(texts))
            if self.keep_texts:
                self.texts.extend(texts)
        flaw = fault.flaw if fault else None
        if flaw == "wrong_count":
            vectors.pop()
        if flaw == "wrong_dimension":
            vectors = [np.append(vector, np.float32(0.5)) for vector in vectors]
        if flaw == "nan":
            vectors[-1] = np.full_like(vectors[-1], np.nan)
        as_base64 = body.get("encoding_format") == "base64" and self.base64 == "taken"
        return {
            "object": "list",
            "model": body["model"],
            "data": [
                {
                    "object": "embedding",
                    "index": i,
                    "embedding": base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist(),
                }
                for i, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def chat(self, body: dict[str, Any], fault: Fault | None) -> tuple[str, dict[str, int]]:
        """The reply's text and its usage."""
        asked = "\n".join(str(message["content"]) for message in body["messages"])
        with self._lock:
            self.chats.append(body)
            scripted = self._replies.popleft() if self._replies else None
        text = scripted if scripted is not None else quote_first_passage(asked)
        if fault and fault.flaw == "empty":
            text = ""
        prompt_tokens, completion_tokens = len(TOKEN.findall(asked)), len(TOKEN.findall(text))
        with self._lock:
            self.tokens += prompt_tokens + completion_tokens
        return text, {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }


def quote_first_passage(asked: str) -> str:
    """The first sentence of the first passage of a prompt, cited."""
    passages = PASSAGE.findall(asked)
    if not passages:
        return NOTHING_FOUND
    sentence = re.split(r"(?<=[.!?])\s", passages[0].strip())[0]
    return f"{sentence.strip()} [1]"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    provider: OpenAIServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # else the client has left
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        pass

    def do_GET(self) -> None:
        if self.path == "/_stats":
            self._send(200, self.server.provider.stats())
        elif self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": "fake", "object": "model", "owned_by": "tests"}]})
        else:
            self._send(404, {"error": {"message": f"There is no {self.path}."}})

    def do_POST(self) -> None:
        provider = self.server.provider
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = provider.began(self.headers["Authorization"], self.path)
        try:
            time.sleep(provider.delay_s)
            if fault and fault.flaw in {"status", "error_in_200", "closed"}:
                self._fail(fault)
            elif self.path == "/v1/embeddings":
                self._embeddings(body, fault)
            elif self.path == "/v1/chat/completions":
                self._chat(body, fault)
            else:
                self._send(404, {"error": {"message": f"There is no {self.path}."}})
        finally:
            provider.ended()

    def _fail(self, fault: Fault) -> None:
        if fault.flaw == "closed":
            self.close_connection = True
            return
        status = 200 if fault.flaw == "error_in_200" else fault.status
        body = fault.body or json.dumps({"error": {"message": "It was asked to fail.", "type": "test", "code": None}})
        headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
        self._send(status, body.encode(), headers)

    def _embeddings(self, body: dict[str, Any], fault: Fault | None) -> None:
        if body["model"] in self.server.provider.refused_models:
            self._send(401, {"error": {"message": "Incorrect API key.", "type": "auth", "code": "invalid_api_key"}})
            return
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        refusal = self.server.provider.refusal(texts, body.get("encoding_format"))
        if refusal:
            self._send(400, {"error": {"message": refusal, "type": "invalid_request_error", "code": None}})
        else:
            reply = self.server.provider.embeddings(body, fault)
            self._send(200, reply, truncated=bool(fault and fault.flaw == "truncated"))

    def _chat(self, body: dict[str, Any], fault: Fault | None) -> None:
        text, usage = self.server.provider.chat(body, fault)
        if body.get("stream"):
            with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            self._stream(body["model"], text, usage if with_usage else None, fault)
            return
        message = {"role": "assistant", "content": text}
        reply = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
        self._send(200, reply, truncated=bool(fault and fault.flaw == "truncated"))

    def _stream(self, model: str, text: str, usage: dict[str, int] | None, fault: Fault | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(stream_events(model, text, usage)):
            if fault and fault.flaw == "broken_stream" and number == 2:
                self.close_connection = True
                return
            data = b"data: " + event.encode() + b"\n\n"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _send(
        self, status: int, body: object, headers: dict[str, str] | None = None, *, truncated: bool = False
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if truncated else content)
        self.close_connection = self.close_connection or truncated


def stream_events(model: str, text: str, usage: dict[str, int] | None) -> Iterator[str]:
    """The data of each server-sent event of a streamed reply, three words to a piece."""
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": model}

    def event(delta: dict[str, str], reason: str | None) -> str:
        return json.dumps(frame | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    yield event({"role": "assistant", "content": ""}, None)
    for piece in re.findall(r"(?:\S+\s*|\s+){1,3}", text):
        yield event({"content": piece}, None)
    yield event({}, "stop")
    if usage:
        yield json.dumps(frame | {"choices": [], "usage": usage})
    yield "[DONE]"


def main() -> None:
    arguments = argparse.ArgumentParser(description="Serve a deterministic provider that speaks OpenAI's protocol.")
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--dimension", type=int, default=64)
    given = arguments.parse_args()
    with OpenAIServer(given.dimension, port=given.port, keep_texts=False) as server:
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
