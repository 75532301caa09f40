"""Every route and verb, taken from the route table: who is let in, and what is let through.

A new route needs no line here to be tested, and one that forgets a decorator fails.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest
import requests
import server_fakes
from jupyter_harness import TOKEN, Home, Server

from jupyter_ckpt.handlers import ROUTES

VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE")
GROUP = r"([^/]+)"
TABLE = [(verb, pattern) for pattern, handler in ROUTES for verb in VERBS
         if verb.lower() in vars(handler)]
CHANGING = [(verb, pattern) for verb, pattern in TABLE if verb != "GET"]
WITH_ID = [(verb, pattern) for verb, pattern in TABLE if GROUP in pattern]
TRAVERSALS = ["..%2f..%2fkey", "%2e%2e", "..%5c..%5ckey", "%2fetc%2fpasswd", "a%00b",
              "%ed%a0%80", "..%252f..%252fkey", "x" * 2000]
AUTHORIZER = """
import os
from jupyter_server.auth import Authorizer
class NoCheckpoints(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        refused = os.path.exists(os.environ["JUPYTER_RUNTIME_DIR"] + "/refuse")
        return not (refused and resource == "checkpoints")
c.ServerApp.authorizer_class = NoCheckpoints
c.ServerApp.max_body_size = 1 << 20
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = Home(tmp_path_factory.mktemp("security"))
    home.configure(server_fakes.CONFIGURATION + AUTHORIZER)
    server = Server(home)
    yield server
    server.stop()


def path_of(pattern: str, name: str = "abcdef012345") -> str:
    return "/" + pattern.replace(GROUP, name)


def send(server: Server, verb: str, path: str, token: str | None = TOKEN, body: object = None
         ) -> requests.Response:
    return server.request(verb, path, ({} if verb != "GET" else None) if body is None else body,
                          token=token)


def test_the_table_is_not_empty() -> None:
    assert len(TABLE) >= 14
    assert {pattern for _, pattern in TABLE} == {pattern for pattern, _ in ROUTES}


@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_nobody_is_let_in_without_the_token(server: Server, token: str | None) -> None:
    for verb, pattern in TABLE:
        answer = send(server, verb, path_of(pattern), token)
        assert answer.status_code in (401, 403), (verb, pattern, answer.status_code)


def test_authenticated_user_without_the_right_is_refused(server: Server) -> None:
    (server.home.runtime / "refuse").touch()
    try:
        for verb, pattern in TABLE:
            answer = send(server, verb, path_of(pattern))
            assert answer.status_code == 403, (verb, pattern, answer.status_code)
        assert server.request("GET", "/api/kernels").status_code == 200
    finally:
        (server.home.runtime / "refuse").unlink()


@pytest.fixture
def browser(server: Server) -> requests.Session:
    """A browser that is logged in: it has cookies and no token."""
    browser = requests.Session()
    browser.get(f"{server.url}/login?token={TOKEN}", timeout=60)
    login = browser.post(f"{server.url}/login", timeout=60, data={
        "password": TOKEN, "_xsrf": browser.cookies.get("_xsrf", "")})
    assert login.ok
    return browser


def test_browser_without_the_xsrf_value_is_refused(
    server: Server, browser: requests.Session
) -> None:
    """A web page can make a logged-in browser send requests, not read its cookies."""
    assert browser.get(f"{server.url}/api/kernels", timeout=60).status_code == 200
    for verb, pattern in CHANGING:
        for headers in ({}, {"X-XSRFToken": "guessed"}):
            answer = browser.request(verb, server.url + path_of(pattern), json={},
                                     headers=headers, timeout=60)
            assert answer.status_code == 403, (verb, pattern, answer.status_code)
    right = {"X-XSRFToken": browser.cookies["_xsrf"]}
    for verb, pattern in CHANGING:
        answer = browser.request(verb, server.url + path_of(pattern), json={}, headers=right,
                                 timeout=60)
        assert answer.status_code != 403, (verb, pattern)


def test_page_of_another_origin_reads_nothing(server: Server, browser: requests.Session) -> None:
    for verb, pattern in TABLE:
        if verb == "GET":
            answer = browser.get(server.url + path_of(pattern), timeout=60,
                                 headers={"Origin": "http://evil.example"})
            assert "Access-Control-Allow-Origin" not in answer.headers, pattern


@pytest.mark.parametrize("name", TRAVERSALS)
def test_name_that_leads_elsewhere_gets_a_4xx(server: Server, name: str) -> None:
    before = sorted(str(path) for path in server.home.folder.rglob("*") if ".log" not in path.name)
    for verb, pattern in WITH_ID:
        answer = send(server, verb, path_of(pattern, name),
                      body={"mode": "new"} if pattern.endswith("/restore") else None)
        assert 400 <= answer.status_code < 500, (verb, pattern, answer.status_code)
        assert len(answer.content) < 2000, (verb, pattern)
    after = sorted(str(path) for path in server.home.folder.rglob("*") if ".log" not in path.name)
    assert after == before


@pytest.mark.parametrize("path", ["../../outside.ipynb", "/../x.ipynb", "a/../../x"])
def test_restore_to_a_path_outside_the_server_is_refused(server: Server, path: str) -> None:
    answer = send(server, "POST", "/api/ckpt/checkpoints/abcdef012345/restore",
                  body={"mode": "new", "path": path})
    assert (answer.status_code, answer.json()["error"]["id"]) == (400, "usage")


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000,
                                 b'{"no such field": 1}'])
def test_body_of_a_wrong_kind_gets_a_4xx(server: Server, raw: bytes) -> None:
    for verb, pattern in CHANGING:
        answer = server.request(verb, path_of(pattern), data=raw)
        # A DELETE has no body that it would read.
        expected = {404} if verb == "DELETE" else {400}
        assert answer.status_code in expected, (verb, pattern, answer.status_code, answer.text)


def test_oversized_body_is_refused_and_the_server_goes_on(server: Server) -> None:
    for verb, pattern in CHANGING:
        line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        try:
            line.putrequest(verb, path_of(pattern))
            line.putheader("Authorization", f"token {TOKEN}")
            line.putheader("Content-Length", str(1 << 40))
            line.endheaders()
            line.send(b"{")
            assert 400 <= line.getresponse().status < 500
        except (ConnectionError, http.client.HTTPException):
            pass  # hung up on: as good
        finally:
            line.close()
    assert server.request("GET", "/api/status").ok


def test_no_answer_holds_the_token_or_the_store_key(server: Server) -> None:
    server.ok("GET", "/api/ckpt/checkpoints")  # makes the store
    key = (server.home.folder / "data" / "ckpt" / "key").read_bytes().hex()
    for verb, pattern in TABLE:
        said = send(server, verb, path_of(pattern)).text
        assert TOKEN not in said, (verb, pattern)
        assert key not in said, (verb, pattern)
    log = server.log.read_text()
    assert key not in log
    assert json.dumps(key) not in log
