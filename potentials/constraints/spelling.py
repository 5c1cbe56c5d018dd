"""What the definition of a tokenizer tells of its spelling: which tokens it never writes, and which never in a row."""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError
from feynkac.base.masks import TokenMask

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary
    from feynkac.potentials.constraints.automata.merges import Merges

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
SPLITS = (rf"{_WORDS}|\p{{N}}{{1,3}}{_REST}", rf"{_WORDS}|\p{{N}}{_REST}")
"""The borders of Llama 3 and of Qwen 2: as in GPT-2's, a piece ends between letters only behind `'s` and such."""


class Rules:
    """Which tokens come in no encoding, and which never behind which."""

    def __init__(self, reached: NDArray[np.bool_], merges: Merges | None, after: Any, before: Any) -> None:
        self.reached, self._merges = reached, merges
        self._after, self._before = after, before

    def forbid(self, token: int, row: TokenMask) -> None:
        """Clear in `row` the tokens that never stand behind `token`."""
        if self._merges is not None and self._after[token]:
            self._merges.forbid(token, row, self._before)


def read_rules(vocabulary: Vocabulary) -> Rules:
    """The rules of a tokenizer. Raises ConstraintError for one that is no byte-level BPE."""
    from feynkac.potentials.constraints.automata.merges import read_merges  # imports numba, which takes a while

    spec, size = _read_definition(vocabulary), vocabulary.size
    model, every = spec["model"], np.ones(size, dtype=np.bool_)
    if any(model.get(option) for option in ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")):
        return Rules(every, None, every, every)
    merges = read_merges(model["vocab"], model["merges"], size)
    if not merges.ordered:
        return Rules(every, None, every, every)
    added = spec["added_tokens"]
    apart = ~np.isin(np.arange(size), [token["id"] for token in added])
    reached = merges.reached | ~apart
    borders = [
        stage for stage in _list_stages(spec["pre_tokenizer"]) if stage["type"] != "ByteLevel" or stage["use_regex"]
    ]
    if not borders:
        return Rules(reached, merges, apart, apart)
    if not all(map(_keeps_letters, borders)) or any(
        _is_letter(token["content"][:1]) or _is_letter(token["content"][-1:]) for token in added
    ):
        return Rules(reached, None, every, every)
    ends = {contraction[k:].encode() for contraction in _CONTRACTIONS for k in range(len(contraction))}
    after = np.array([_is_letter(_last(token)) and token.lower() not in ends for token in vocabulary.tokens])
    before = np.array([_is_letter(_first(token)) for token in vocabulary.tokens])
    return Rules(reached, merges, after & apart, before & apart)


def _read_definition(vocabulary: Vocabulary) -> Any:
    """The tokenizer's own definition. Raises ConstraintError."""
    if vocabulary.tokenizer is None:
        raise ConstraintError(
            "canonical(): this vocabulary is not made from a tokenizer, which alone knows its spelling"
        )
    spec = json.loads(vocabulary.tokenizer.to_str())
    stages = _list_stages(spec["pre_tokenizer"])
    levels = [stage for stage in stages if stage["type"] == "ByteLevel"]
    if spec["model"]["type"] != "BPE" or not levels or any(stage["add_prefix_space"] for stage in levels):
        kind = f"{spec['model']['type']} with {[stage['type'] for stage in stages]}"
        raise ConstraintError(
            f"canonical(): the tokenizer is {kind}, and this takes byte-level BPE without a prefix space; use it with "
            "a model that has one, or check texts by constraint(f)"
        )
    if spec["model"]["dropout"]:
        raise ConstraintError("canonical(): the tokenizer drops merges at random, so that texts have no one spelling")
    return spec


def _list_stages(spec: Any) -> list[Any]:
    if spec is None or spec["type"] != "Sequence":
        return [spec] if spec else []
    return [stage for part in spec["pretokenizers"] for stage in _list_stages(part)]


def _keeps_letters(stage: Any) -> bool:
    """Whether a stage of a pre-tokenizer draws borders between letters behind `'s` and such only."""
    if stage["type"] == "Split":
        return stage["pattern"].get("Regex") in SPLITS and stage["behavior"] == "Isolated" and not stage["invert"]
    return stage["type"] in ("ByteLevel", "Digits")


def _is_letter(char: str) -> bool:
    """Whether a character is a letter in all versions of Unicode that a tokenizer may have."""
    return bool(char) and unicodedata.category(char)[0] == unicodedata.ucd_3_2_0.category(char)[0] == "L"


def _first(token: bytes) -> str:
    """The first character, "" if the token begins within one."""
    return token[:4].decode(errors="ignore")[:1] if token and not 0x80 <= token[0] < 0xC0 else ""


def _last(token: bytes) -> str:
    """The last character, "" if the token ends within one."""
    for n in (1, 2, 3, 4):
        try:
            return token[-n:].decode()[-1:]
        except UnicodeDecodeError:
            continue
    return ""
