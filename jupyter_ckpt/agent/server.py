"""HTTP on the agent's unix socket. Nothing sent here can end the agent."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import socketserver
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from ..errors import (
    AgentBusy,
    CheckpointError,
    JobNotFound,
    NotFound,
    ProtocolError,
    RequestTooSlow,
    StoreUnusable,
)
from ..protocol import MAX_BODY_BYTES, REQUEST_TIMEOUT_S, SOCKET_NAME, Job, checked_request_id
from . import questions
from .bodies import check_body
from .core import Agent
from .deadline import TimedStream
from .jobs import JobTable
from .lines import Lines
from .news import News
from .replacing import recover, restore
from .requests import check_epoch, done
from .saving import save
from .schedule import Act, Scheduler

log = logging.getLogger(__name__)
MAX_CONNECTIONS = 64
_LENGTH = re.compile(r"[0-9]{1,18}")  # not isdigit(): "²" is one, and no number
_JOB_PATH = re.compile(r"/(launches|checkpoints|restores)/([^/]+)")

Answer = tuple[int, Any]


class Routes:
    """What each request means; knows agent and jobs, not sockets."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.jobs = JobTable()
        self.news = News(self.jobs)
        agent.await_running = self.jobs.await_running
        if agent.unfinished is not None:
            self.jobs.put("restores", f"recover-{agent.unfinished.recover}",
                          partial(recover, agent))
        self._acts: dict[str, Act] = {
            "launches": agent.launch, "checkpoints": partial(save, agent),
            "restores": partial(restore, agent)}
        self.scheduler = Scheduler(agent, self.jobs, self._acts["checkpoints"])
        self._questions: dict[str, Callable[[], Any]] = {
            "/status": lambda: questions.status(agent, self.jobs.all()),
            "/running": partial(questions.running, agent),
            "/list": partial(questions.listing, agent),
            "/schedule": self.scheduler.view}

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        """Return (status, JSON); raises `CheckpointError` for a refused request."""
        self.agent.check_place()
        match = _JOB_PATH.fullmatch(path)
        if match:
            return self._job(method, match[1], checked_request_id(match[2]), body)
        if method == "GET" and path in self._questions:
            return 200, self._questions[path]()
        check_epoch(self.agent, body)
        if method == "PUT" and path == "/schedule":
            return 200, self.scheduler.change(body)
        if method == "POST" and path == "/cells":
            return 202, self.scheduler.cells_done()
        if method == "POST":
            return self._act(path, body)
        raise NotFound(f"There is no {method[:20]} {path[:100]} here.")

    def _job(self, method: str, kind: str, request_id: str, body: dict[str, Any]) -> Answer:
        if method == "GET":
            return 200, self._known(kind, request_id, body).to_dict()
        if method == "DELETE":
            return 200, self.jobs.cancel(kind, request_id).to_dict()
        if method == "PUT":
            return 202, self._put(kind, request_id, body).to_dict()
        raise NotFound(f"A job takes PUT, GET and DELETE, not {method[:20]}.")

    def _known(self, kind: str, request_id: str, body: dict[str, Any]) -> Job:
        """Return a job of ours, or what an agent before us finished under this id."""
        try:
            return self.jobs.get(kind, request_id)
        except JobNotFound as unknown:
            try:
                result = done(self.agent, kind, request_id, body)
            except StoreUnusable:
                raise unknown from None
            if result is None:
                raise
            return Job(request_id, kind, "done", result=result)

    def _put(self, kind: str, request_id: str, body: dict[str, Any]) -> Job:
        def act(job: Job) -> dict[str, Any]:
            # Asked only now, after what was queued before: also a `recover`.
            self.agent.check_place()
            found = done(self.agent, kind, request_id, body)
            if found is not None:
                return found
            check_epoch(self.agent, body, request_id)
            return self._acts[kind](body, job)

        check_body(kind, body)
        return self.jobs.put(kind, request_id, act, body.get("asker", ""))

    def _act(self, path: str, body: dict[str, Any]) -> Answer:
        if path == "/interrupt":
            self.agent.need_kernel().interrupt()
        elif path == "/signal":
            number = body.get("signal")
            if type(number) is not int:
                raise ProtocolError("'signal' is a number.")
            if not 1 <= number <= 64:
                raise ProtocolError(f"{number} is not a signal.")
            self.agent.need_kernel().signal(number)
        elif path == "/session":
            self.agent.note_session(body)
        elif path == "/shutdown":
            self.agent.shutdown()
        elif path == "/dismiss":
            self.agent.dismiss()
        else:
            raise NotFound(f"There is no POST {path[:100]} here.")
        return 200, {}


