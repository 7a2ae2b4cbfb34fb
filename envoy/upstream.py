"""A small upstream: says what it was asked, with which headers, and which one it is. On its own port it can be made to fail.

  /status/503   answers so                POST /sick   from now on 503 to all but /health
  /slow/2       answers after 2 seconds   POST /well   no longer
  /docs         may be cached for a minute
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one write: the second of two would wait 40 ms for the first to be acknowledged.
    wbufsize = -1

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if "transfer-encoding" in self.headers:
            while size := int(self.rfile.readline() or b"0", 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        path = self.path.partition("?")[0]
        said = {"served_by": self.server.server_port, "method": self.command, "path": self.path, "headers": dict(self.headers)}
        body = (json.dumps(said) + "\n").encode()
        self.send_response(self.code(path))
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        # What a client need not know, and the gateway takes off.
        self.send_header("x-internal-host", f"upstream-{self.server.server_port}")
        if path.startswith("/docs"):
            self.send_header("cache-control", "public, max-age=60")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def code(self, path):
        if self.command == "POST" and path in ("/sick", "/well"):
            self.server.sick = path == "/sick"
            return 200
        if self.server.sick and path != "/health":
            return 503
        what, _, number = path.removeprefix("/").partition("/")
        if what == "status" and number.isdigit() and 200 <= int(number) <= 599:
            return int(number)
        if what == "slow" and number.isdigit():
            time.sleep(min(int(number), 60))
        return 200

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo)
server.sick = False
server.serve_forever()
