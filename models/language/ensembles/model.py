"""An ensemble: a language model whose law of the next token is made of those of several prompts.

contrast = fk.ensemble([large.prompt(text), small.prompt(text)], [1.0, -1.0], plausible=0.1)
fk.steer(contrast, fk.regex("[^e]*"))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.numbers import as_real, read_real
from feynkac.base.vocabulary import Vocabulary
from feynkac.base.words import is_word
from feynkac.models.language.ensembles.contexts import EnsembleContexts, Member
from feynkac.models.language.ensembles.rules import Rule
from feynkac.models.language.language_model import LanguageModel
from feynkac.models.language.prompted import Prompted
from feynkac.models.language.prompts.prompt import Prompt
from feynkac.models.language.proposals.drawing import PromptProblem
from feynkac.models.language.readers.readers import are_alike

if TYPE_CHECKING:
    import torch


class Ensemble(LanguageModel):
    """A language model of several members (see `ensemble`).

    A prompt is one list of tokens that all members read, or one for each: then each is closed by the id V, which no
    text has.
    """

    def __init__(self, members: Sequence[Member], rule: Rule) -> None:
        first = members[0].lm
        eos = sorted({end for member in members for end in member.lm.vocabulary.eos})
        super().__init__(first.tokenizer, eos=eos)
        self.members, self.rule = tuple(members), rule
        self._size = min(member.lm.n_logits for member in members)
        known = first.vocabulary
        alike = known.size == self._size and known.eos == tuple(eos)
        self._vocabulary = known if alike else Vocabulary(known.tokens[: self._size], tuple(eos), known.tokenizer)

    def open(self, prompts: Sequence[Sequence[int]], max_new: int) -> EnsembleContexts:
        """See `LanguageModel.open`."""
        parts = [_split(tuple(prompt), len(self.members), self._size) for prompt in prompts]
        return EnsembleContexts(self.members, self.rule, parts, max_new, self._size)

    @property
    def window(self) -> int | None:
        """The smallest window of the members."""
        return min((member.lm.window for member in self.members if member.lm.window is not None), default=None)

    @property
    def device(self) -> torch.device:
        """Where the first member's logits are."""
        return self.members[0].lm.device

    def identify(self) -> dict[str, Any]:
        """The members, and the rule by which they are one."""
        return {"members": [member.lm.identify() for member in self.members], "rule": repr(self.rule)}

    @property
    def n_logits(self) -> int:
        """The smallest size of the members' laws; what others have beyond it is without text."""
        return self._size

    def __repr__(self) -> str:
        return f"Ensemble({self.rule.kind} of {len(self.members)} prompts, weights {self.rule.weights})"


@suggest_names()
def ensemble(
    prompts: Iterable[Prompted],
    weights: Iterable[float] | None = None,
    *,
    kind: Literal["product", "mixture"] = "product",
    plausible: float = 0.0,
) -> Prompted:
    """The law of which each next token follows several prompts at once: a prompt like any other.

        both = fk.ensemble([lm.prompt(a), lm.prompt(b)])                                       # geometric mean
        tuned = fk.ensemble([large.prompt(a), expert.prompt(a), anti.prompt(a)], [1.0, 2.0, -2.0])
        contrast = fk.ensemble([large.prompt(a), small.prompt(a)], [1.0, -1.0], plausible=0.1)
        mean = fk.ensemble([one.prompt(a), two.prompt(a)], [0.7, 0.3], kind="mixture")

    The law of the next token is proportional to prod_k p_k^w_k ("product": a geometric mean where weights sum to 1,
    contrastive where some are negative), or sum_k w_k p_k ("mixture"), normalised at each token. That is the law p
    itself: evidence, `ensemble.lm.score(ensemble, texts)`, exact answers, constraints and rewards are those of it. It
    is another law than the product or mixture of whole texts, which `fk.expert` and `fk.mixture` have.

    The prompts are of one model, or of several with one vocabulary; each has its tokens and its law (temperature, top-k
    and so on). The first one says how texts end: `max_tokens`, `stop`, `at_limit`; an end of sequence of any model
    ends them. `weights` (K,) are by default 1 / K each; those of a mixture are positive, and are divided by their sum.

    `plausible`: only tokens are left that the first prompt finds at least so likely, as a share of its likeliest token;
    0 leaves all. A token that some prompt gives no probability has none in a product, whatever the sign of its weight.
    A step forwards each context once for each prompt, those of one model and of edits of it in one pass.

    The model of the result, `ensemble.lm`, has `prompt`, `context` and `score` of its own, for texts that all members
    read alike.

    Sources: DExperts (Liu et al. 2021), Contrastive Decoding (Li et al. 2023; `plausible` is its alpha). Raises
    ArgumentError for anything but single prompts of one vocabulary, for weights that cannot be, and for a prompt whose
    law reads the tokens so far; ModelError where a window is too small.
    """
    listed = _read_prompts(prompts)
    rule = _read_rule(len(listed), weights, kind, plausible)
    members = [Member(each.lm, each.prompts[0].law) for each in listed]
    lm, first = Ensemble(members, rule), listed[0].prompts[0]
    tokens = tuple(i for each in listed for i in (*each.prompts[0].tokens, lm.n_logits))
    for each in listed:
        each.lm._check_window(len(each.prompts[0].tokens), first.max_tokens)
    text = lm.vocabulary.text(first.tokens) if first.text is None else first.text
    return Prompted(
        lm,
        (PromptProblem(Prompt(tokens, first.max_tokens, first.stop, at_limit=first.at_limit, text=text)),),
    )


