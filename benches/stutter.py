"""A server of HTTP/1.1 that responds to a call never, once, twice or three times, at once or late.

Its responses repeat the word of the call, so that a caller can detect a response to another call.
"""

import json
import random
import re
import socketserver
import threading

INFO = {"name": "stutter", "version": "1"}
WORD = re.compile(rb"word-[0-9-]+")


def answer(message):
    modern = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    params = message.get("params") or {}
    match message.get("method"):
        case "initialize":
            return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": INFO}
        case "server/discover":
            return {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "serverInfo": INFO} | modern
        case "tools/list":
            return {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]} | modern
        case "tools/call":
            return {"content": [{"type": "text", "text": params["arguments"]["message"]}], "resultType": "complete"}
    return {}


class Connection(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        try:
            while self.one():
                pass
        except OSError:
            pass

    def one(self):
        verb, length = self.rfile.readline(), 0
        while (line := self.rfile.readline()).strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if not verb:
            return False
        message = json.loads(self.rfile.read(length) or "{}")
        if "id" not in message:
            status = "202 Accepted" if verb.startswith(b"POST") else "405 Method Not Allowed"
            self.wfile.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            return True
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answer(message)})
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        whole = (head + body).encode()
        if message["method"] != "tools/call":
            self.wfile.write(whole)
            return True
        times = random.choices([0, 1, 2, 3], [1, 50, 25, 25])[0]
        at_once = random.random() < 0.3
        self.wfile.write(whole * (times if at_once else min(times, 1)))
        if times > 1 and not at_once:
            threading.Timer(random.random() * 0.003, self.late, [whole * (times - 1)]).start()
        return True

    def late(self, text):
        try:
            self.wfile.write(text)
        except (OSError, ValueError):
            pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128

    def start(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
