"""Where a reader stands among the tokens of a grammar."""

from __future__ import annotations

from feynkac.base.errors import ConstraintError, quote
from feynkac.potentials.constraints.engines.earley.notation import make_fault
from feynkac.potentials.constraints.engines.earley.tokens import Token, list_tokens


class Cursor:
    """The tokens of a grammar, read from the first to the last."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._tokens = list_tokens(source)
        self.next = 0
        """The number of the token that is read next."""

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or one behind it."""
        return self._tokens[self.next + ahead]

    def take(self) -> Token:
        """The next token, which is read."""
        self.next += 1
        return self._tokens[self.next - 1]

    def skip_lines(self) -> Token:
        """The first token that ends no line, which is the next one now."""
        while self.peek().kind == "newline":
            self.next += 1
        return self.peek()

    def accept(self, sign: str) -> bool:
        """Whether the next token is this sign, which is then read."""
        if found := self.peek().text == sign and self.peek().kind in ("sign", "directive"):
            self.next += 1
        return found

    def expect(self, wanted: str, kind: str = "sign") -> Token:
        """The next token, which must be the sign that is `wanted`, or of that kind. Raises ConstraintError."""
        token = self.take()
        if token.kind != kind or (kind == "sign" and token.text != wanted):
            seen = {"newline": "the line ends", "end": "the grammar ends"}.get(
                token.kind, f"{quote(token.text)} stands"
            )
            raise self.fault(token.at, f"{seen} where {wanted} is expected")
        return token

    def fault(self, at: int, what: str) -> ConstraintError:
        """A mistake at a place in the text of the grammar."""
        return make_fault(self.source, at, what)
