"""A cache of its own for each test, and a web server on loopback that counts what it is asked."""

from __future__ import annotations

import contextlib
import http.server
import threading

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the cache of models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mednext_jax" / "models"


class Site:
    """A web site: path -> (status, headers, body), or a function of the request's handler; `asked` is its log."""

    def __init__(self):
        self.pages, self.asked = {}, []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                site.asked.append(f"{self.command} {path}")
                page = site.pages.get(path, (404, {}, b""))
                status, headers, body = page(self) if callable(page) else page
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    with contextlib.suppress(OSError):
                        self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def put(self, path, body, status=200, **headers):
        self.pages[path] = (status, headers, body)
        return self.address + path

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site():
    """A running `Site`."""
    running = Site()
    yield running
    running.close()