class _Handler(BaseHTTPRequestHandler):
    """One connection; a slow or malformed request gets its 4xx."""

    protocol_version = "HTTP/1.1"
    timeout = REQUEST_TIMEOUT_S
    server: AgentServer
    requestline = ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(TimedStream(
            self.connection, self.timeout, lambda: self.server.lines.is_dropped(self.connection)))

    def handle(self) -> None:
        try:
            super().handle()
        except RequestTooSlow as error:  # in its header: nobody is asked
            self._send(error.http_status, {"error": error.to_dict()})

    def _serve(self) -> None:
        if (self.command, self.path) == ("GET", "/events"):
            return self._stream()
        try:
            status, answer = self.server.routes.answer(self.command, self.path, self._body())
        except CheckpointError as error:
            status, answer = error.http_status, {"error": error.to_dict()}
        except Exception as error:
            log.exception("%s %s failed", self.command, self.path)
            failure = CheckpointError(f"The agent failed to answer ({type(error).__name__}).",
                                      "The agent.log in the kernel's runtime folder tells more.")
            status, answer = 500, {"error": failure.to_dict()}
        self._send(status, answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _serve

    def _stream(self) -> None:
        self.server.lines.serve(self.connection)
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Connection", "close")
        self.end_headers()
        self.server.routes.news.tell(self.connection, self.wfile.write)

    def _body(self) -> dict[str, Any]:
        text = self.headers.get("Content-Length", "0")
        if not _LENGTH.fullmatch(text) or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            raise ProtocolError("A request has a Content-Length and no Transfer-Encoding.")
        length = int(text)
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            raise ProtocolError(f"A request has at most {MAX_BODY_BYTES} bytes.")
        raw = self.rfile.read(length)
        if len(raw) < length:
            self.close_connection = True
            raise ProtocolError("The request ended early.")
        self.server.lines.serve(self.connection)
        try:
            body = json.loads(raw) if raw else {}
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"The request is not JSON: {error}.") from error
        if not isinstance(body, dict):
            raise ProtocolError("The request is not a JSON object.")
        return body

    def _send(self, status: int, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.request_version = "HTTP/1.1"  # or a garbled request gets no status line
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        error = ProtocolError(f"The request is malformed: {message or HTTPStatus(code).phrase}.")
        self._send(code if code < 500 else 400, {"error": error.to_dict()})

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def address_string(self) -> str:
        return "socket"


def _busy() -> bytes:
    """Return the whole answer to who finds every place taken."""
    error = AgentBusy(f"The agent has {MAX_CONNECTIONS} requests at work and takes no more now.",
                      "Ask again in a moment.")
    body = json.dumps({"error": error.to_dict()}).encode()
    return (f"HTTP/1.1 {error.http_status} Busy\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n").encode() + body


_BUSY = _busy()


class AgentServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Accepts its owner (and root) on ``agent.sock`` in `folder`, nobody else."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, agent: Agent) -> None:
        self.routes = Routes(agent)
        self.lines = Lines(MAX_CONNECTIONS)
        path = folder / SOCKET_NAME
        path.unlink(missing_ok=True)
        handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            # By way of the folder's descriptor: a socket's path is at most 107 bytes.
            super().__init__(f"/proc/self/fd/{handle}/{SOCKET_NAME}", _Handler)
        finally:
            os.close(handle)
        os.chmod(path, 0o600)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        raw = request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", raw)
        return uid in (0, os.getuid())

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.lines.admit(request):
            with suppress(OSError):
                request.send(_BUSY, socket.MSG_DONTWAIT)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.lines.leave(request)  # no thread could be started, so none does it
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.lines.leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection broke", exc_info=True)
