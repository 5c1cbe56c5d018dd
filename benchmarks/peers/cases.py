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
    """Tokens of the run that warms up, and does not count."""

    @property
    def name(self) -> str:
        """The case in one word."""
        option = f"-{self.option}" if self.option else ""
        return f"{self.task}{option}-N{self.particles}-T{self.tokens}-P{self.prompt}"

    def shrink(self) -> Case:
        """The same with few particles and short texts, as far as the task allows."""
        tokens = self.tokens if self.warm > 3 else min(self.tokens, 6)
        return replace(self, particles=min(self.particles, 4), tokens=tokens, prompt=min(self.prompt, 40), rounds=1)

    def count_rounds(self, peer: str) -> int:
        """Runs of one peer."""
        return self.rounds if self.slow is None or is_ours(peer) else self.slow


def is_ours(peer: str) -> bool:
    """Whether this is feynkac in one form or another."""
    return peer.startswith(("feynkac", "compat"))


def make_cases() -> list[Case]:
    """All cases, as the issue of the referee asks for; some 25 minutes on 2 cores."""
    programs = ("feynkac", "llamppl", "genlm")
    unconstrained = ("feynkac", "transformers")
    cases = [
        Case("no_e", 32, 100, slow=1, peers=("feynkac", "feynkac-program", "compat", "llamppl", "genlm")),
        Case("no_e", 1, 100, peers=("feynkac", "feynkac-bfloat16", "outlines", "guidance", "transformers")),
        Case("words", 16, 30, slow=1, peers=programs),
        Case("json", 16, 40, slow=1, warm=40, peers=("feynkac", "genlm", "outlines", "guidance")),
        Case("product", 16, 30, slow=1, peers=programs),
        Case("critic", 16, 30, slow=1, peers=programs),
        Case("costly", 16, 30, slow=1, peers=programs),
    ]
    cases += [Case("power", 16, 30, option=alpha, slow=1, peers=programs) for alpha in ("2", "4")]
    cases += [Case("no_e", n, 30, slow=1, peers=programs) for n in (1, 8, 64)]
    cases += [Case("no_e", 256, 30, slow=1, peers=("feynkac", "llamppl"))]
    cases += [Case("no_e", 4, t, slow=1, peers=programs) for t in (30, 200)]
    cases += [Case("no_e", 128, 30, peers=unconstrained)]
    cases += [Case("no_e", 128, 30, 500, slow=1, peers=unconstrained)]
    cases += [Case("no_e", 8, 30, p, slow=1, peers=(*unconstrained, "llamppl", "genlm")) for p in (500, 2000)]
    cases += [Case("lazy", 16, 20, option=check, peers=("feynkac", "genlm")) for check in ("words", "date", "schema")]
    evidence = (Case(task, 8, 10, rounds=20, peers=programs) for task in ("no_e", "words", "product", "critic"))
    return cases + list(evidence)