def _split(prompt: tuple[int, ...], n: int, mark: int) -> list[tuple[int, ...]]:
    """(n,) the tokens of a prompt to each member."""
    if mark not in prompt:
        return [prompt] * n
    parts, at = list[tuple[int, ...]](), 0
    for _ in range(n):
        end = prompt.index(mark, at)
        parts.append(prompt[at:end])
        at = end + 1
    return [part + prompt[at:] for part in parts]


def _read_prompts(prompts: Any) -> list[Prompted]:
    if (listed := as_list(prompts)) is None:
        raise ArgumentError(f"ensemble: {quote(prompts)}: give a list of prompts, [lm.prompt(...), ...]")
    if not listed:
        raise ArgumentError("ensemble: an empty list of prompts; give at least one")
    for i, each in enumerate(listed):
        if not isinstance(each, Prompted) or len(each.problems) != 1:
            raise ArgumentError(f"ensemble: prompts[{i}] is {quote(each)}; give lm.prompt(...)")
        problem = each.problems[0]
        if problem.constraints or problem.guides or problem.proposal is not None:
            raise ArgumentError(
                f"ensemble: prompts[{i}] has constraints or a proposal; give it without, and steer the ensemble by them"
            )
        if problem.prompt.law.reads_history:
            raise ArgumentError(
                f"ensemble: prompts[{i}] has a law that reads the tokens so far (repetition_penalty, "
                "no_repeat_ngram_size, logits_processor); give these to the ensemble: fk.ensemble(...).lm.prompt(text, "
                "repetition_penalty=...)"
            )
        if not are_alike(each.lm.vocabulary, listed[0].lm.vocabulary):
            raise ArgumentError(
                f"ensemble: the model of prompts[{i}] has another vocabulary ({each.lm.vocabulary.size} tokens) than "
                f"that of prompts[0] ({listed[0].lm.vocabulary.size}); make both models of bytes, fk.bytewise(lm)"
            )
    return listed


def _read_rule(n: int, weights: Any, kind: Any, plausible: Any) -> Rule:
    if not is_word(kind, ("product", "mixture")):
        raise ArgumentError(f"ensemble: kind is {quote(kind)}; it must be 'product' or 'mixture'")
    share = read_real("plausible", plausible, 0.0, " and at most 1")
    if share > 1.0:
        raise ArgumentError(f"plausible is {quote(plausible)}; it must be a number of at least 0 and at most 1")
    listed = [1.0 / n] * n if weights is None else as_list(weights) or []
    sound = [bool(as_real(w)) for w in listed]
    if len(listed) != n or not all(sound) or (kind == "mixture" and min(listed) < 0):
        what = "positive numbers" if kind == "mixture" else "finite numbers other than 0"
        raise ArgumentError(f"ensemble: weights is {quote(weights)}; give {n} {what}, one for each prompt")
    total = sum(listed) if kind == "mixture" else 1.0
    return Rule(kind, tuple(float(w) / total for w in listed), share)
