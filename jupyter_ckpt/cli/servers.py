"""The Jupyter servers of this user that run now, and what to ask of them.

A server is asked over HTTP with the token of its runtime file, as
``jupyter server list`` finds it. Nothing here changes anything by itself.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ..errors import CheckpointError, NotPossibleHere, RestoreFailed, from_dict
from ..procfs import ProcessId
from .places import is_below

_ASK_TIMEOUT_S = 10.0
_ALIVE_TIMEOUT_S = 5.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}
"""What a server listens on that listens everywhere, and where it is to be found then."""


@dataclass(frozen=True)
class Answer:
    """What a server answered; `data` is None when it was no JSON."""

    status: int
    data: Any


class RunningServer:
    """One running Jupyter server."""

    def __init__(self, file: Path) -> None:
        """Read its runtime file; raises OSError, ValueError, KeyError and TypeError."""
        self.file = file
        info: dict[str, Any] = json.loads(file.read_bytes())
        self.url = str(info["url"])
        self.pid = int(info.get("pid") or 0)
        self.root_dir = str(info.get("root_dir") or info.get("notebook_dir") or "")
        self._token = str(info.get("token") or "")
        self._parts = urlsplit(self.url)
        self._host = self._parts.hostname or "localhost"
        if self._host in _WILDCARDS:
            self._host = _WILDCARDS[self._host]

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None,
            timeout_s: float = _ASK_TIMEOUT_S) -> Answer:
        """Send one request to a path below the server's base URL.

        Raises `NotPossibleHere` when there is no whole answer within `timeout_s`.
        """
        connection = self._connection(timeout_s)
        payload = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, self._parts.path.rstrip("/") + "/" + path, payload,
                               self._headers())
            response = connection.getresponse()
            text = response.read()
        except ssl.SSLError as error:
            raise NotPossibleHere(
                f"No secure connection to the Jupyter server at {self.url}: "
                f"{error.reason or error}.",
                "Let SSL_CERT_FILE name its certificate, or use --no-server.") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise NotPossibleHere(
                f"The Jupyter server at {self.url} does not answer: {reason}.",
                "Look at the server, or use --no-server.") from error
        finally:
            connection.close()
        try:
            return Answer(response.status, json.loads(text) if text else None)
        except ValueError:
            return Answer(response.status, None)

    def _headers(self) -> dict[str, str]:
        # A server without tokens wants the same value in cookie and header, as
        # a page of its own would send them; a token makes it unnecessary.
        value = secrets.token_hex(16)
        headers = {"Content-Type": "application/json", "Cookie": f"_xsrf={value}",
                   "X-XSRFToken": value}
        if self._token:
            headers["Authorization"] = f"token {self._token}"
        return headers

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._parts.scheme == "http+unix":
            return _UnixConnection(unquote(self._parts.netloc), timeout_s)
        if self._parts.scheme != "https":
            return http.client.HTTPConnection(self._host, self._parts.port, timeout=timeout_s)
        context = ssl.create_default_context()
        if self._host in _LOOPBACK or (_is_ours(self.pid) and _is_here(self._host)):
            # Certificates of local servers are mostly self-made, and the
            # address comes from a private file of this user.
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(self._host, self._parts.port, timeout=timeout_s,
                                           context=context)

    def contains(self, notebook: str) -> bool:
        """Tell whether this server could show the document `notebook`."""
        return bool(self.root_dir) and is_below(notebook, self.root_dir)

    def shows_kernel(self, kernel_id: str) -> bool:
        """Tell whether this server has a kernel of that id; silent means no."""
        try:
            path = f"api/kernels/{quote(kernel_id)}"
            return self.ask("GET", path, timeout_s=_ALIVE_TIMEOUT_S).status == 200
        except NotPossibleHere:
            return False

    def listens(self) -> bool:
        """Tell whether anything accepts connections at the server's address.

        A runtime file outlives a killed server, and its pid may name another
        process by now.
        """
        connection = self._connection(_ASK_TIMEOUT_S)
        try:
            connection.connect()
        except ssl.SSLError:
            return True  # somebody does; whoever asks is told what is wrong
        except OSError:
            return False
        finally:
            connection.close()
        return True

    def check(self) -> None:
        """Raise `NotPossibleHere` unless our extension answers with this token."""
        # A server that is alive answers this at once; what comes next may take a while.
        known = self.ask("GET", "api", timeout_s=_ALIVE_TIMEOUT_S)
        status = self.ask("GET", "api/ckpt/kernels", timeout_s=60.0).status
        if status == 200:
            return
        if status in (301, 302, 401, 403):
            raise NotPossibleHere(
                f"The Jupyter server at {self.url} does not let this command in (HTTP {status}).",
                "Start it with a token instead of a password, or use --no-server.")
        if status == 404 and not (isinstance(known.data, dict) and "version" in known.data):
            raise NotPossibleHere(
                f"What answers at {self.url} is no Jupyter server.",
                f"One that was killed has left {self.file}: remove it, or use --no-server.")
        if status == 404:
            raise NotPossibleHere(
                f"The Jupyter server at {self.url} runs without jupyter_ckpt.",
                "Run 'jupyter server extension enable jupyter_ckpt' and restart the server, "
                "or use --no-server.")
        raise NotPossibleHere(f"jupyter_ckpt fails in the server at {self.url} (HTTP {status}).",
                              "Look at the server's log, or use --no-server.")

    def act(self, path: str, body: dict[str, Any], timeout_s: float) -> Any:
        """POST to our extension and return its JSON.

        Raises the error the server tells of, and `RestoreFailed` when it
        stops answering; whether it finished is then not known.
        """
        try:
            answer = self.ask("POST", f"api/ckpt/{path}", body, timeout_s)
        except NotPossibleHere as error:
            raise RestoreFailed(f"The request was sent, but then: {error.message}",
                                "'jupyter ckpt ps' shows what runs now.") from error
        if answer.status < 300 and answer.data is not None:
            return answer.data
        raise self._error(answer)

    def _error(self, answer: Answer) -> CheckpointError:
        data = answer.data if isinstance(answer.data, dict) else {}
        if isinstance(data.get("error"), dict):
            return from_dict(data["error"])
        message = data.get("message") or f"The server answered HTTP {answer.status}."
        return RestoreFailed(f"The Jupyter server at {self.url} failed: {message}",
                             "Look at the server's log.")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the unix socket of a server started with ``--sock``."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _is_here(host: str) -> bool:
    """Tell whether a name or an address is this machine's and no other's."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)  # only one's own addresses can be bound
    except (OSError, UnicodeError):
        return False
    return bool(found)


def _is_ours(pid: int) -> bool:
    """Tell whether a living process is this user's."""
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.getuid()
    except OSError:
        return False


def running_servers(runtime_dir: Path) -> list[RunningServer]:
    """Return the servers whose runtime files lie in `runtime_dir`, deepest root first.

    Reads what ``jupyter_server.serverapp.list_running_servers`` reads; loading
    that module takes two seconds.
    """
    found = []
    for path in runtime_dir.glob("jpserver-*.json"):
        try:
            server = RunningServer(path)
        except (OSError, ValueError, KeyError, TypeError):
            # Removed meanwhile, or half written: no server to talk to yet.
            continue
        if ProcessId.of(server.pid) is not None and server.listens():
            found.append(server)
    return sorted(found, key=lambda server: len(server.root_dir), reverse=True)
