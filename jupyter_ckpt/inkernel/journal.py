"""Which requests run or ran lately, and what they have put out.

Requests are seen by wrapping the kernel's ``execute_request`` handler; outputs
where every message passes on its way out, in the iopub thread: also those of
forked children, threads and libraries with a publisher of their own.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from .background import has_background
from .outputs import LIMIT_BYTES, Outputs

KEPT_REQUESTS = 16
KEPT_MESSAGE_IDS = 500
OUTPUT_TYPES = ("stream", "display_data", "execute_result", "error")
_CALLBACKS = ("comm_open", "comm_msg", "comm_close")
_DELIMITER = b"<IDS|MSG>"
_KINDS = (b"stream", b"display_data", b"execute_result", b"error", b"clear_output")


class Request:
    """One execute request: what a front end needs to find its cell again."""

    def __init__(self, parent: dict[str, Any], execution_count: int) -> None:
        header = parent["header"]
        self.msg_id = str(header["msg_id"])
        self.session = header.get("session")
        self.subshell_id = header.get("subshell_id")
        self.cell_id = (parent.get("metadata") or {}).get("cellId")
        self.code = (parent.get("content") or {}).get("code", "")
        self.execution_count = execution_count
        self.outputs = Outputs()
        self.message_ids: deque[str] = deque(maxlen=KEPT_MESSAGE_IDS)
        self.finished = False

    def to_dict(self) -> dict[str, Any]:
        return {"msg_id": self.msg_id, "cell_id": self.cell_id, "session": self.session,
                "execution_count": self.execution_count, "code": self.code}


class Journal:
    """The running and the last finished requests of this kernel."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._busy = 0
        self._requests: OrderedDict[str, Request] = OrderedDict()
        self._cells_run = 0
        self._callbacks = 0
        self._watches_requests = False
        self.on_cell_end: Callable[[], None] = lambda: None
        """Called after each cell, on its thread; it must not wait."""
        self.problem: str | None = None
        """Why outputs are not followed, None while they are."""

    # -- requests ---------------------------------------------------------------------

    def watch_requests(self, kernel: Any) -> None:
        """Put ourselves around the kernel's execute_request handler."""
        handle = kernel.shell_handlers["execute_request"]

        async def execute_request(stream: Any, ident: Any, parent: Any) -> Any:
            request = self._begin(parent)
            try:
                return await handle(stream, ident, parent)
            finally:
                self._end(request)

        def legacy_request(stream: Any, ident: Any, parent: Any) -> Any:
            # ipykernel 5 has no coroutine functions, and would not await one.
            request = self._begin(parent)
            result: Any = None
            try:
                result = handle(stream, ident, parent)
            finally:
                if hasattr(result, "add_done_callback"):
                    result.add_done_callback(lambda _: self._end(request))
                else:
                    self._end(request)
            return result

        kernel.shell_handlers["execute_request"] = (
            execute_request if inspect.iscoroutinefunction(handle) else legacy_request)
        self._watches_requests = True

    def watch_callbacks(self, kernel: Any) -> None:
        """Count what widgets and their like have run in this kernel."""
        for kind in _CALLBACKS:
            if kind in kernel.shell_handlers:
                kernel.shell_handlers[kind] = self._counting(kernel.shell_handlers[kind])

    def _counting(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self._count_callback()
            try:
                return handle(*arguments, **named)
            finally:
                self._count_callback()  # again: it may have gone on during a save

        return counted

    def _count_callback(self) -> None:
        with self._lock:
            self._callbacks += 1

    def _begin(self, parent: Any) -> Request | None:
        with self._lock:
            self._busy += 1
            try:
                if parent["content"].get("silent"):
                    self._callbacks += 1
                    return None
                request = Request(parent, int(self._shell.execution_count))
            except (KeyError, TypeError, AttributeError, ValueError):
                return None  # malformed: the kernel says so itself
            self._requests[request.msg_id] = request
            finished = [r.msg_id for r in self._requests.values() if r.finished]
            for msg_id in finished[: max(0, len(self._requests) - KEPT_REQUESTS)]:
                del self._requests[msg_id]
            return request

    def _end(self, request: Request | None) -> None:
        with self._lock:
            self._busy -= 1
            if request is None:
                return
            request.finished = True
            self._cells_run += 1
        self.on_cell_end()

    # -- outputs ----------------------------------------------------------------------

    def watch_outputs(self, iopub_thread: Any, unpack: Any) -> None:
        """Read along what the iopub thread sends; it sends whatever happens here."""
        send = iopub_thread._really_send

        def _really_send(frames: Any, *args: Any, **kwargs: Any) -> Any:
            if os.getpid() == self._pid:
                try:
                    self._read(frames, unpack)
                except Exception as error:
                    self.problem = f"{type(error).__name__}: {error}"
            return send(frames, *args, **kwargs)

        iopub_thread._really_send = _really_send

    def _read(self, frames: Any, unpack: Any) -> None:
        parts = [bytes(getattr(frame, "buffer", frame)) for frame in frames[:8]]
        if _DELIMITER not in parts:
            return
        start = parts.index(_DELIMITER) + 2
        header, parent, _, content = parts[start:start + 4]
        if not any(kind in header for kind in _KINDS):
            return
        message = unpack(header)
        kind = message["msg_type"]
        with self._lock:
            request = self._requests.get(unpack(parent).get("msg_id"))
            if request is not None:
                request.message_ids.append(message["msg_id"])
            if kind == "update_display_data":
                data = unpack(content)
                for known in self._requests.values():
                    known.outputs.update(data, len(content))
            elif request is None:
                return
            elif kind == "clear_output":
                request.outputs.clear(bool(unpack(content).get("wait")))
            elif kind in OUTPUT_TYPES:
                self._add(request, kind, content, unpack)

    def _add(self, request: Request, kind: str, content: bytes, unpack: Any) -> None:
        if len(content) > LIMIT_BYTES and kind != "stream":
            request.outputs.add_unkept(len(content))
        else:
            request.outputs.add(kind, unpack(content), len(content))

    # -- what others ask --------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether any execute request is being handled, silent ones included."""
        return self._busy > 0

    def status(self) -> dict[str, Any]:
        """Return {execution_count, busy, cells_run, callbacks_run, background, running}.

        The first is of the last cell; ``callbacks_run`` is only good for comparing. Where
        requests are not watched nobody knows of `busy` and `cells_run`: None.
        """
        knows = self._watches_requests
        background = has_background(getattr(self._shell, "kernel", None))
        with self._lock:
            running = self._running()
            count = running.execution_count if running else int(self._shell.execution_count) - 1
            return {"execution_count": max(count, 0), "busy": self._busy > 0 if knows else None,
                    "cells_run": self._cells_run if knows else None,
                    "callbacks_run": self._callbacks, "background": background,
                    "running": running.to_dict() if running else None}

    def running(self) -> dict[str, Any]:
        """Return `status` with the outputs of the running and of recent requests."""
        answer = self.status()
        with self._lock:
            running = self._running()
            if running is not None and answer["running"] is not None:
                # The ids tell a listener which of the messages it has got are in the outputs.
                answer["running"] = {**running.to_dict(), **running.outputs.told(),
                                     "message_ids": list(running.message_ids)}
                answer["outputs"] = answer["running"]["outputs"]
            else:
                answer["outputs"] = []
            answer["recent"] = [
                {**r.to_dict(), **r.outputs.told(), "finished": True}
                for r in self._requests.values() if r.finished]
        return answer

    def _running(self) -> Request | None:
        active = [r for r in self._requests.values() if not r.finished]
        main = [r for r in active if not r.subshell_id]
        return (main or active or [None])[0]  # type: ignore[list-item]
