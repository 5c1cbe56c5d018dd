"""SQL and Python: their own parsers take every text that the grammars accept, and the grammars take real ones."""

from __future__ import annotations

import ast
import sqlite3
import warnings
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from feynkac.base.errors import ArgumentError
from feynkac.base.masks import mask_within, unpack
from feynkac.potentials import python, sql
from feynkac.potentials.constraints.automata.listing import BYTES
from feynkac.potentials.constraints.languages import ready


def walk(automaton: Any, rng: np.random.Generator, length: int) -> str:
    """A random text: of the states that may follow one is drawn evenly, so that structure is as likely as letters."""
    written, state, stop = b"", np.array([automaton.start]), rng.integers(1, length)
    while True:
        left = np.array([max(length - len(written), 1)])
        bytes_ = np.flatnonzero(unpack(mask_within(automaton, state, left), BYTES.size)[0][:256])
        if not len(bytes_) or (automaton.accepts(state)[0] and len(written) >= stop):
            assert automaton.accepts(state)[0]
            return written.decode()
        after = automaton.advance(np.repeat(state, len(bytes_)), bytes_)
        chosen = rng.choice(np.unique(after))
        written += bytes([rng.choice(bytes_[after == chosen])])
        state = np.array([chosen])


def accepts(automaton: Any, text: str) -> bool:
    state = np.array([automaton.start])
    for byte in text.encode():
        state = automaton.advance(state, np.array([byte]))
    return bool(automaton.accepts(state)[0])


def find_sql_fault(text: str) -> str | None:
    """What SQLite says is wrong with the syntax of a text; that a table does not exist, it finds when it has parsed."""
    try:
        with closing(sqlite3.connect(":memory:")) as base:
            base.execute(f"EXPLAIN {text}")
    except sqlite3.Error as error:
        if any(sign in str(error) for sign in ("syntax error", "incomplete input", "unrecognized token")):
            return str(error)
    return None


def find_python_fault(text: str) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            ast.parse(text)
        except SyntaxError as error:
            return str(error)
    return None


@pytest.mark.parametrize("kind", ["select", "insert", "update", "delete", "create"])
def test_sqlite_parses_every_statement_that_is_accepted(kind: Any) -> None:
    automaton, rng = sql(kind).automaton(BYTES), np.random.default_rng(0)
    for _ in range(30):
        text = walk(automaton, rng, 150)
        assert find_sql_fault(text) is None, text


STARTS = {
    "lines": "start: lines",
    "expressions": "start: expression",
    "blocks": 'start: compound{"", one}',
    "functions": 'start: ("@" expression _NL)* def{one}',
    "displays": 'start: "(" element ")" "[" slice "]"',
}


@pytest.mark.parametrize("case", STARTS)
def test_python_parses_all_lines_that_are_accepted(case: str) -> None:
    automaton, rng = ready._make("python", STARTS[case], case).automaton(BYTES), np.random.default_rng(0)
    for _ in range(30):
        text = walk(automaton, rng, 120)
        assert find_python_fault(text) is None, text


