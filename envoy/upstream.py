"""A small upstream: says what it was asked, and with which headers."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one write: the second of two would wait 40 ms for the first to be acknowledged.
    wbufsize = -1

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        said = {"method": self.command, "path": self.path, "headers": dict(self.headers)}
        body = (json.dumps(said) + "\n").encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
