"""What proposals, lists and experts keep for a run (`Texts.companions`) as trees, and how it is opened again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError
from feynkac.models.language.kept import Kept
from feynkac.models.language.proposals.drawing import GROUPS
from feynkac.models.language.proposals.listed import LISTING, Listing
from feynkac.models.language.proposals.plain import Drafted
from feynkac.models.language.protocols import Contexts, require_saving
from feynkac.models.language.readers.readers import Reader, list_readers
from feynkac.models.language.readers.walks import Reread, Walk
from feynkac.models.language.texts import HIDDEN, Texts
from feynkac.smc.checks import name_of

if TYPE_CHECKING:
    from feynkac.models.language.prompted import Prompted

KEPT = "kept"
SPENT = "spent"
"""The first part of the keys of what proposals spend."""


def check_companions(model: Prompted) -> None:
    """Raises ArgumentError for experts and proposals whose caches cannot be written."""
    asked = [(lm, prompts) for lm, of_problem in model.readers.items() for prompts in of_problem if prompts]
    asked += [
        (proposal.beneath, [proposal.find_prompt(problem.prompt)])
        for problem in model.problems
        if isinstance(proposal := problem.proposal, Drafted)
    ]
    for lm, prompts in asked:
        require_saving(lm.open_prompts(prompts, model.max_steps))


def save_companions(model: Prompted, state: Texts) -> list[Any]:
    """Pairs of a key and a value; of a population in which no text runs what only drawing needs is left out."""
    running = bool(state.running.any())
    found = (_save(model, key, value, running) for key, value in state.companions.items())
    return [pair for pair in found if pair is not None]


def _save(model: Prompted, key: Any, value: Any, running: bool) -> Any:
    if isinstance(value, Kept):
        return KEPT, value.save()
    if isinstance(value, Listing | Reread):
        return key, value.save()
    if isinstance(value, Walk):
        return ("walk", list(model.readers).index(key[1])), value.save()
    if key in (HIDDEN, GROUPS) or (isinstance(key, tuple) and key[0] == SPENT):
        return key, value
    drafts = [each.proposal for each in model.problems]
    parts = key if isinstance(key, tuple) else (key,)
    place = next((g for g, each in enumerate(drafts) if isinstance(each, Drafted) and parts[0] is each.key), None)
    if place is not None:
        return (("draft", place, key[1]), require_saving(value).save()) if running else None
    what = name_of(parts[0])
    raise ArgumentError(
        f"what '{what}' keeps for a run (a {type(value).__name__}) cannot be written; run without checkpoint="
    )


def load_companions(model: Prompted, contexts: Contexts, saved: list[Any]) -> dict[Any, Any]:
    """What `save_companions` gave, of texts with these `contexts`, and with others of its own."""
    return dict(_load(model, contexts, key, value) for key, value in saved)


def _load(model: Prompted, contexts: Contexts, key: Any, value: Any) -> tuple[Any, Any]:
    if key == KEPT:
        return Kept, Kept.load(contexts, value)
    vocabulary, longest = model.lm.vocabulary, model.max_steps
    if isinstance(key, Reader):
        return key, Reread.load(key.lm, key.prompt, longest, value)
    if not isinstance(key, tuple):
        return key, value
    if key[0] == LISTING:
        return key, Listing.load(value, vocabulary.tokens, vocabulary.eos)
    if key[0] == "walk":
        lm = list(model.readers)[key[1]]
        return (Walk, lm.batch), Walk.load(lm, list_readers(model.readers[lm]), longest, value)
    if key[0] == "draft":
        proposal = model.problems[key[1]].proposal
        assert isinstance(proposal, Drafted)
        prompts = [model.prompts[g] for g in key[2]]
        longest = max(prompt.max_tokens for prompt in prompts)
        ahead = proposal.beneath.open_prompts([proposal.find_prompt(prompt) for prompt in prompts], longest)
        require_saving(ahead).load(value)
        return (proposal.key, key[2]), ahead
    return key, value
