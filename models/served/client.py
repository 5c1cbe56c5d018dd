"""Requests to a server: concurrent, patient with one that is busy or restarting, and clear about one that fails."""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, ModelError, ModelLost, quote

if TYPE_CHECKING:
    import httpx2

_BUSY = (429, 503)
"""Statuses of a server that has not begun: the same request may well succeed."""
_LATE = (408, 504, 524)
"""Statuses by which a server or a proxy says that it took too long."""
_BROKEN = (500, 502)
"""Statuses of a server that has failed, maybe over what it has drawn."""
_NOT_AGAIN = "the piece is not drawn anew, which would favour short ones: give a longer timeout=, or fewer max_tokens"
_NOT_ANOTHER = (
    "the piece is not drawn anew, which would favour texts over which the server does not fail: see what it logs"
)
_IDLE = 1.0
"""Seconds after which a connection is not used again: servers close those that idle, some after two."""
_LONGEST_PAUSE = 60.0
_LONGEST_SAID = 500
_LEFT_BEHIND: list[Any] = []
"""What a parent process has opened: a forked one must neither use nor close its connections."""


class Refused(ModelError):
    """The server has understood a request and will not serve it."""

    def __init__(self, said: str, status: int = 0) -> None:  # 0 until `status` follows, where it was pickled
        super().__init__(said)
        self.status = status


