"""Answers to all that is asked of a served model at one moment, in as few requests as the server allows."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feynkac.base.errors import ModelError, quote
from feynkac.models.served.client import Client, Refused
from feynkac.models.served.pieces import Draft
from feynkac.models.served.questions import Draw, Piece, Question, Score
from feynkac.models.served.replies import Echo, read_choices, read_echo, read_models, read_part, score
from feynkac.models.served.sampling import Sampling

_PATH = "completions"
_MOST = 128
"""Texts that are asked for in one request: OpenAI allows no more."""
_NO_SUCH_PATH = (404, 405, 501)
_TELL_STOPS = ("vllm", "sglang")
"""Servers, as they name themselves, that tell at which string a text has stopped."""


@dataclass(frozen=True)
class Usage:
    """What a served model has cost so far."""

    requests: int
    retries: int
    prompt_tokens: int
    """As the server counts them, those among them that it had in a cache."""
    completion_tokens: int


class Source:
    """A model on a server. `answer` is all that a program's runtime asks of it."""

    def __init__(self, client: Client, model: str, *, seeded: bool, log_probs: bool) -> None:
        self.client, self.model = client, model
        self._seeded, self._log_probs = seeded, log_probs
        self._takes_n: bool | None = None
        """Whether the server draws several texts for one request; None before that has been seen."""
        self._tells_stops = False
        self._counts = {"prompt_tokens": 0, "completion_tokens": 0}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    @property
    def usage(self) -> Usage:
        return Usage(self.client.requests, self.client.retried, **self._counts)

    def check(self) -> None:
        """Raises ModelError if the server is out of reach, or does not list the model."""
        try:
            models = read_models(self.client.get("models"))
        except Refused as refusal:
            if refusal.status not in _NO_SUCH_PATH:
                raise
            models = []
        names = [each.get("id") for each in models]
        self._tells_stops = any(str(each.get("owned_by")).lower() in _TELL_STOPS for each in models)
        if self.model not in names:
            raise ModelError(
                f"the server at {self.client.base_url} serves {', '.join(map(repr, names)) or 'no model by name'}, not "
                f"{quote(self.model)}; ask for what it serves, or say listed=False if it loads "
                "models as they are asked for"
            )

    def answer(self, questions: Sequence[Question], uniforms: Sequence[Any]) -> list[Any]:
        """For each question a Piece or, of a Score, nats; `uniforms` seed the draws of a model that is `seeded`."""
        draws = [i for i, each in enumerate(questions) if isinstance(each, Draw)]
        drawn = self._draw([questions[i] for i in draws], [uniforms[i] for i in draws])  # pyright: ignore[reportArgumentType]
        pieces = dict(zip(draws, drawn, strict=True))
        echoes = self._echo([each for each in questions if isinstance(each, Score)])
        return [
            score(echoes[each.before], echoes[each.before + each.text], each.text)
            if isinstance(each, Score)
            else pieces[i]
            for i, each in enumerate(questions)
        ]

    def _draw(self, questions: Sequence[Draw], uniforms: Sequence[Any]) -> list[Piece]:
        drafts = [Draft(each, u, stops=self._tells_stops) for each, u in zip(questions, uniforms, strict=True)]
        while waiting := [draft for draft in drafts if draft.piece is None]:
            groups = self._group(waiting)
            bodies = [self._make_body(group) for group in groups]
            try:
                replies = self.client.post_all(_PATH, bodies, draws=not self._seeded)
            except Refused:
                if self._takes_n is not None or all("n" not in body for body in bodies):
                    raise
                self._takes_n = False  # by its error; where that was about something else, it comes again
                continue
            for group, body, reply in zip(groups, bodies, replies, strict=True):
                self._hand_out(group, body, reply)
        return [draft.piece for draft in drafts if draft.piece is not None]

    def _group(self, drafts: Sequence[Draft]) -> list[list[Draft]]:
        """Drafts that one request serves."""
        together: dict[Any, list[Draft]] = {}
        for draft in drafts:
            together.setdefault(draft.request, []).append(draft)
        return [part for group in together.values() for part in self._divide(group)]

    def _divide(self, group: list[Draft]) -> list[list[Draft]]:
        if group[0].question.sampling.is_certain:
            return [group]
        most = 1 if self._seeded or self._takes_n is False else _MOST
        return [group[start : start + most] for start in range(0, len(group), most)]

    def _make_body(self, group: Sequence[Draft]) -> dict[str, Any]:
        first = group[0]
        text, sampling, stops, room = first.request
        body = {"model": self.model, "prompt": text, "max_tokens": room, **sampling.fields}
        if stops:
            body["stop"] = list(stops)
        if self._log_probs:
            body["logprobs"] = 1
        if self._seeded:
            body["seed"] = first.make_seed()
        if len(group) > 1 and not sampling.is_certain:
            body["n"] = len(group)
        return body

    def _hand_out(self, group: Sequence[Draft], body: dict[str, Any], reply: Any) -> None:
        """Give each draft its text; those for which there is none wait for the next round."""
        choices = read_choices(reply, body.get("stop", ()), log_probs=self._log_probs)
        self._count(reply)
        if asked := body.get("n"):
            if len(choices) < asked and (len(choices) > 1 or self._takes_n):
                raise ModelError(
                    f"the server was asked for {asked} texts and gave {len(choices)}; which are missing may depend on "
                    "what they say, so that no others are drawn in their place: see what it logs"
                )
            self._takes_n = len(choices) > 1
        if group[0].question.sampling.is_certain:
            choices = choices[:1] * len(group)
        for draft, choice in zip(group, choices, strict=False):
            draft.take(choice)

    def _echo(self, questions: Sequence[Score]) -> dict[str, Echo]:
        """The tokens of each text, and of what is before it, with their log-probabilities."""
        texts = list(dict.fromkeys(text for each in questions for text in (each.before, each.before + each.text)))
        asked = {"model": self.model, "max_tokens": 1, **Sampling().fields, "echo": True, "logprobs": 1}
        replies = self.client.post_all(_PATH, [{**asked, "prompt": text} for text in texts], draws=False)
        for reply in replies:
            self._count(reply)
        return {text: read_echo(reply) for text, reply in zip(texts, replies, strict=True)}

    def _count(self, reply: Mapping[str, Any]) -> None:
        counts = read_part(reply, "usage")
        with self._lock:
            for name in self._counts:
                self._counts[name] += int(counts.get(name) or 0)
