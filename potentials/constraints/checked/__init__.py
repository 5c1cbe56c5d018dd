"""Constraints that check one token at a time: functions of the text so far, and parsers that go along with it."""
