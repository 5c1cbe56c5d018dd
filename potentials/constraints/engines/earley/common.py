"""The terminals that `%import common.NAME` brings, with the names and meanings of Lark's library."""

from __future__ import annotations

import re

_INT = r"[0-9]+"
_DECIMAL = r"(?:[0-9]+\.[0-9]*|\.[0-9]+)"
_FLOAT = rf"(?:[0-9]+[eE][+-]?[0-9]+|{_DECIMAL}(?:[eE][+-]?[0-9]+)?)"
_NUMBER = rf"(?:{_FLOAT}|{_INT})"

COMMON: dict[str, tuple[str, int]] = {
    "DIGIT": ("[0-9]", 0),
    "HEXDIGIT": ("[a-fA-F0-9]", 0),
    "INT": (_INT, 0),
    "SIGNED_INT": (rf"[+-]?{_INT}", 0),
    "DECIMAL": (_DECIMAL, 0),
    "FLOAT": (_FLOAT, 0),
    "SIGNED_FLOAT": (rf"[+-]?{_FLOAT}", 0),
    "NUMBER": (_NUMBER, 0),
    "SIGNED_NUMBER": (rf"[+-]?{_NUMBER}", 0),
    "ESCAPED_STRING": (r'"(?:[^"\\\n]|\\.)*"', 0),
    "LCASE_LETTER": ("[a-z]", 0),
    "UCASE_LETTER": ("[A-Z]", 0),
    "LETTER": ("[A-Za-z]", 0),
    "WORD": ("[A-Za-z]+", 0),
    "CNAME": ("[A-Za-z_][A-Za-z0-9_]*", 0),
    "WS_INLINE": (r"[ \t]+", 0),
    "WS": (r"[ \t\f\r\n]+", 0),
    "CR": (r"\r", 0),
    "LF": (r"\n", 0),
    "NEWLINE": (r"(?:\r?\n)+", 0),
    "SH_COMMENT": (r"#[^\n]*", 0),
    "CPP_COMMENT": (r"//[^\n]*", 0),
    "SQL_COMMENT": (r"--[^\n]*", 0),
    "C_COMMENT": (r"/\*(?:[^*]|\*+[^*/])*\*+/", re.DOTALL),
}
"""Each name, with a regular expression in Python's syntax and its flags."""
