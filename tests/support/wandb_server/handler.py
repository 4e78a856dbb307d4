"""HTTP: which address does what."""

import base64
import gzip
import http.server
import json
import re
import socket
import sys
import traceback
import urllib.parse

from . import schedule
from .executor import GraphQLError, UnknownError
from .operations import answer

API_KEY = "0123456789abcdef" * 2 + "01234567"  # the client requires 40 characters


class HTTPServer(http.server.ThreadingHTTPServer):
    """Listens on a free loopback port, one thread per connection.

    Args:
        owner: WandbServer.
    """

    daemon_threads = True

    def __init__(self, owner):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner

    def handle_error(self, request, client_address):
        # A client that was killed resets its connection; this is expected.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes: with Nagle's algorithm each answer would wait 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_POST(self):
        self._handle(self._post)

    def do_PUT(self):
        self._handle(self._put)

    def do_GET(self):
        self._handle(self._get)

    def _handle(self, act):
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        query = body.decode() if self.path == "/graphql" else ""
        operation = re.search(r"(?:query|mutation) (\w+)", query)
        owner.requests.append(f"{self.command} {self.path} {operation[1] if operation else ''}".strip())
        fault = owner.take_fault(f"{self.path} {query}")
        if fault and fault["status"]:
            return self._send(fault["status"], {"error": "requested by the test"})
        if not fault or fault["handled"]:
            status, answered = self._try(act, body)
        if fault:
            return self._drop()
        return self._send(status, answered)

    def _try(self, act, body):
        try:
            return act(body)
        except Exception:
            # An error in this server must fail the test, not make the client retry for minutes.
            self.server.owner.unknown.append(traceback.format_exc())
            return 400, {"error": "the test server failed"}

    def _post(self, body):
        owner, store = self.server.owner, self.server.owner.store
        parts = self.path.strip("/").split("/")
        expected = base64.b64encode(f"api:{API_KEY}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            return 401, {"errors": [{"message": "wrong API key"}]}
        if self.path == "/graphql":
            return self._graphql(json.loads(body))
        if parts[0] == "files" and parts[-1] == "file_stream" and parts[3] in store.runs:
            with store.lock:
                run = store.runs[parts[3]]
                store.stream(run, json.loads(body))
                if run.sweep in store.sweeps:
                    schedule.judge(store.sweeps[run.sweep], run)
                stopped = {"stopped": True} if run.stop_requested and run.agent is None else {}
            return 200, {"exitcode": None, "limits": {}, **stopped}
        owner.unknown.append(f"POST {self.path}")
        return 404, {"error": "not found"}

    def _graphql(self, request):
        owner = self.server.owner
        try:
            with owner.store.lock:
                return 200, {"data": answer(owner.store, request)}
        except UnknownError as error:
            owner.unknown.append(f"{error}\n{request['query']}")
            return 200, {"data": None, "errors": [{"message": str(error)}]}
        except GraphQLError as error:
            return error.status, {"data": None, "errors": [{"message": str(error)}]}

    def _put(self, body):
        kind, key, name = self._storage_key()
        store = self.server.owner.store
        with store.lock:
            if kind == "run":
                store.runs[key].files[name] = body
            elif kind == "manifest":
                store.artifacts.versions[int(key) - 1].manifest = json.loads(body)
            elif kind == "content":
                store.artifacts.put_content(key, body)
            else:
                return self._not_found()
        return 200, {}

    def _get(self, _):
        kind, key, name = self._storage_key()
        store = self.server.owner.store
        with store.lock:
            if kind == "run" and name in store.runs[key].files:
                return 200, store.runs[key].files[name]
            if kind == "manifest":
                return 200, store.artifacts.versions[int(key) - 1].manifest
            if kind == "content" and key in store.artifacts.contents:
                return 200, store.artifacts.contents[key]
        return self._not_found()

    def _storage_key(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        parts = path.strip("/").split("/", 3)
        if parts[0] != "storage":
            return None, None, None
        return (*parts[1:], None, None)[:3]

    def _not_found(self):
        self.server.owner.unknown.append(f"{self.command} {self.path}")
        return 404, {"error": "not found"}

    def _send(self, status, content):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _drop(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
