"""ServedLM: a language model that somebody else serves."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.extras import needing
from feynkac.base.host import find_host
from feynkac.base.numbers import as_bool, read_real, read_whole
from feynkac.base.unicode import check_unicode
from feynkac.models.served.client import Client
from feynkac.models.served.sampling import read_sampling
from feynkac.models.served.source import Source, Usage

if TYPE_CHECKING:
    from feynkac.programs.served.context import ServedContext


class ServedLM:
    """A language model behind the completions API of OpenAI: vLLM, SGLang, llama.cpp's server, `transformers serve`.

        lm = fk.ServedLM("http://localhost:8000/v1", "Qwen/Qwen2.5-7B-Instruct")

    Programs draw whole pieces of text from it (see `context`). It gives neither logits nor masks, so that what needs
    them is refused by name, and it is no model for `lm.prompt`: run it on an `fk.CausalLM` instead.

    - `base_url`: the address of the API; `/v1` is put behind one without a path. `model`: the name that the server has
      for it. Where it is not `listed` under that name the first context raises ModelError; with False no list is asked
      for, and a server is not known to be one that stops at strings by itself.
    - `api_key` goes to the server as a bearer token.
    - `timeout`: seconds that a request may take. `retries`: how often one is sent again that cannot reach the server or
      meets one that is busy, `pause` seconds later, then twice as long, and so on. A draw that may have begun is not
      drawn again, since that would favour short texts. When all is in vain ModelLost is raised; in the middle of a run
      `steer` returns the particles there are (`Result.complete` is False then).
    - `concurrency`: requests at a time.
    - `seeded`: send a seed with each draw, so that a run repeats itself as far as the server does. Each particle is
      then a request of its own; else one request draws for all particles that stand behind the same text.
    - `log_probs`: ask for the log-probabilities of what is drawn (`log_drawn` of a context).

    Raises ArgumentError for bad arguments, MissingExtra if the package httpx2 is missing.
    """

    @suggest_names()
    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        retries: int = 4,
        pause: float = 0.5,
        concurrency: int = 32,
        seeded: bool = False,
        log_probs: bool = False,
        listed: bool = True,
    ) -> None:
        _check_package()
        if not isinstance(model, str) or not model:
            raise ArgumentError(f"model is {quote(model)}; give the name that the server has for it")
        if api_key is not None and not isinstance(api_key, str):
            raise ArgumentError("api_key is no string")
        switches = {"seeded": seeded, "log_probs": log_probs, "listed": listed}
        for name, value in switches.items():
            if as_bool(value) is None:
                raise ArgumentError(f"{name} is {quote(value)}; it must be True or False")
        if not read_real("timeout", timeout, 0.0):
            raise ArgumentError("timeout is 0; give the seconds that a request may take")
        client = Client(
            base_url,
            api_key=api_key,
            timeout=float(timeout),
            retries=read_whole("retries", retries, 0),
            pause=read_real("pause", pause, 0.0),
            concurrency=read_whole("concurrency", concurrency, 1),
        )
        self.source = Source(client, model, seeded=seeded, log_probs=log_probs)
        self._listed, self._checked = listed, False
        self._lock = threading.Lock()

    @suggest_names()
    def context(
        self,
        text: str,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        extra: Mapping[str, Any] | None = None,
    ) -> ServedContext:
        """Open a context behind a prompt, inside of a program (see `ServedContext`).

        The law of what it draws is the server's under these options. Temperature and top_p are always sent; `extra`
        are further fields of the request that the server knows, such as {"top_k": 0, "min_p": 0.05}. What neither
        names is as the server has it. Raises ArgumentError for bad arguments, ModelError for a server that is out of
        reach or serves another model, ProgramError outside of programs.
        """
        host = find_host()
        if not isinstance(text, str):
            raise ArgumentError(
                f"context({quote(text)}): give a text. A completions API takes no list of messages: write them down by "
                "the model's template, as in tokenizer.apply_chat_template(chat, tokenize=False, "
                "add_generation_prompt=True)"
            )
        check_unicode(text, "context")
        sampling = read_sampling(temperature, top_p, extra)
        self._check()
        return host.open_served(self, text, sampling)

    @property
    def model(self) -> str:
        """The name that the server has for it."""
        return self.source.model

    @property
    def usage(self) -> Usage:
        """Requests and tokens so far, of all runs."""
        return self.source.usage

    def close(self) -> None:
        """Close the connections to the server; a later request opens new ones."""
        self.source.client.close()

    def prompt(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a prompt is drawn token by token, from logits."""
        refuse("lm.prompt", "write a program, which draws pieces: p.sample(lm.context(prompt).gen(max_tokens=20))")

    def score(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: see `ServedContext.log_prob`."""
        refuse("lm.score", "in a program, lm.context(prompt).log_prob(text) asks a server that echoes prompts")

    def edited(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a server runs its forward pass as it is."""
        refuse("lm.edited", "edit an fk.CausalLM")

    def remember(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: keys and values are the server's."""
        refuse("lm.remember", "start the server with its prefix cache, which keeps what prompts begin with")

    def _check(self) -> None:
        with self._lock:
            if self._listed and not self._checked:
                self.source.check()
                self._checked = True

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"ServedLM({self.source.client.base_url!r}, {self.model!r})"


def refuse(what: str, instead: str) -> NoReturn:
    """Raises ModelError for what takes more than a server gives."""
    raise ModelError(f"{what}: a served model gives pieces of text, and neither logits nor masks; {instead}")


def _check_package() -> None:
    with needing("served", "servers are asked by httpx2"):
        import httpx2  # noqa: F401