QUERIES = [
    "SELECT * FROM users WHERE age > 21 ORDER BY name LIMIT 10;",
    "select u.name, count(*) as n from users u left join orders o on o.user_id = u.id\n"
    "group by u.name having count(*) > 3",
    "SELECT name FROM artists WHERE id IN (SELECT artist_id FROM albums WHERE year BETWEEN 1990 AND 1999)",
    "SELECT DISTINCT city, AVG(price) FROM flats WHERE city NOT LIKE 'B%' GROUP BY city ORDER BY 2 DESC, 1",
    "WITH RECURSIVE t(n) AS (VALUES(1) UNION ALL SELECT n+1 FROM t WHERE n < 10) SELECT n FROM t",
    "INSERT INTO users (name, age) VALUES ('O''Brien', 42), ('X', NULL)",
    "INSERT OR REPLACE INTO kv(k, v) VALUES ('a', 1) ON CONFLICT (k) DO UPDATE SET v = v + 1",
    "INSERT INTO a SELECT * FROM b",
    "UPDATE accounts SET balance = balance - 10.5, note = 'x' || note WHERE id = 7",
    "DELETE FROM logs WHERE created_at < '2020-01-01' AND level IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR(20) NOT NULL DEFAULT '', "
    "w REAL CHECK (w > 0), u INT REFERENCES users(id) ON DELETE CASCADE, UNIQUE (name, w))",
    "SELECT CASE WHEN a > 0 THEN 'pos' WHEN a < 0 THEN 'neg' ELSE 'zero' END AS sign FROM t",
    "SELECT a, ROW_NUMBER() OVER (PARTITION BY b ORDER BY c DESC) FROM t",
    "SELECT t1.a FROM t AS t1, u AS t2 WHERE t1.id = t2.id AND NOT EXISTS (SELECT 1 FROM v WHERE v.id = t1.id)",
    'SELECT CAST(a AS REAL) / 2, -b, (1 + 2) * 3 FROM "my table"',
    "SELECT COUNT(DISTINCT x), MAX(y) FROM t INNER JOIN u USING (id) CROSS JOIN w",
    "SELECT a FROM t UNION SELECT b FROM u ORDER BY 1 LIMIT 5 OFFSET 2",
]
NO_QUERIES = ["SELECT", "SELECT a FROM", "SELECT a,, b", "SELECTa FROM t", "SELECT select FROM t", "DROP TABLE t",
              "SELECT (a--b)", "VALUES (1) LIMIT 1", "SELECT 'a"]  # fmt: skip
SNIPPETS = [
    "x = 1\n",
    "import os.path as p, sys\nfrom . import a\nfrom ..b import c as d, e\n",
    'def fib(n: int = 3, *args, key=None, **kw) -> int:\n    """Numbers."""\n    if n < 2:\n        return n\n'
    "    # it grows\n    return fib(n - 1) + fib(n - 2)\n",
    "class A(B, metaclass=C):\n    x: int = 0\n\n    @property\n    def y(self):\n        return self._y[0, 1:2]\n",
    "for i, j in enumerate(xs):\n    if i % 2 == 0 and not j is None:\n        continue\n    else:\n"
    "        print(f\"{i}: {j:.2f}\", end='')\nelse:\n    pass",
    "try:\n    f()\nexcept (A, B) as e:\n    raise C() from e\nfinally:\n    g()",
    "with open('a') as f, open('b') as g:\n    data = [line.strip() for line in f if line]",
    "x = {k: v for k, v in d.items()}\ny = {1, 2}\nz = (1,)\nw = ()\nlambda a, b: a if b else -a ** 2",
    "while True:\n    x += 1; break",
    "assert x == [1, 2,], 'no'\ndel a.b, c[0]\nglobal q\nyield x",
    "f(*a, b=1, **c)\nprint(sum(x * x for x in range(10)))",
    "if (n := 10) > 5: x = n  # so",
]
NO_SNIPPETS = ["x = ", "1 = x", "if x", "if x:\npass", "f(a=1, 2)", "notx y", "def f(a=1, b): pass", "class", "x = 'a",
               "None = 1", "  x", "x\n  y", "try:\n    x"]  # fmt: skip


def test_real_queries_are_accepted_and_broken_ones_are_not() -> None:
    automaton = sql().automaton(BYTES)
    assert [text for text in QUERIES if find_sql_fault(text) or not accepts(automaton, text)] == []
    assert [text for text in NO_QUERIES if accepts(automaton, text)] == []


def test_real_lines_of_python_are_accepted_and_broken_ones_are_not() -> None:
    automaton = python().automaton(BYTES)
    assert [text for text in SNIPPETS if find_python_fault(text) or not accepts(automaton, text)] == []
    assert [text for text in NO_SNIPPETS if accepts(automaton, text)] == []


def test_a_kind_of_statement_excludes_the_others() -> None:
    select, expression = sql("select", "delete").automaton(BYTES), python("expression").automaton(BYTES)
    assert (
        accepts(select, "SELECT 1")
        and accepts(select, "delete from t")
        and not accepts(select, "INSERT INTO a SELECT 1")
    )
    assert accepts(expression, "[x, y][0](1)") and not accepts(expression, "x = 1")


def test_kinds_and_parts_that_there_are_not_are_refused() -> None:
    with pytest.raises(ArgumentError, match="kinds of statements are select"):
        sql("drop")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match='"lines" or "expression"'):
        python("module")  # type: ignore[arg-type]
