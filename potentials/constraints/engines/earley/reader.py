"""Reads a grammar in the notation of Lark, as far as it says which texts there are.

What Lark says about trees (aliases, `?rule`, `!rule`, priorities) is read and left aside. `{m,n}`, `&` and `~` are
read as llguidance has them; what only llguidance can do raises `Extension`.
"""

from __future__ import annotations

import re

from feynkac.base.errors import quote
from feynkac.potentials.constraints.engines.earley.common import COMMON
from feynkac.potentials.constraints.engines.earley.cursor import Cursor
from feynkac.potentials.constraints.engines.earley.notation import (
    Both,
    Chain,
    Choice,
    Definition,
    Expression,
    Extension,
    Grammar,
    Name,
    Outside,
    Pattern,
    Repeat,
    Span,
    Text,
)
from feynkac.potentials.constraints.engines.earley.tokens import Token, unescape

_MOST_DEPTH = 100
_BRACKETS = {"(": ")", "[": "]"}
_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE, "l": 0, "u": 0}


def read_grammar(source: str) -> Grammar:
    """The definitions of a grammar. Raises ConstraintError with the line and column of a mistake; raises Extension."""
    return _Reader(source).read()


class _Reader(Cursor):
    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._depth = 0
        self._definitions: dict[str, Definition] = {}
        self._ignored: list[Expression] = []

    def read(self) -> Grammar:
        while self.skip_lines().kind != "end":
            if self.peek().kind == "directive":
                self._read_directive()
            else:
                self._read_definition()
        return Grammar(self.source, self._definitions, tuple(self._ignored))

    # --- lines

    def _read_directive(self) -> None:
        token = self.take()
        if token.text == "%ignore":
            self._ignored.append(self._read_choice())
        elif token.text == "%import":
            self._read_import()
        elif token.text in ("%llguidance", "%json", "%lark", "%regex"):
            raise Extension(token.text)
        else:
            raise self.fault(token.at, f"{token.text} is not supported; write out what it stands for")
        self._end_line()

    def _read_import(self) -> None:
        first = self.take()
        if first.text != "common":
            raise self.fault(first.at, "only %import common.NAME is supported; copy other definitions here")
        if self.accept("."):
            name = self.expect("a name", "name")
            known = self.expect("a name", "name") if self.accept("->") else name
            self._import(name, known)
            return
        self.expect("(")
        while not self.accept(")"):
            name = self.expect("a name", "name")
            self._import(name, name)
            self.accept(",")

    def _import(self, name: Token, known: Token) -> None:
        if name.text not in COMMON:
            raise self.fault(name.at, f"common has no {name.text}; it has {', '.join(sorted(COMMON))}")
        source, flags = COMMON[name.text]
        self._define(known, (), Pattern(source, flags, name.at))

    def _read_definition(self) -> None:
        name = self.expect("a name", "name")
        parameters: list[str] = []
        if self.accept("{"):
            while not self.accept("}"):
                parameters.append(self.expect("a parameter", "name").text)
                self.accept(",")
        if self.accept("."):
            self.expect("a priority", "number")
        if self.peek().text in ("[", "::"):
            raise Extension("attributes and parameters of rules")
        self.expect(":")
        self._define(name, tuple(parameters), self._read_choice())
        self._end_line()

    def _define(self, name: Token, parameters: tuple[str, ...], body: Expression) -> None:
        text = name.text.lstrip("!?")
        if text not in (text.lower(), text.upper()):
            raise self.fault(name.at, f"{text}: write rules in lower case, and terminals in upper case")
        if text in self._definitions:
            raise self.fault(name.at, f"{text} is defined twice; put both into one definition, with | between them")
        self._definitions[text] = Definition(parameters, body, name.at)

    def _end_line(self) -> None:
        token = self.peek()
        if token.kind not in ("newline", "end"):
            raise self.fault(token.at, f"{quote(token.text)} stands where the definition should end")

    # --- expressions

    def _read_choice(self) -> Expression:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise self.fault(
                self.peek().at, f"brackets are nested more than {_MOST_DEPTH} deep; give the inner ones names"
            )
        options = [self._read_common_part()]
        while self._continues():
            options.append(self._read_common_part())
        self._depth -= 1
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _continues(self) -> bool:
        """Take the | of one more option, be it in a line below."""
        start = self.next
        self.skip_lines()
        if self.accept("|"):
            return True
        self.next = start
        return False

    def _read_common_part(self) -> Expression:
        at = self.peek().at
        parts = [self._read_chain()]
        while self.accept("&"):
            parts.append(self._read_chain())
        return parts[0] if len(parts) == 1 else Both(tuple(parts), at)

    def _read_chain(self) -> Expression:
        parts: list[Expression] = []
        while True:
            if self._depth > 1:
                self._skip_lines_unless_option()
            token = self.peek()
            if not (token.kind in ("text", "pattern", "name") or (token.kind == "sign" and token.text in "([~@")):
                break
            parts.append(self._read_item())
        if self.accept("->"):
            self.expect("an alias", "name")
        if self.peek().kind == "directive" and self.peek().text in ("%json", "%lark", "%regex"):
            raise Extension(self.peek().text)
        return parts[0] if len(parts) == 1 else Chain(tuple(parts))

    def _skip_lines_unless_option(self) -> None:
        start = self.next
        if self.skip_lines().text == "|":
            self.next = start

    def _read_item(self) -> Expression:
        body = self._read_atom()
        while True:
            if self.accept("?"):
                body = Repeat(body, 0, 1)
            elif self.accept("*"):
                body = Repeat(body, 0, None)
            elif self.accept("+"):
                body = Repeat(body, 1, None)
            elif self.peek().text in ("~", "{") and self.peek(1).text[:1] in "0123456789,":
                body = self._read_counts(body)
            else:
                return body

    def _read_counts(self, body: Expression) -> Repeat:
        opened = self.take()
        between, closed = ("..", None) if opened.text == "~" else (",", "}")
        low = self._read_number() if self.peek().kind == "number" else 0
        high: int | None = low
        if self.accept(between):
            high = self._read_number() if self.peek().kind == "number" else None
        if closed is not None:
            self.expect(closed)
        if high is not None and high < low:
            raise self.fault(opened.at, f"at least {low} and at most {high} times: no number is both")
        return Repeat(body, low, high)

    def _read_number(self) -> int:
        token = self.take()
        if len(token.text) > 7:
            raise self.fault(token.at, f"{token.text[:20]} repeats are too many")
        return int(token.text)

    def _read_atom(self) -> Expression:
        token = self.take()
        if token.kind == "text":
            return self._read_text(token)
        if token.kind == "pattern":
            return self._read_pattern(token)
        if token.kind == "name":
            return self._read_name(token)
        if token.text == "~":
            return Outside(self._read_item(), token.at)
        if token.text == "@":
            raise Extension("@, a grammar within the grammar")
        if token.text not in _BRACKETS:  # behind a ~, where something must follow
            self.next -= 1
            self.expect("a text, a name or a bracket", "expression")
        body = self._read_choice()
        self.skip_lines()
        self.expect(_BRACKETS[token.text])
        return Repeat(body, 0, 1) if token.text == "[" else body

    def _read_name(self, token: Token) -> Expression:
        name, arguments = token.text.lstrip("!?"), []
        if self.peek().text == "{" and self.peek(1).text[:1] not in "0123456789,":
            self.take()
            while not self.accept("}"):
                arguments.append(self._read_choice())
                if self.peek().text != "}":
                    self.expect(",")
        if self.peek().text == "::":
            raise Extension("::, parameters of rules")
        return Name(name, tuple(arguments), token.at)

    def _read_text(self, token: Token) -> Expression:
        text = unescape(self.source, token)
        if self.accept(".."):
            end = self.expect("a text", "text")
            high = unescape(self.source, end)
            if len(text) != 1 or len(high) != 1 or high < text or token.text[-1] == "i" or end.text[-1] == "i":
                raise self.fault(token.at, 'a range goes from one character to a later one, as "a".."z" does')
            return Span(text, high)
        return Pattern(re.escape(text), re.IGNORECASE, token.at) if token.text.endswith("i") else Text(text)

    def _read_pattern(self, token: Token) -> Pattern:
        source, flags = token.text[1:].rsplit("/", 1)
        if re.search(r"\\[pP]\{", source):
            raise Extension(r"\p{...} in a regular expression")
        total = 0
        for flag in flags:
            total |= _FLAGS[flag]
        return Pattern(source.replace("\\/", "/"), total, token.at)
