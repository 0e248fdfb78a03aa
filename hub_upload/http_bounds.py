"""Limit requests to the Hub, so that silent, slow, endless or waiting answers do not block a program."""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from huggingface_hub import set_client_factory
from huggingface_hub.utils import _http, parse_ratelimit_headers

from .errors import RemoteError

_SILENCE = 60.0  # seconds without a byte
_LONGEST_WAIT = 60  # seconds that the Hub may ask to wait
_LONGEST_ANSWER = 2**28
_WAITING = {408, 429, 500, 502, 503, 504}  # status codes after which huggingface_hub waits and retries


class Bounds:
    """The limits of every request of a client.

    Attributes:
        over: whether the time limit was reached.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.over = False
        self._connections: list[socket.socket] = []

    def attach(self, client: Any) -> Any:
        """Add these limits to a client, and return it."""
        hooks = client.event_hooks
        client.timeout = min(_SILENCE, self.seconds)
        client.event_hooks = {
            "request": [*hooks["request"], self._before_request],
            "response": [*hooks["response"], self._before_answer],
        }
        return client

    def refuse(self) -> RemoteError:
        """The error for a reached time limit."""
        return RemoteError(f"The Hub did not finish its answer within {self.seconds:,.0f} s: try again later.")

    def end(self) -> None:
        """End all requests, because the time limit is reached."""
        self.over = True
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the connections."""
        for connection in self._connections:
            connection.close()

    def _before_request(self, request: Any) -> None:
        if self.over:
            raise self.refuse()
        request.extensions = {**request.extensions, "trace": self._remember}

    def _remember(self, event: str, info: dict[str, Any]) -> None:
        """Keep a handle of every new connection, so that it can be closed."""
        if event.endswith("connect_tcp.complete"):
            self._connections.append(info["return_value"].get_extra_info("socket").dup())

    def _before_answer(self, response: Any) -> None:
        wait = _asked_to_wait(response.headers)
        if response.status_code in _WAITING and wait > _LONGEST_WAIT:
            raise RemoteError(f"The Hub asks to wait {wait:,} s: try again after that.")
        response.stream = _counted(response)


def _asked_to_wait(headers: Any) -> int:
    """The seconds that an answer asks to wait, in both forms that huggingface_hub supports."""
    limit = parse_ratelimit_headers(headers)
    after = headers.get("Retry-After", "").strip()
    return max(int(after[:9]) if after.isdigit() else 0, 0 if limit is None else limit.reset_in_seconds)


def _counted(response: Any) -> Any:
    """Limit the length of an answer's body."""
    library = sys.modules[type(response).__module__.partition(".")[0]]  # whichever huggingface_hub has its client from

    class Counted(library.SyncByteStream):
        def __init__(self, stream: Any):
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            length = 0
            for part in self.stream:
                length += len(part)
                if length > _LONGEST_ANSWER:
                    raise RemoteError(f"The Hub gave an answer of more than {_LONGEST_ANSWER:,} bytes.")
                yield part

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def close(self) -> None:
            self.stream.close()

    return Counted(response.stream)


@contextlib.contextmanager
def bounded_requests(seconds: float) -> Iterator[Bounds]:
    """In this context, limit every request of huggingface_hub's client, and all together to ``seconds``."""
    bounds = Bounds(seconds)
    before: Callable[[], Any] = _http._GLOBAL_CLIENT_FACTORY
    set_client_factory(lambda: bounds.attach(before()))
    timer = threading.Timer(seconds, bounds.end)
    timer.daemon = True
    timer.start()
    try:
        yield bounds
    finally:
        timer.cancel()
        set_client_factory(before)
        bounds.close()
