"""A server that continues prompts as an OpenAI-compatible one does, with a real model behind it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch


class CompletionServer(ThreadingHTTPServer):
    """Continues greedily with `model`; refuses the first `busy` requests with 500, and all after `most` for good."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Listen on a free loopback port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.tokenizer = model, tokenizer
        self.lock = threading.Lock()
        self.busy, self.most = 0, 10**9
        self.asked: list[dict[str, Any]] = []

    @property
    def base_url(self) -> str:
        """Base URL of the API."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: CompletionServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_POST(self) -> None:
        """Continue a prompt."""
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            if self.path != "/v1/completions":
                return self._send(404, {"error": {"message": "not found"}})
            if self.server.busy:
                self.server.busy -= 1
                return self._send(500, {"error": {"message": "busy"}})
            if len(self.server.asked) >= self.server.most:
                key = self.headers["authorization"]
                return self._send(400, {"error": {"message": f"no more for {key}"}})
            self.server.asked.append(request)
            return self._send(200, self._continued(request))

    def _continued(self, request: dict[str, Any]) -> dict[str, Any]:
        ids = self.server.tokenizer(request["prompt"], return_tensors="pt")
        with torch.inference_mode():
            found = self.server.model.generate(**ids, max_new_tokens=request["max_tokens"], do_sample=False)
        text = self.server.tokenizer.decode(found[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        for stop in request["stop"]:
            text = text.partition(stop)[0]
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": ids["input_ids"].numel(), "completion_tokens": 1, "total_tokens": found.numel()}
        return {"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve_completions(model: Any, tokenizer: Any) -> Iterator[CompletionServer]:
    """Serve until the block ends."""
    server = CompletionServer(model, tokenizer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
