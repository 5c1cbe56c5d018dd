"""The optional capabilities: what an object may offer beyond the contract (`feynkac.base.contract`), one class each.

Each class says what happens without it. An object has a capability by having the methods; it need not derive from
anything. Nothing else is looked up by name on models, states, potentials, proposals and observers: ask with
`isinstance`, or with `require`, whose error says what is missing. `feynkac.check` tells which of them an object has.
Those of samplers of latents are in `feynkac.base.sampling`.

Shapes: `N` particles in the population, `R` rows asked about.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from feynkac.base.capabilities.asking import Named as Named, has as has, offers as offers, require as require
from feynkac.base.capabilities.listing import (
    Branches as Branches,
    BranchingModel as BranchingModel,
    Children as Children,
    Enumerated as Enumerated,
    Enumerates as Enumerates,
    TellsAllowed as TellsAllowed,
)
from feynkac.base.capabilities.models import (
    Adapts as Adapts,
    Biased as Biased,
    Bounded as Bounded,
    ChecksForks as ChecksForks,
    GoesBack as GoesBack,
    Heeds as Heeds,
    Joins as Joins,
    KeepsHidden as KeepsHidden,
    KeepsSources as KeepsSources,
    Masks as Masks,
    Replayable as Replayable,
    Replays as Replays,
    Resides as Resides,
    Retraces as Retraces,
    Scorer as Scorer,
    Scores as Scores,
    ScoresAnswers as ScoresAnswers,
)
from feynkac.base.capabilities.potentials import (
    Checks as Checks,
    ChecksTokens as ChecksTokens,
    Consults as Consults,
    Contradicts as Contradicts,
    DrawsRanked as DrawsRanked,
    Factored as Factored,
    Foresees as Foresees,
    Guides as Guides,
    Hard as Hard,
    IgnoresTime as IgnoresTime,
    Lists as Lists,
    MasksWithin as MasksWithin,
    Outlines as Outlines,
    Ranks as Ranks,
    Reads as Reads,
    RelatesNeighbours as RelatesNeighbours,
    find_reader as find_reader,
    is_hard as is_hard,
    list_factors as list_factors,
)
from feynkac.base.capabilities.saving import Saves as Saves, SavesContexts as SavesContexts, SavesPaths as SavesPaths
from feynkac.base.capabilities.states import (
    Completes as Completes,
    Decodes as Decodes,
    Doubts as Doubts,
    Grouped as Grouped,
    Keeps as Keeps,
    LaysUp as LaysUp,
    Records as Records,
    Remembers as Remembers,
    Retires as Retires,
    Shows as Shows,
    TellsCopies as TellsCopies,
    TellsEnds as TellsEnds,
    TellsProblems as TellsProblems,
    Weighed as Weighed,
)
from feynkac.base.capabilities.texts import (
    BoundsEvidence as BoundsEvidence,
    CarriesAutomata as CarriesAutomata,
    CountsTokens as CountsTokens,
    ForcesEnds as ForcesEnds,
    ForeseesAcceptance as ForeseesAcceptance,
    LimitsTokens as LimitsTokens,
    TellsDropped as TellsDropped,
    TellsHidden as TellsHidden,
    TellsLogProb as TellsLogProb,
    TellsPieces as TellsPieces,
    TellsTokens as TellsTokens,
    Tokenised as Tokenised,
    Writes as Writes,
)
from feynkac.base.sampling import Estimates, NeedsGraph, TellsNoise


@runtime_checkable
class Closes(Protocol):
    """An observer with something to close when the run ends, however it ends. Without it: nothing is called."""

    def close(self) -> None: ...


OF_MODELS: tuple[type, ...] = (
    Named, Joins, Masks, Heeds, Bounded, Biased, Adapts, ChecksForks, KeepsSources, GoesBack, Enumerates, Replays,
    Retraces, Scores, Branches, Saves, SavesPaths,
)  # fmt: skip
OF_LANGUAGE_MODELS: tuple[type, ...] = (ScoresAnswers, Resides)
OF_CONTEXTS: tuple[type, ...] = (KeepsHidden, SavesContexts)
OF_CHILDREN: tuple[type, ...] = (TellsAllowed,)
OF_STATES: tuple[type, ...] = (
    Shows, Retires, Keeps, Records, CountsTokens, TellsEnds, Remembers, Writes, TellsProblems, Tokenised,
    CarriesAutomata, LimitsTokens, ForcesEnds, ForeseesAcceptance, Grouped, BoundsEvidence, Doubts, TellsLogProb,
    TellsPieces, TellsTokens, TellsDropped, LaysUp, Weighed, Decodes, TellsCopies, Estimates, TellsNoise, Completes,
    TellsHidden,
)  # fmt: skip
OF_POTENTIALS: tuple[type, ...] = (
    Named, Factored, Hard, Adapts, Foresees, Guides, Consults, Checks, Contradicts, Lists, Outlines, Reads,
)  # fmt: skip
OF_PROPOSALS: tuple[type, ...] = (Biased, Adapts, NeedsGraph, DrawsRanked)
OF_DENOISERS: tuple[type, ...] = (IgnoresTime, RelatesNeighbours, Ranks)
OF_AUTOMATA: tuple[type, ...] = (MasksWithin, ChecksTokens)
OF_OBSERVERS: tuple[type, ...] = (Closes,)
