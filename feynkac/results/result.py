"""What a run gives back: weighted samples, the evidence, and how the run went."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_whole
from feynkac.results.explanation import Explanation, explain
from feynkac.results.files import read_result, write_result
from feynkac.results.history import History, Timing
from feynkac.results.interval import find_result_interval
from feynkac.results.posterior import Posterior
from feynkac.results.preferences import list_preferences, write_lines
from feynkac.results.summary import summarise
from feynkac.results.text import print_text
from feynkac.smc.diagnostics import Diagnostics

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True)
class Result(Posterior):
    """The weighted particles of one run.

    The weighted samples estimate the target: `expectation(f)` is consistent as the number of particles grows, and
    exp(`log_evidence`) is unbiased for the normalising constant at any number of them. Under particle Gibbs the samples
    are the populations of all sweeps but the first, which alone gives the evidence (see `steer`).
    """

    samples: list[Any]
    """What each particle became: texts for a language model."""
    log_weights: NDArray[np.float64]
    """(N,) absolute log-weights in nats: their log-sum-exp is `log_evidence`."""
    log_evidence: float
    """Log of the estimated normalising constant, in nats: for a constraint, the log-probability of meeting it."""
    log_evidence_se: float | None
    """The standard error that the spread of independent parts shows, in nats; None where one run cannot tell
    (resampled, and no `islands`). It is at most 1, however wrong the evidence: see `log_evidence_interval`."""
    history: History
    timing: Timing
    forwarded_tokens: int | None = None
    """Tokens that went through the model for this result, prompt included; None for models without tokens."""
    seed: int | None = None
    """The seed that repeats this run."""
    warnings: list[str] = field(default_factory=list)
    complete: bool = True
    """False if the run was stopped early: the weights are then for the target so far, guesses included; of "exact", and
    of particle Gibbs once a sweep has ended, they are for the target itself."""
    algorithm: str = "smc"
    """The algorithm of `steer` that made it, which decides what `best` means."""
    diagnostics: Diagnostics | None = None
    """How the weight is spread, from which the interval of the evidence and the warnings come."""
    biased: bool = False
    """Whether a proposal left its weights out, so that the evidence is that of no declared target."""
    lower_bound: float | None = None
    """What the log evidence is at least for certain, in nats, where nothing weighs but constraints on a language model:
    the probability of the distinct texts found, or, of a constraint of few texts, of all their usual spellings. None
    for all else, and for particle Gibbs."""
    prompt: str | list[dict[str, Any]] | None = None
    """What the samples continue: a text, or the messages of a chat; None where nothing is, or it is not known."""
    token_log_probs: list[list[tuple[str, float]]] | None = None
    """(N,) the tokens of each sample, each with its text and its nats under the model's own law, before masks and
    potentials; an end of sequence is the last one, and has no text. None where the model does not tell, as programs."""
    log_probs: NDArray[np.float64] | None = None
    """(N,) nats of each sample under the model's own law, its end included; None where the model does not tell."""
    dropped: float | None = None
    """Nats by which a byte model's beam makes the samples too likely, at most, as the posterior mean, or of
    the sweeps' means the largest (see `feynkac.bytewise`); 0 where it dropped nothing, None for exact models."""
    reader: Callable[[str], Any] | None = field(default=None, repr=False, compare=False)
    """What reads a sample for `parsed`, where a constraint knows; not written to files."""

    def log_evidence_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The log evidence is between these two with probability `confidence`, in nats; the second may be inf.

        Both ends are finite where the run has independent parts (`islands`, or particles that were never resampled)
        whose spread is moderate. Where it has not, where one part or one particle carries the sum, or where the weights
        have no variance, only the low end is known, by Markov's inequality: log evidence - log(1 / (1 - confidence)).
        The methods are in `smc.evidence.find_interval`. Nothing is known, (-inf, inf), of a run that was stopped
        (under particle Gibbs: in its first sweep), or whose proposal is biased. Raises ArgumentError.
        """
        return find_result_interval(self, confidence)

    def explain(self) -> Explanation:
        """Where mass was lost: behind which texts masks and potentials took how many nats, those that cost most first.

            print(result.explain())
            for loss in result.explain().along():           # what the posterior's own texts lost
                print(loss.along, repr(loss.prefix))

        All parts add up to minus the log evidence (see `feynkac.results.losses`), and `.path(row)` is the way of one
        sample. Raises ArgumentError for runs with moves, of "exact", and files of old versions.
        """
        return explain(self)

    @suggest_names()
    def preferences(
        self,
        base: Result | None = None,
        *,
        pairs: int | None = None,
        seed: int | None = None,
        prompt: str | Sequence[Mapping[str, Any]] | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Pairs of texts in TRL's form for preferences: dicts of "prompt", "chosen", "rejected", and "weight".

        The chosen text is drawn from this posterior, the rejected one, independently, from the base: the samples of
        `base`, a result of the prompt alone; without it, of algorithm "best_of_n", the texts as the model drew them,
        each as often. Pairs of equal texts are left out. The weight is the probability of the pair; all add up to 1.

            target, base = fk.steer(task, reward, particles=64), fk.steer(task, particles=64)
            rows = target.preferences(base, pairs=1000, seed=0, path="pairs.jsonl")

        Trained on with DPO at beta = 1 and the base as reference, they lead to the target itself (see
        `feynkac.results.preferences`).

        - `pairs`: so many draws by these weights, with `seed`, each of weight 1 / pairs: for trainers without weights.
        - `prompt`: what the texts continue, a text or messages, where the result does not know. Of a chat all three are
          messages; an assistant's turn that was continued is in the answers.
        - `path`: a file of JSON lines to write, besides.

        Raises ArgumentError for samples that are no texts, one distinct text, an unfinished or biased run, another
        prompt of `base`, and a result that holds no texts of the base; AllParticlesDied.
        """
        if not (base is None or isinstance(base, Result)):
            raise ArgumentError(f"preferences: base is {quote(base)}; give a Result of the prompt alone")
        rows = list_preferences(self, base, pairs, seed, prompt)
        if path is not None:
            write_lines(rows, path)
        return rows

    def summary(self, rows: int = 10) -> str:
        """The posterior and the run as text, at most `rows` samples."""
        return summarise(self, read_whole("rows", rows, 0))

    @suggest_names()
    def show(self, rows: int = 10) -> None:
        """Print the posterior and how the run went, with whatever a terminal would obey in a text escaped."""
        print_text(self.summary(rows))

    @suggest_names()
    def plot(
        self,
        kind: Literal["images", "molecules", "points", "numbers", "texts"] | None = None,
        most: int = 64,
        *,
        reference: Any = None,
    ) -> Figure:
        """A figure of matplotlib: the particles, their family tree, and levels, ESS and evidence over the steps.

        `kind`: how the samples are drawn; None looks at them, but texts are molecules (SMILES) only if you say so.
        `most`: particles shown at most. `reference`: an image drawn before the others, such as what was given. Save it
        with `.savefig("result.png")`; a notebook shows it.

        Raises FeynkacError where matplotlib is missing, and ArgumentError for bad arguments.
        """
        from feynkac.results.pictures import picture

        return picture(self, kind, most, reference)

    def to_pandas(self, of: Literal["samples", "tokens", "steps"] = "samples") -> DataFrame:
        """A data frame: one row a sample, a token of each sample, or a step of the run.

        Samples have their weight (normalised), log-weight and, where it is known, log-probability under the model, in
        nats. Raises FeynkacError where pandas is missing, ArgumentError for tokens that the model does not tell.
        """
        from feynkac.results.frames import make_frame

        return make_frame(self, of)

    def save_images(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write image samples to `folder` as PNG, videos as GIF, and beside them "index.json"; the paths, one a row.

        The index is this result with the names of the files as samples; `from_json` reads it. Raises ArgumentError for
        samples that are no images and for a folder that cannot be written to.
        """
        from feynkac.results.pictures.saving import save_images

        return save_images(self, folder)

    def to_html(
        self,
        path: str | os.PathLike[str],
        kind: Literal["images", "molecules", "points", "numbers", "texts"] | None = None,
    ) -> None:
        """Write one HTML file that shows the run: the family tree of its particles, to be played, searched, filtered.

        It needs a browser and no network; what the model wrote is text in it, whatever it says. `kind`: how samples
        are shown; None looks at them, but texts are molecules (SMILES) only if you say so. `feynkac.write_page` puts
        several results on one page.

        Raises ArgumentError for samples that are not of that `kind`, a history that is no tree, and a file that cannot
        be written; FeynkacError where images or molecules need a package that is missing.
        """
        from feynkac.results.pages import write_page

        write_page([self], path, kind)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a file that `from_json` reads, which gives back objects as dicts, and tuples as lists.

        Raises ArgumentError for samples that JSON cannot hold.
        """
        write_result(self, path)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Result:
        """Read what `to_json` wrote. Raises ArgumentError for any other file, and for one that cannot be read."""
        return read_result(cls, path)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from feynkac.results.notebook import write_html

        return write_html(self)

    def __repr__(self) -> str:
        return f"Result({len(self.samples)} particles, log evidence {self.log_evidence:.3f}, ess {self.ess:.1f})"
