"""Whether masks, ends of sequence and guides agree with what a potential says of texts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Checks, Guides, Heeds, Tokenised, has
from feynkac.base.errors import quote
from feynkac.base.masks import TokenAutomaton, TokenConstraint, unpack
from feynkac.smc.checks import name_of
from feynkac.steering.checking.report import Report
from feynkac.steering.checking.walks import Answers, Place, ask, walk

_TRIED = 24  # next tokens tried behind each text


class MaskCheck:
    """The automaton of a constraint beside its level and final, on the texts of one walk of `n` rows."""

    def __init__(self, report: Report, constraint: TokenConstraint, n: int, seed: int) -> None:
        self._report, self._constraint, self._who = report, constraint, name_of(constraint)
        self._draw = np.random.default_rng(seed)
        self._states: NDArray[np.int64] | None = None
        self._walked: list[list[int]] = [[] for _ in range(n)]

    def see(self, place: Place, answers: Answers) -> None:
        """Look at a place; the last of `answers` are what the constraint says of it."""
        if not isinstance(place.state, Tokenised):
            return
        automaton, vocabulary = self._constraint.automaton(place.state.vocabulary), place.state.vocabulary
        states = self._states = np.full(len(self._walked), automaton.start) if self._states is None else self._states
        tokens = place.state.tokens(np.arange(len(states)))
        for row in np.r_[place.running, place.ended]:
            now, before = [int(token) for token in tokens[row]], self._walked[row]
            if now[: len(before)] != before:  # of a canvas, which is not written from the left
                states[row], before = automaton.start, []
            for token in now[len(before) :]:
                states[row] = self._advance(automaton, vocabulary, int(states[row]), token, place.shown[row])
            self._walked[row] = now
            self._compare(automaton, place, row, int(states[row]), answers, tokens[row])

    @property
    def has_seen(self) -> bool:
        """Whether there were tokens to look at."""
        return self._states is not None

    def _advance(self, automaton: TokenAutomaton, vocabulary: Any, state: int, token: int, text: str) -> int:
        """The state after a token; that and some others are looked at on the way."""
        if state < 0:
            return state
        allowed = unpack(automaton.masks(np.array([state])), vocabulary.size)[0]
        ends = allowed[list(vocabulary.eos)]
        if len(ends) and (ends != automaton.accepts(np.array([state]))[0]).any():
            self._fault(
                f"sets the bits of the end of sequence to {ends.tolist()} before the end of {text}, where `accepts` is "
                f"{not ends.all()}; they are set if and only if the text is accepted as it stands"
            )
        tried = np.unique(np.r_[token, self._draw.choice(np.flatnonzero(vocabulary.with_text), _TRIED)])
        after = automaton.advance(np.full(len(tried), state), tried)
        for v, there in zip(tried, after, strict=True):
            if allowed[v] != (there >= 0):
                verb = "allows" if allowed[v] else "forbids"
                self._fault(
                    f"{verb} the token {quote(vocabulary.tokens[v])} before the end of {text}; `advance` gives "
                    f"{there}: a token is allowed if and only if it leads to a state"
                )
        live = np.unique(after[after >= 0])
        if len(live) and not (masks := automaton.masks(live)).any(axis=1).all():
            dead = int(live[~masks.any(axis=1)][0])
            v = int(tried[after == dead][0])
            self._fault(
                f"allows the token {quote(vocabulary.tokens[v])} before the end of {text}, from which nothing accepted "
                "can be reached; a particle that draws it dies"
            )
        return int(after[tried == token][0])

    def _compare(self, automaton: Any, place: Any, row: int, state: int, answers: Answers, tokens: Any) -> None:
        level, final = answers.levels[-1][row], answers.finals[-1][row]
        accepts = state >= 0 and bool(automaton.accepts(np.array([state]))[0])
        if not np.isnan(final):
            open_end = has(self._constraint, Checks) and accepts
            approved = not open_end or self._constraint.approves(place.state.vocabulary, tokens)  # pyright: ignore
            if (final > -np.inf) and not accepts:
                self._fault(
                    f"does not let {place.shown[row]} come out, and its final gives {final:.3g} for it: such texts are "
                    "lost from the target, and no weight makes up for it"
                )
            elif (final == -np.inf) and accepts and approved:
                self._fault(f"lets {place.shown[row]} end, and its final gives -inf for it")
        elif level == -np.inf and state >= 0:
            self._fault(f"leads to {place.shown[row]}, and its level gives -inf for it; one of both is wrong")

    def _fault(self, what: str) -> None:
        self._report.add_fault(f"the mask of '{self._who}' {what}")


class Listener:
    """A guide that is heard and not followed."""

    def __init__(self, guide: Guides) -> None:
        self._guide = guide
        self.heard: list[tuple[Any, NDArray[np.int64], NDArray[np.int64]]] = []

    def guide(self, frontier: Any) -> Any:
        worth = self._guide.guide(frontier)
        self.heard.append((worth.detach().cpu().double().numpy(), frontier.context.copy(), frontier.rows.copy()))
        return worth * 0 if bool(worth.isfinite().all()) else worth.new_zeros(worth.shape)


def check_guide(report: Report, model: Any, potential: Any, n: int, steps: int, seed: int) -> None:
    """What a guide says of tokens, beside how the level changed with those that came."""
    if not (has(potential, Guides) and isinstance(model, Heeds)):
        return
    who, listener, answers = name_of(potential), Listener(potential), Answers()
    before, lengths, worst, where = np.zeros(n), np.zeros(n, np.int64), 0.0, ""
    for place in walk(model.heed([listener]), n, steps, seed):
        ask(potential, place, answers)
        worth, context, rows = listener.heard[-1]
        if np.isnan(worth).any() or (worth == np.inf).any():
            bad = worth[np.isnan(worth) | (worth == np.inf)][0]
            report.add_fault(
                f"'{who}'.guide at step {place.t} returned {bad}; -inf forbids a token, all else is finite"
            )
            return
        now, tokens = answers.worth[-1], place.state.tokens(np.arange(n))
        gaps: dict[int, list[float]] = {}
        for row, here in zip(rows, context, strict=True):
            if np.isnan(now[row]):
                continue
            drawn = len(tokens[row]) > lengths[row]
            v = int(tokens[row][-1]) if drawn else place.state.vocabulary.eos[0]
            if worth[here, v] == -np.inf:
                if now[row] > -np.inf:
                    token = place.state.vocabulary.tokens[v]
                    report.add_fault(
                        f"'{who}'.guide forbids the token {quote(token)} that leads to {place.shown[row]}, which it "
                        f"gives {now[row]:.3g}; such texts are lost"
                    )
                continue
            if now[row] > -np.inf and before[row] > -np.inf:
                gaps.setdefault(int(here), []).append(now[row] - before[row] - worth[here, v])
        for found in gaps.values():
            if max(found) - min(found) > worst:
                worst, where = max(found) - min(found), place.shown[rows[0]]
        before = np.where(np.isnan(now), before, now)
        lengths = np.array([len(each) for each in tokens])
    if worst > 1e-3:
        report.notes.append(
            f"'{who}'.guide is a guess: beside how the level changes it is off by up to {worst:.3g} nats (at {where}); "
            "the weights make up for it"
        )
    else:
        report.passed.append(f"the guide of '{who}' is how its level changes")
