"""What `json_schema` makes of the official test-suite of JSON Schema; as a script it writes docs/json_schema.md."""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from feynkac.base.errors import FeynkacError
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import json_schema
from feynkac.potentials.constraints.engines.llguidance.matchers import make_matcher

SUITE = Path(__file__).parent / "suite.json"
DRAFTS = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
BYTES = Vocabulary((*(bytes([b]) for b in range(256)), b""), (256,))
_ORDERS = 24


class Verdict(NamedTuple):
    """Of one schema: how it is enforced, and the instances that are judged otherwise than the suite says."""

    draft: str
    keyword: str
    schema: str
    how: str
    """ "masked", "checked" or "refused"."""
    reason: str
    """Why it is refused."""
    lost: tuple[str, ...]
    """Valid instances that are not accepted."""
    wrong: tuple[str, ...]
    """Invalid instances that are accepted."""
    judged: int


@cache
def judge_all() -> tuple[Verdict, ...]:
    """The verdicts on all schemas of the suite."""
    drafts = json.loads(SUITE.read_text())["drafts"]
    return tuple(
        judge(draft, keyword, *group)
        for draft, keywords in drafts.items()
        for keyword, groups in keywords.items()
        for group in groups
    )


def judge(draft: str, keyword: str, title: str, schema: Any, tests: list[Any]) -> Verdict:
    """Compile a schema, and see which of its instances are accepted."""
    whole = {"$schema": DRAFTS[draft], **schema} if isinstance(schema, dict) else schema
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            constraint = json_schema(whole, whitespace="compact")
            accepted = [accepts(constraint, data) for _, data, _ in tests]
    except FeynkacError as error:
        return Verdict(draft, keyword, title, "refused", str(error), (), (), 0)
    lost = tuple(name for (name, _, valid), found in zip(tests, accepted, strict=True) if valid and not found)
    wrong = tuple(name for (name, _, valid), found in zip(tests, accepted, strict=True) if found and not valid)
    how = "checked" if constraint._checks else "masked"
    return Verdict(draft, keyword, title, how, "", lost, wrong, len(tests))


def accepts(constraint: Any, data: Any) -> bool:
    """Whether some order of properties is accepted: ours is that of the schema, and an instance has another."""
    matcher = make_matcher(BYTES, constraint._lark, constraint.name)
    for value in itertools.islice(list_orders(data), _ORDERS):
        tokens = list(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
        matcher.reset()
        if matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting():
            return bool(constraint.approves(BYTES, tokens))
    return False


def list_orders(data: Any) -> Iterator[Any]:
    """The value with its properties in each order."""
    if isinstance(data, dict):
        for keys in itertools.permutations(data):
            for values in itertools.product(*(list(itertools.islice(list_orders(data[key]), 6)) for key in keys)):
                yield dict(zip(keys, values, strict=True))
    elif isinstance(data, list):
        for values in itertools.product(*(list(itertools.islice(list_orders(each), 6)) for each in data)):
            yield list(values)
    else:
        yield data


KNOWN = {
    "float zero is valid": "numbers", "float one is valid": "numbers", "float -2.0 is valid": "numbers",
    "float is valid": "numbers", "[0.0] is valid": "numbers", "[1.0] is valid": "numbers",
    "a float with zero fractional part is an integer": "numbers",
}  # fmt: skip
"""Valid instances that are not accepted, and the limit that says so."""


def explain_lost(name: str) -> str | None:
    """The declared limit by which a valid instance is not accepted; None where there is none."""
    return "formats" if name.endswith("only an annotation by default") else KNOWN.get(name)


def explain_refusal(reason: str) -> str | None:
    """The declared limit by which a schema is refused; None where there is none."""
    for sign, limit in (
        ("no value meets it", "nothing"), ("is not present in a registry", "remote"), ("uri-reference", "remote"),
        ('["$dynamicAnchor"]', "remote"), ("Anchor 'items' does not exist", "anchors"),
    ):  # fmt: skip
        if sign in reason:
            return limit
    return None


LIMITS = {
    "numbers": "a whole number of a type, const or enum is written without a fraction (1, never 1.0)",
    "formats": "a format is an assertion where it is known, also in 2020-12, which lets one choose",
    "nothing": "a schema that no value meets is refused",
    "remote": "nothing is fetched: a reference to another document, meta-schemas among them, is refused",
    "anchors": "a `$ref` to a `$dynamicAnchor` is refused",
}


def write_table() -> str:
    """docs/json_schema.md."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in judge_all():
        groups.setdefault(verdict.keyword, []).append(verdict)
    counts = Counter(verdict.how for verdict in judge_all())
    judged = sum(verdict.judged for verdict in judge_all())
    lines = [
        "# JSON Schema: what is enforced", "",
        "Written by `python tests/potentials/json_suite/judging.py docs/json_schema.md` from the official test-suite",
        "(https://github.com/json-schema-org/JSON-Schema-Test-Suite, required tests of drafts 7 and 2020-12).", "",
        f"Of {len(judge_all())} schemas {counts['masked']} are enforced token by token, {counts['checked']} in part,",
        f"with whole texts checked, and {counts['refused']} are refused. Of {judged} instances none that is invalid is",
        "accepted; the valid ones that are not are counted as lost.", "",
        "| keyword | masked | checked | refused | instances | lost | limits |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for keyword, found in sorted(groups.items()):
        how = Counter(verdict.how for verdict in found)
        limits = {explain_lost(name) for each in found for name in each.lost}
        limits |= {explain_refusal(each.reason) for each in found if each.reason}
        numbers = [how["masked"], how["checked"], how["refused"], sum(each.judged for each in found)]
        lost = sum(len(each.lost) for each in found)
        told = ", ".join(sorted(limit or "?" for limit in limits))
        lines.append(f"| {keyword} | {' | '.join(map(str, numbers))} | {lost} | {told} |")
    return "\n".join([*lines, "", *(f"- *{name}*: {limit}." for name, limit in LIMITS.items()), ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(write_table())