class Client:
    """A server that speaks the completions API of OpenAI. Any number of threads may use it.

    A request that cannot reach the server, or meets one that is busy, is sent again up to `retries` times: `pause`
    seconds later, and each time twice as long. One that `draws` is not where the server may have begun: where it is not
    answered within `timeout` seconds, where the connection breaks, or the server fails. Long texts take longer and are
    more often cut off, so that another draw in the place of a lost one would favour short texts. (A draw with a seed is
    none in this sense: it is the same again.)
    """

    def __init__(
        self, base_url: str, *, api_key: str | None, timeout: float, retries: int, pause: float, concurrency: int
    ) -> None:
        self.base_url = _read_url(base_url)
        self.requests = self.retried = 0
        self._key, self._timeout, self._retries, self._pause = api_key, timeout, retries, pause
        self._concurrency = concurrency
        self._jitter = random.Random()
        self._lock = threading.Lock()
        self._opened: httpx2.Client | None = None
        self._owner = os.getpid()
        """The process that has opened it."""
        self._closes: weakref.finalize[Any, Any] | None = None
        """Closes what is open, at the latest when this client is gone."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None, "_opened": None, "_closes": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def get(self, path: str) -> Any:
        """What the server has under `path`, as JSON."""
        return self._request("GET", path, None, True, threading.Event())

    def post_all(self, path: str, bodies: Sequence[dict[str, Any]], *, draws: bool) -> list[Any]:
        """The answers to all `bodies`, in order, sent at the same time.

        Raises ModelLost where the server is out of reach or late, Refused and ModelError for what it answers; the
        other requests are then given up.
        """
        halt = threading.Event()
        if len(bodies) < 2:
            return [self._request("POST", path, body, not draws, halt) for body in bodies]
        sent = [Future[Any]() for _ in bodies]
        waiting = deque(zip(sent, bodies, strict=True))

        def work() -> None:
            with suppress(IndexError):  # nothing waits any more
                while not halt.is_set():
                    future, body = waiting.popleft()
                    try:
                        future.set_result(self._request("POST", path, body, not draws, halt))
                    except BaseException as failure:  # raised by whoever waits
                        future.set_exception(failure)

        try:
            for _ in range(min(self._concurrency, len(bodies))):
                # A request that was given up keeps no process from ending, as the threads of an executor would.
                threading.Thread(target=work, name="feynkac served", daemon=True).start()
            failed = [each for each in wait(sent, return_when=FIRST_EXCEPTION).done if each.exception()]
            return [each.result() for each in failed or sent]
        finally:  # also where whoever waits is interrupted
            halt.set()

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            closes, self._closes, self._opened = self._closes, None, None
        if closes is not None:
            closes()

    def _request(self, method: str, path: str, body: Any, again: bool, halt: threading.Event) -> Any:
        import httpx2

        failure, lost, asked_for = "", None, 0.0
        for attempt in range(self._retries + 1):
            if attempt and halt.wait(max(self._wait_for(attempt), asked_for)):
                break
            with self._lock:
                self.requests += 1
                self.retried += attempt > 0
            try:
                answer = self._open().request(method, f"{self.base_url}/{path}", json=body)
            except (httpx2.ReadTimeout, httpx2.WriteTimeout):
                failure, lost = f"has not answered within {self._timeout:g} seconds", _NOT_AGAIN
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as broken:
                failure, lost = f"cannot be reached ({type(broken).__name__}: {broken})", None
            except httpx2.TransportError as broken:
                failure, lost = f"has broken off ({type(broken).__name__}: {broken})", _NOT_ANOTHER
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as wrong:
                raise ArgumentError(f"base_url {quote(self.base_url)} cannot be asked: {wrong}") from wrong
            else:
                if (status := answer.status_code) not in (*_BUSY, *_LATE, *_BROKEN):
                    return self._read(answer)
                failure = f"answers {status}: {_read_reason(answer)}"
                lost = _NOT_AGAIN if status in _LATE else _NOT_ANOTHER if status in _BROKEN else None
                asked_for = _read_pause(answer)
            if lost and not again:
                raise self._lose(failure, lost)
        raise self._lose(f"{failure}, tried {self._retries + 1} times", "start it again, or see what it logs")

    def _wait_for(self, attempt: int) -> float:
        """Seconds before an attempt, a little different each time, so that not all come back at one moment."""
        return self._pause * 2.0 ** (attempt - 1) * self._jitter.uniform(0.75, 1.25)

    def _lose(self, failure: str, advice: str) -> ModelLost:
        return ModelLost(f"the server at {self.base_url} {failure}; {advice}")

    def _read(self, answer: httpx2.Response) -> Any:
        if answer.status_code >= 300:
            what = f"refuses the request with {answer.status_code}"
            raise Refused(f"the server at {self.base_url} {what}: {_read_reason(answer)}", answer.status_code)
        try:
            return answer.json()
        except ValueError as cause:
            raise ModelError(
                f"the server at {self.base_url} answers with what is no JSON, {quote(_shorten(answer.text))}; is this "
                "the address of a completions API, such as http://localhost:8000/v1?"
            ) from cause

    def _open(self) -> httpx2.Client:
        with self._lock:
            if self._opened is not None and self._owner != os.getpid():
                self._leave_behind()
            if self._opened is None:
                import httpx2

                self._owner = os.getpid()
                self._opened = httpx2.Client(
                    headers={} if self._key is None else {"Authorization": f"Bearer {self._key}"},
                    timeout=httpx2.Timeout(self._timeout, connect=min(self._timeout, 10.0), pool=None),
                    limits=httpx2.Limits(max_connections=self._concurrency, keepalive_expiry=_IDLE),
                )
                self._closes = weakref.finalize(self, self._opened.close)
            return self._opened

    def _leave_behind(self) -> None:
        """Let go of what a parent process has opened, as it is."""
        if self._closes is not None:
            self._closes.detach()
        _LEFT_BEHIND.append(self._opened)
        self._opened = self._closes = None


def _read_url(base_url: Any) -> str:
    """The address without a slash at its end; one without a path gets that of the API."""
    import httpx2

    said = f"base_url is {quote(base_url)}; give an address, such as 'http://localhost:8000/v1'"
    if not isinstance(base_url, str | httpx2.URL):
        raise ArgumentError(said)
    try:
        url = httpx2.URL(base_url)
    except (httpx2.InvalidURL, ValueError) as cause:  # the latter of half of a character
        raise ArgumentError(said) from cause
    if url.scheme not in ("http", "https") or not url.host:
        raise ArgumentError(said)
    return str(url.copy_with(path=url.path.rstrip("/") or "/v1"))


def _read_reason(answer: httpx2.Response) -> str:
    """What the server says went wrong."""
    try:
        said = answer.json()
    except ValueError:
        said = answer.text
    while isinstance(said, dict):
        said = next((said[name] for name in ("error", "message", "detail") if name in said), str(said))
    return _shorten(str(said)) or answer.reason_phrase


def _read_pause(answer: httpx2.Response) -> float:
    """The seconds after which the server wants to be asked again; 0 where it does not say."""
    said = answer.headers.get("Retry-After", "")
    return min(float(said), _LONGEST_PAUSE) if said.replace(".", "", 1).isdigit() else 0.0


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_SAID else f"{text[:_LONGEST_SAID]}..."
