"""Answers to what particles ask about next tokens: draws and scores, as in any program, and whole distributions."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.models.language.histories import Histories
from feynkac.models.language.nodes import Node
from feynkac.programs.runtime.serving import Ask, serve

_FORWARDING = threading.RLock()
"""Held while histories are forwarded: runs in several threads may share those of one `CachedCausalLM`."""


class Logits(NamedTuple):
    """A question for all log-probabilities behind a history."""

    histories: Histories
    node: Node


Held: TypeAlias = "Mapping[Histories, Collection[Node]]"
"""For each model the nodes that contexts stand on, which stay in its cache."""


def answer(questions: Sequence[Ask | Logits], uniforms: Sequence[Any], held: Held) -> list[Any]:
    """An `Answer` to each `Ask`, and (V,) log-probabilities in nats to each `Logits`; `uniforms` has one for each."""
    with _FORWARDING:
        found = dict[int, Any]()
        asks = [(i, question) for i, question in enumerate(questions) if isinstance(question, Ask)]
        answers = serve([ask for _, ask in asks], [uniforms[i] for i, _ in asks], held)
        found.update(zip([i for i, _ in asks], answers, strict=True))
        others = [(i, question) for i, question in enumerate(questions) if isinstance(question, Logits)]
        for histories in dict.fromkeys(question.histories for _, question in others):
            mine = [(i, question.node) for i, question in others if question.histories is histories]
            laws = _find_log_probs(histories, [node for _, node in mine], held)
            found.update(zip([i for i, _ in mine], laws, strict=True))
        return [found[i] for i in range(len(questions))]


def _find_log_probs(histories: Histories, nodes: Sequence[Node], held: Held) -> list[NDArray[np.float32]]:
    """(V,) log-probabilities behind each node."""
    distinct = list(dict.fromkeys(nodes))
    law = histories.logits(distinct, held.get(histories, ())).log_softmax(-1).cpu().numpy()
    place = {node: row for row, node in enumerate(distinct)}
    return [law[place[node]] for node in nodes]
