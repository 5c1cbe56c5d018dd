"""A server on the loopback address whose law is known: each token depends on the one before, and nothing else."""

from __future__ import annotations

import itertools
import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

import feynkac as fk

END = ""
"""Stands for the end of sequence in a law."""


@dataclass
class FakeServer:
    """What it can do, and what it was asked. Use it as a context manager; `url` is where it is then."""

    law: Mapping[str, Mapping[str, float]]
    """For each token the probabilities of the next one; the tokens of a prompt are the longest that fit."""
    name: str = "tiny"
    owner: str = "nobody"
    """Under "vllm" it stops at strings and tells at which; else it knows no `stop`, as a server that tells nothing."""
    takes_n: bool = True
    refuses_n: bool = False
    loses: int = 0
    """How many of several texts are missing in an answer."""
    hurries: bool = False
    """Whether texts are listed as they are done, the shortest first, each with its number."""
    echoes: bool = True
    log_probs: bool = True
    lists: bool = True
    choose: Callable[[Sequence[float]], int] | None = None
    """Draws an outcome of a distribution; by default a generator of its own."""
    faults: list[Any] = field(default_factory=list)
    """What meets the next completions: a status, (status, body), seconds to wait, "drop"; None for nothing."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of all completions, faults included."""

    def __post_init__(self) -> None:
        generator = random.Random(0)
        self._lock = threading.Lock()
        if self.choose is None:
            self.choose = lambda p: generator.choices(range(len(p)), p)[0]

    def serve_here(self, **options: Any) -> fk.ServedLM:
        """A model that reaches this server without a network, one request at a time."""

        def answer(request: httpx2.Request) -> httpx2.Response:
            if request.method == "GET":
                return httpx2.Response(200, json={"data": [{"id": self.name, "owned_by": self.owner}]})
            self.asked.append(json.loads(request.content))
            status, body = self.complete(self.asked[-1])
            return httpx2.Response(status, json=body)

        lm = fk.ServedLM("http://nowhere", self.name, concurrency=1, **options)
        lm.source.client._opened = httpx2.Client(transport=httpx2.MockTransport(answer))
        return lm

    def __enter__(self) -> FakeServer:
        fake, self.gone = self, False

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1  # one packet an answer

            def do_GET(self) -> None:
                models = [{"id": fake.name, "owned_by": fake.owner}]
                found = fake.lists and self.path == "/v1/models"
                self.reply(*((200, {"data": models}) if found else (404, {"detail": "Not Found"})))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake._lock:
                    fake.asked.append(body)
                    fault = fake.faults.pop(0) if fake.faults else None
                if fault == "drop" or fake.gone:
                    self.close_connection = True  # without an answer
                    return None
                if isinstance(fault, float):
                    time.sleep(fault)
                elif fault is not None:
                    return self.reply(*((fault, {"error": {"message": "busy"}}) if isinstance(fault, int) else fault))
                with fake._lock:
                    self.reply(*fake.complete(body))

            def reply(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode() if not isinstance(body, bytes) else body
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *args: None  # the connection that was dropped
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *args: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Be gone, for those who are connected, too."""
        self.gone = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body of the answer."""
        n = body.get("n", 1)
        if n > 1 and self.refuses_n:
            return 400, {"error": {"message": "only one completion is allowed"}}
        prompt = self.spell(body["prompt"])
        choices = [self._draw(prompt, body) for _ in range(n if self.takes_n else 1)]
        choices = [{"index": i, **choice} for i, choice in enumerate(choices[: max(1, n - self.loses)])]
        if self.hurries:
            choices.sort(key=lambda choice: len(choice["text"]))
        drawn = sum(len(choice["logprobs"]["tokens"]) for choice in choices)
        for choice in choices:
            if body.get("echo") and self.echoes:
                told = [None, *(self._log_prob(a, b) for a, b in itertools.pairwise(prompt))]
                choice["text"] = body["prompt"] + choice["text"]
                choice["logprobs"]["tokens"] = prompt + choice["logprobs"]["tokens"]
                choice["logprobs"]["token_logprobs"] = told + choice["logprobs"]["token_logprobs"]
            if "logprobs" not in body or not self.log_probs:
                choice["logprobs"] = None
        return 200, {"choices": choices, "usage": {"prompt_tokens": len(prompt), "completion_tokens": drawn}}

    def spell(self, text: str) -> list[str]:
        """The tokens of a text."""
        tokens, names = [], sorted(self.law, key=len, reverse=True)
        while text:
            token = next((name for name in names if name and text.startswith(name)), text[0])
            tokens.append(token)
            text = text[len(token) :]
        return tokens

    def _log_prob(self, before: str, token: str) -> float:
        p = self.law[before].get(token, 0.0)
        return math.log(p) if p else -1e9

    def _draw(self, prompt: list[str], body: dict[str, Any]) -> dict[str, Any]:
        stops = body.get("stop", []) if self.owner == "vllm" else []
        tokens, why, stop = [], "length", None
        while len(tokens) < body["max_tokens"] and why == "length":
            before = [*prompt, *tokens][-1]
            names = list(self.law[before])
            # What follows an echoed prompt is nobody's draw.
            token = names[0 if body.get("echo") else self.choose(list(self.law[before].values()))]  # pyright: ignore[reportOptionalCall]
            if token == END:
                why = "stop"
                break
            tokens.append(token)
            if stop := next((each for each in stops if each in "".join(tokens)), None):
                why = "stop"
        text = "".join(tokens)
        log_probs = [self._log_prob(a, b) for a, b in zip([prompt[-1], *tokens], tokens, strict=False)]
        choice = {"text": text[: text.index(stop)] if stop else text, "finish_reason": why}
        choice["logprobs"] = {"tokens": tokens, "token_logprobs": log_probs}
        return {**choice, "stop_reason": stop} if self.owner == "vllm" else choice
