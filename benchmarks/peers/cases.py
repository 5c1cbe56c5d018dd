"""What is measured: tasks at some number of particles and tokens, behind a prompt, and which peers a case is for."""

from __future__ import annotations

from dataclasses import dataclass, replace

EVERYBODY = ("feynkac", "compat", "transformers", "llamppl", "genlm", "outlines", "guidance")


@dataclass(frozen=True)
class Case:
    """One row of the tables."""

    task: str
    particles: int
    tokens: int
    prompt: int = 5
    """Tokens of the prompt; for tasks that bring their own prompts it says nothing."""
    option: str = ""
    """What the task leaves open: alpha of `power`, the check of `lazy`."""
    rounds: int = 3
    """Runs of each peer, in turns; a peer that is slow may run less often than feynkac (`slow`)."""
    slow: int | None = None
    """Runs of everyone but feynkac; None: as many."""
    peers: tuple[str, ...] = EVERYBODY
    """Who takes part, where an adapter has the task."""
    warm: int = 3
    """Tokens of the run of a peer that warms up, and does not count; 0: there is none, where a run takes minutes."""

    @property
    def name(self) -> str:
        """The case in one word."""
        option = f"-{self.option}" if self.option else ""
        return f"{self.task}{option}-N{self.particles}-T{self.tokens}-P{self.prompt}"

    def shrink(self) -> Case:
        """The same with few particles and short texts, as far as the task allows."""
        tokens = self.tokens if self.task == "json" else min(self.tokens, 6)
        return replace(self, particles=min(self.particles, 4), tokens=tokens, prompt=min(self.prompt, 40), rounds=1)

    def count_rounds(self, peer: str) -> int:
        """Runs of one peer."""
        return self.rounds if self.slow is None or is_ours(peer) else self.slow


def is_ours(peer: str) -> bool:
    """Whether this is feynkac in one form or another."""
    return peer.startswith(("feynkac", "compat"))


def make_cases() -> list[Case]:
    """All cases; some 35 minutes on 2 cores."""
    programs, unconstrained = ("feynkac", "llamppl", "genlm"), ("feynkac", "transformers")
    packed = ("feynkac-packed", "feynkac-packed-bfloat16")
    one = ("feynkac", "feynkac-bfloat16", *packed, "outlines", "guidance", "transformers")
    cases = [
        Case("no_e", 32, 100, slow=1, peers=("feynkac", *packed, "feynkac-program", "compat", "llamppl", "genlm")),
        Case("no_e", 1, 100, peers=one),
        Case("plain", 16, 20, slow=1, peers=(*programs, "transformers")),
        Case("json", 16, 40, slow=1, peers=("feynkac", "feynkac-packed", "genlm", "outlines", "guidance")),
    ]
    cases += [Case(task, 16, 20, slow=1, peers=programs) for task in ("words", "product", "critic", "costly")]
    cases += [Case("power", 16, 20, option=alpha, slow=1, peers=programs) for alpha in ("2", "4")]
    cases += [Case("no_e", n, 10, slow=1, peers=programs) for n in (1, 16, 256)]
    cases += [Case("no_e", 2, t, slow=1, peers=programs) for t in (30, 200)]
    cases += [Case("no_e", 128, 30, peers=("feynkac", "feynkac-packed", "transformers"))]
    cases += [Case("no_e", 128, 30, 500, slow=1, warm=0, peers=unconstrained)]
    cases += [Case("no_e", 8, 30, 500, slow=1, peers=(*unconstrained, "llamppl", "genlm"))]
    cases += [Case("no_e", 8, 30, 2000, slow=1, warm=0, peers=(*unconstrained, "llamppl", "genlm"))]
    checks = {"words": 20, "schema": 40}
    cases += [Case("lazy", 16, t, option=check, peers=("feynkac", "genlm")) for check, t in checks.items()]
    cases += [Case(task, 8, 8, rounds=16, peers=programs) for task in ("no_e", "words", "product", "critic")]
    return cases
