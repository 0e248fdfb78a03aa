"""Serve a saved model by HTTP, in batches: requests that wait for the model are answered together.

    python examples/serving.py outputs/texts 8000
    curl -d '{"text": "What a gripping film!"}' http://127.0.0.1:8000

Standard library only; FastAPI, Ray Serve or `transformers serve` take the place of the server in the same way.
"""

import json
import queue
import sys
import threading
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from modeling_dlr.inference import Predictor

LONGEST = 1_000_000


class Model:
    """One thread that asks the model, with whatever has come in since it was asked last."""

    def __init__(self, folder: str, most: int = 32):
        self.predictor, self.most = Predictor(folder), most
        self.waiting: queue.Queue[tuple[str, Future[Any]]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, text: str) -> dict[str, Any]:
        """The answer for one text, when its batch is done."""
        answer: Future[Any] = Future()
        self.waiting.put((text, answer))
        return answer.result(timeout=60)

    def _work(self) -> None:
        while True:
            batch = [self.waiting.get()]
            while len(batch) < self.most and not self.waiting.empty():
                batch.append(self.waiting.get())
            try:
                for row, (_, answer) in zip(self.predictor([text for text, _ in batch]), batch, strict=True):
                    answer.set_result(row)
            except Exception as error:
                for _, answer in batch:
                    answer.set_exception(error)


def server(folder: str, port: int) -> ThreadingHTTPServer:
    """A server that answers POST requests of {"text": ...}; port 0 is any that is free."""
    model = Model(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            try:
                if not 0 < length <= LONGEST:
                    raise ValueError(f"A request must have 1 to {LONGEST} bytes, got {length}.")
                status, answer = 200, model(str(json.loads(self.rfile.read(length))["text"]))
            except (KeyError, TypeError, ValueError) as error:
                status, answer = 400, {"error": f'Send {{"text": "..."}}: {error}'}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server(sys.argv[1], int(sys.argv[2])).serve_forever()
