"""The session that suffers: a counter, a child on a pipe, a file it writes, memory."""

from __future__ import annotations

import ast
import itertools
import os
import queue
import time
from typing import Any

import zmq
from jupyter_client import BlockingKernelClient

from jupyter_ckpt.procfs import ProcessId, descendants, stat_fields
from jupyter_ckpt.record import Record, read_record

from .place import Place

ANSWER_S = 40.0
ASK_AGAIN_S = 4.0

CODE = """
import json, os, subprocess, sys, threading, time
ticks, lines, token, writing = 0, 0, 0, True
memory = os.urandom(20 << 20)
journal = open({journal!r}, 'w')
child = subprocess.Popen([sys.executable, '-uIS', '-c', 'for line in open(0): print(line[::-1])'],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

def count():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.002)

def write():
    global lines
    while True:
        if writing:
            journal.write(f'{{lines}}\\n')
            journal.flush()
            lines += 1
        time.sleep(0.003)

def ping():
    print('ping', file=child.stdin, flush=True)
    child.stdout.readline()
    return child.stdout.readline().strip()

def state():
    before = ticks
    deadline = time.monotonic() + 5
    while ticks == before and time.monotonic() < deadline:
        time.sleep(0.002)
    return {{'advanced': ticks > before, 'pong': ping(), 'token': token, 'lines': lines,
             'sum': memory[0] + memory[-1]}}

for act in (count, write):
    threading.Thread(target=act, daemon=True).start()
"""


class Talker:
    """A front end that asks on the shell channel alone, and asks again."""

    def __init__(self, connection_file: str) -> None:
        self._client = BlockingKernelClient(connection_file=connection_file)
        self._client.load_connection_file()
        self._client.start_channels(iopub=False, stdin=False, hb=False, control=False)
        self._client.shell_channel.socket.sndtimeo = round(ASK_AGAIN_S * 1000)

    def ask(self, code: str, expression: str = "None", timeout_s: float = ANSWER_S) -> Any:
        """Run `code` and return the value of `expression`, which must have a plain repr.

        Raises `TimeoutError`. A request may be lost with a process that is
        replaced, so it is sent again now and then: `code` must bear that.
        """
        deadline = time.monotonic() + timeout_s
        sent: set[str] = set()
        while (left := deadline - time.monotonic()) > 0:
            try:
                sent.add(self._client.execute(code, silent=True, store_history=False,
                                              user_expressions={"asked": expression}))
            except zmq.Again as error:
                raise TimeoutError("nothing can be sent to the kernel") from error
            again = time.monotonic() + min(left, ASK_AGAIN_S)
            while (wait := again - time.monotonic()) > 0:
                try:
                    reply = self._client.get_shell_msg(timeout=wait)
                except queue.Empty:
                    break
                if reply["parent_header"].get("msg_id") in sent:
                    return _value(reply["content"])
        raise TimeoutError("the kernel does not answer")

    def close(self) -> None:
        self._client.stop_channels()


def _value(content: dict[str, Any]) -> Any:
    asked = content.get("user_expressions", {}).get("asked", {})
    if content["status"] != "ok" or asked.get("status") != "ok":
        raise AssertionError(f"the session met an error: {content.get('evalue')}, {asked}")
    return ast.literal_eval(asked["data"]["text/plain"])


class Session:
    """One kernel with the code above. `token` tells which of its states one meets."""

    _tokens = itertools.count(1)

    def __init__(self, place: Place, kernel_id: str) -> None:
        self.place, self.kernel_id = place, kernel_id
        self.journal = place.work / f"journal-{kernel_id[:8]}"
        self.talker = Talker(str(place.locations.connection_file(kernel_id)))
        code = CODE.format(journal=str(self.journal))
        self.talker.ask(f"if 'ticks' not in globals(): exec({code!r}, globals())")

    @property
    def record(self) -> Record:
        return read_record(self.place.locations.folder(self.kernel_id))

    def has_agent(self) -> bool:
        agent = self.record.agent
        return agent is not None and agent.is_alive()

    def mark(self) -> int:
        """Give the session another token and new memory; return the token."""
        token = next(self._tokens)
        self.talker.ask(f"token, more = {token}, os.urandom(1 << 20)")
        return token

    def begin_journal(self) -> None:
        """Begin the file anew: copies of the session may have written to it."""
        self.stop_writing()
        self.talker.ask("journal.seek(0); journal.truncate(); lines = 0; writing = True")

    def stop_writing(self) -> None:
        self.talker.ask("writing = False; time.sleep(0.02)")

    def state(self, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        found: dict[str, Any] = self.talker.ask("", "state()", timeout_s)
        return found

    def complaints(self, tokens: set[int], timeout_s: float = ANSWER_S) -> list[str]:
        """Return what is wrong with this session, whose token is one of `tokens`."""
        try:
            found = self.state(timeout_s)
        except TimeoutError as error:
            return [f"{error} (process states: {tree_states(self)})"]
        wrong = []
        if not found["advanced"]:
            wrong.append("the counter stands still")
        if found["pong"] != "gnip":
            wrong.append(f"the child process answers {found['pong']!r}")
        if found["token"] not in tokens:
            wrong.append(f"the session is in state {found['token']}, not {sorted(tokens)}")
        return wrong + self._journal_complaints(found["lines"])

    def _journal_complaints(self, least: int) -> list[str]:
        lines = self.journal.read_text().split("\n")[:-1]
        if lines != [str(number) for number in range(len(lines))]:
            wrong = next(n for n, line in enumerate(lines) if line != str(n))
            return [f"line {wrong} of its file is {lines[wrong]!r}"]
        if len(lines) < least:
            return [f"its file has {len(lines)} lines, it wrote {least}"]
        return []

    def is_alive(self) -> bool:
        try:
            return self.record.is_alive()
        except Exception:
            return False

    def close(self) -> None:
        self.talker.close()
        for path in self.place.work.glob(f"{self.journal.name}*"):
            path.unlink()


def tree_states(session: Session) -> str:
    """Return the states of a session's processes and threads, as in ``SSt``."""
    try:
        record = session.record
    except Exception:
        return "none"
    return "".join(states_of(record.init)) or "none"


def states_of(top: ProcessId | None) -> list[str]:
    """Return the state of every thread below `top`."""
    found = []
    for pid in descendants(top.pid) if top is not None and top.is_alive() else ():
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            fields = stat_fields(int(thread))
            found.append(fields[0] if fields else "")
    return found


