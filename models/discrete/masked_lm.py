"""Masked language models of transformers, as models of discrete diffusion: BERT, ESM, LLaDA, Dream and their kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import offers
from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.numbers import read_count, read_flag, read_positive, read_whole
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.chats.messages import read_chat
from feynkac.models.chats.templates import write_chat
from feynkac.models.discrete.denoiser import Tokens
from feynkac.models.discrete.frames import Framed, RankedFrame
from feynkac.models.discrete.kernel import Kernel
from feynkac.models.discrete.kernels import Unmask
from feynkac.models.discrete.masked_loading import count_positions, load, move, share_weights
from feynkac.models.discrete.masked_tokens import MaskedTokens, check_masks, encode, read_ids, read_tokens
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.models.discrete.proposals import Proposal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOGITS = 1 << 28
"""Bytes of logits that one pass of the network may return, if nobody says how many canvases it may have."""


class MaskedLM:
    """A masked language model and its tokenizer, which fills in texts that have masks.

        lm = fk.MaskedLM(model, tokenizer)
        fk.steer(lm.fill("The [MASK] sat on the [MASK]."), fk.reward(f))
        fk.steer(lm.prompt("A recipe:", 64), fk.regex(r"[^0-9]*"))

    Its law p is that of the sampler (`kernel=` of `fill` and `prompt`), over the tokens that have a text: special ones
    are never written. `eos`: ids that end a text, which are written, too. `only`: the texts of the tokens that may be
    written, such as the letters of amino acids. `mask`: the id or text of the mask, where the tokenizer names none
    (LLaDA). `shifted`: logits of a position stand at the one before it (Dream). `temperature` divides the logits.

    Of more than `top` tokens only the `top` likeliest are kept at each position; the law stays that of all
    of them, exactly (`ranked.py`). `top=None` keeps all, which takes 8 bytes for each token, position and particle.
    `batch`: canvases in one pass of the network; by default as many as return 256 MB of logits.

    The model is not changed: a twin on the same weights is run, in evaluation mode, with the hooks that there are now.
    Raises ModelError for a model that reads from left to right only, or gives no logits, and for a tokenizer without a
    mask; ArgumentError.
    """

    @suggest_names()
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mask: int | str | None = None,
        eos: int | Iterable[int] | None = None,
        only: Iterable[str] | None = None,
        shifted: bool = False,
        temperature: float = 1.0,
        top: int | None = 512,
        batch: int | None = None,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise ArgumentError(f"the model is {quote(model)}; give one of transformers, MaskedLM(model, tokenizer)")
        if isinstance(tokenizer, type) or not hasattr(tokenizer, "mask_token_id"):
            raise ArgumentError(f"the tokenizer is {quote(tokenizer)}; give the model's, MaskedLM(model, tokenizer)")
        self.model, self.tokenizer = model, tokenizer
        self.shifted = read_flag("shifted", shifted)
        self.temperature = read_positive("temperature", temperature, "; it divides the logits")
        self.top = None if top is None else read_whole("top", top, 1, ", or None to keep all")
        self.batch = None if batch is None else read_whole("batch", batch, 1)
        self._twin = share_weights(model)
        self._width = int(self._try(np.zeros((1, 2), np.int64)).shape[-1])
        self.tokens: MaskedTokens = read_tokens(tokenizer, self._width, mask, eos, only)
        self.ids = torch.from_numpy(self.tokens.ids).to(self.device)
        self.barred = torch.from_numpy(~self.tokens.allowed).to(self.device)
        """(K,) the tokens that are not to be written."""
        self._check_reading()
        self._frames: dict[Any, Framed] = {}
        self._kernels: dict[int, Unmask] = {}

    @classmethod
    @suggest_names()
    def from_pretrained(
        cls, name: str, *, dtype: torch.dtype | str = "auto", device: torch.device | str | None = None, **options: Any
    ) -> MaskedLM:
        """Load a model by its hub id or from a folder.

        `options` are those of `MaskedLM`, and further ones go to transformers. A checkpoint that brings its own code,
        such as those of LLaDA and Dream, runs it only with `trust_remote_code=True`. Raises ModelError.
        """
        import inspect

        own = {key: options.pop(key) for key in inspect.signature(cls).parameters if key in options}
        move(torch.nn.Linear(1, 1), device)  # before weights are read for it
        model, tokenizer = load(name, dtype, {"trust_remote_code": False, **options})
        return cls(move(model, device), tokenizer, **own)

    @property
    def vocabulary(self) -> Vocabulary:
        """The K tokens that may be written."""
        return self.tokens.vocabulary

    @property
    def mask(self) -> str:
        """How a mask is written in a text."""
        return self.tokens.spelling

    @property
    def device(self) -> torch.device:
        """The device of the model's first weights, where its tokens go."""
        return next(self._twin.parameters()).device

    @property
    def window(self) -> int | None:
        """Tokens that a text may have, those that the tokenizer adds included; None where nothing is known."""
        limits = [count_positions(self._twin), getattr(self.tokenizer, "model_max_length", None)]
        known = [int(limit) for limit in limits if limit is not None and limit < 1 << 40]
        return min(known, default=None)

    @suggest_names()
    def fill(
        self,
        text: str | None = None,
        *,
        tokens: Sequence[int] | None = None,
        kernel: Kernel | None = None,
        proposal: Proposal | None = None,
    ) -> DiscreteDiffusion:
        """A text with masks, as a model: what is written stays, and the masks are filled in.

        Samples are whole texts, without what the tokenizer adds at both ends. `tokens`: the model's ids instead, as the
        tokenizer makes them. `kernel`: by default one mask a step, in random order. Raises ArgumentError for a text
        without masks, or longer than the model's window.
        """
        if (text is None) == (tokens is None):
            raise ArgumentError("give the text with its masks, or its token ids as tokens=")
        if text is None:
            ids = read_ids(tokens, max(self._width, len(self.tokenizer)))
            if self.tokens.mask not in ids:
                raise ArgumentError(f"tokens has no mask; the id of the mask is {self.tokens.mask}")
        else:
            ids = encode(self.tokenizer, text)
            check_masks(self.tokens, text, ids)
        start, stop, numbers = self.tokens.split(ids, self.tokenizer)
        given = np.where(numbers == self.vocabulary.size, -1, numbers)
        return self._make(ids[:start], ids[stop:], given, kernel, proposal)

    @suggest_names()
    def prompt(
        self,
        text: str | None = None,
        length: int | None = None,
        *,
        chat: str | Sequence[dict[str, Any]] | None = None,
        kernel: Kernel | None = None,
        proposal: Proposal | None = None,
    ) -> DiscreteDiffusion:
        """What follows a text, as a model: `length` masks behind it are filled in, and samples are these alone.

        `chat`: a user's message or a list of messages, which the tokenizer's template writes, instead of the text; what
        follows continues the last turn if that is the assistant's. Raises ArgumentError.
        """
        if (text is None) == (chat is None):
            raise ArgumentError("give the prompt as one of text and chat=")
        if length is None:
            raise ArgumentError("length is missing: how many tokens are to be written, lm.prompt(text, 64)")
        n = read_count("length", length, " tokens")
        if text is None:
            written = write_chat(read_chat(chat, None, None, None), self.tokenizer)
            before, after = encode(self.tokenizer, written, special=False), list[int]()
        else:
            before, after = self.tokens.surround(text, self.tokenizer)
        return self._make(before, after, np.full(n, -1), kernel, proposal)

    def _make(
        self, before: Sequence[int], after: Sequence[int], given: NDArray[np.int64], kernel: Any, proposal: Any
    ) -> DiscreteDiffusion:
        total, window = len(before) + len(given) + len(after), self.window
        if window is not None and total > window:
            raise ArgumentError(
                f"the text has {total} tokens, {len(before) + len(after)} of them around the canvas, and the model "
                f"reads {window} at most; write a shorter one"
            )
        n = int((given < 0).sum())
        kernel = self._kernels.setdefault(n, Unmask(n)) if kernel is None else kernel
        if offers(kernel, Kernel) and not kernel.hides:
            raise ArgumentError(
                f"{type(kernel).__name__} has no masks; give a masked language model Unmask or MaskedNoise"
            )
        frame = self._find_frame(tuple(before), tuple(after))
        return DiscreteDiffusion(frame, self.vocabulary, len(given), kernel, proposal=proposal, given=given)

    def _find_frame(self, before: tuple[int, ...], after: tuple[int, ...]) -> Framed:
        """One denoiser for all texts with the same surroundings, so that they can run in one batch."""
        if (before, after) not in self._frames:
            ranked = self.top is not None and self.vocabulary.size > self.top
            made = RankedFrame(self, before, after, self.top or 0) if ranked else Framed(self, before, after)
            self._frames[before, after] = made
        return self._frames[before, after]

    def write_ids(self, tokens: Tokens) -> NDArray[np.int64]:
        """The model's ids of canvases (..., L), whose masks are K."""
        return np.append(self.tokens.ids, self.tokens.mask)[tokens]

    def find_batch(self, width: int) -> int:
        """Canvases of `width` tokens in one pass of the network."""
        return self.batch or max(1, _LOGITS // (width * self._width * 4))

    @torch.no_grad()
    def forward(self, ids: NDArray[np.int64]) -> torch.Tensor:
        """(B, T, V) logits of the token at each position itself."""
        said = self._twin(input_ids=torch.from_numpy(ids).to(self.device))
        logits = getattr(said, "logits", None)
        if not isinstance(logits, torch.Tensor) or logits.shape[:2] != ids.shape:
            raise ModelError(
                f"{type(self.model).__name__} returned {type(said).__name__} without logits for each token; load it "
                "with its output layer, as AutoModelForMaskedLM does"
            )
        return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if self.shifted else logits

    def _try(self, ids: NDArray[np.int64]) -> torch.Tensor:
        """`forward`, of which nothing is known yet. Raises ModelError."""
        try:
            return self.forward(ids)
        except ModelError:
            raise
        except Exception as cause:
            raise ModelError(
                f"{type(self.model).__name__} cannot be asked about token ids {ids[0].tolist()}: {cause}; give a "
                "masked language model and its own tokenizer"
            ) from cause

    def _check_reading(self) -> None:
        """Raises ModelError for a model whose answer at a position does not depend on what follows it."""
        ids = np.full((2, min(4, self.window or 4)), self.tokens.mask)
        ids[1, -1] = self.tokens.ids[0]
        one, other = (self._try(row[None])[:, :-1] for row in ids)
        if torch.equal(one, other):
            raise ModelError(
                f"{type(self.model).__name__} reads from left to right only, so that it cannot fill in what is before "
                "other tokens; use fk.CausalLM(model, tokenizer)"
            )
