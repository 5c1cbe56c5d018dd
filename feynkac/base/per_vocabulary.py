"""Values that are made once for each vocabulary, for all threads."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary

T = TypeVar("T")


class PerVocabulary(Generic[T]):
    """A value for each vocabulary, made on first use and freed with its vocabulary. Any number of threads may ask.

    A value must not refer to the vocabulary, or neither would ever be freed. Copies and pickles begin empty.
    """

    def __init__(self) -> None:
        self._values: WeakKeyDictionary[Vocabulary, T] = WeakKeyDictionary()
        self._lock = RLock()

    def find(self, vocabulary: Vocabulary, make: Callable[[Vocabulary], T]) -> T:
        """The value of `vocabulary`, which is `make(vocabulary)` unless there is one already."""
        with self._lock:
            if vocabulary not in self._values:
                self._values[vocabulary] = make(vocabulary)
            return self._values[vocabulary]

    def __reduce__(self) -> tuple[type[PerVocabulary[T]], tuple[()]]:
        return PerVocabulary, ()
