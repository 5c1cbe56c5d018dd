"""Everything public that takes arguments: a call of each that works, and what is then done with what it gives."""

from __future__ import annotations

from calls.diffusion import list_diffusion
from calls.discrete import list_discrete
from calls.edits import list_edits
from calls.language import list_language
from calls.programs import list_programs
from calls.recipes import list_recipes
from calls.results import list_results
from calls.runs import list_runs
from calls.world import Call, World

__all__ = ["Call", "World", "list_calls"]


def list_calls(world: World) -> dict[str, Call]:
    """All calls, by name."""
    return {
        **list_language(world),
        **list_runs(world),
        **list_programs(world),
        **list_recipes(world),
        **list_results(world),
        **list_edits(world),
        **list_diffusion(world),
        **list_discrete(world),
    }
