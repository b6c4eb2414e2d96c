"""What clients of one era do at servers of the other, for a soak: calls, and questions of the server that the client
answers or never comes back for; and clients over HTTP+SSE."""

import http.client
import json
import random
import time

MODERN = "2026-07-28"
ABLE = {"elicitation": {}}
ANSWER = {"action": "accept", "content": {"username": "soak", "email": "soak@example.com"}}
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
# Each kind of step, how often it is made, and its server: legacy ones for modern clients, and the other way round.
STEPS = {
    "bridged": (10, "old"),
    "bridged legacy": (10, "new"),
    "asked": (6, "old"),
    "asked legacy": (6, "new"),
    # The gateway keeps such a call for ten minutes, or until its server ends: that is the one that is restarted.
    "asked and left": (2, "left"),
    "asked and left legacy": (2, "new"),
}


def read_events(answer):
    """The messages of a stream of events, one after another."""
    while line := answer.readline():
        if line.startswith(b"data:") and line[5:].strip():
            yield json.loads(line[5:])


def messages(answer):
    if answer.getheader("Content-Type", "").startswith("text/event-stream"):
        yield from read_events(answer)
    elif body := answer.read():
        yield json.loads(body)


def post(connection, body, headers):
    connection.request("POST", "/mcp", json.dumps(body), JSON | headers)
    return connection.getresponse()


def call(name, arguments, number=1, **more):
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": name, "arguments": arguments, **more}}


def text(message):
    return "".join(part.get("text", "") for part in message.get("result", {}).get("content", []))


def modern(connection, name, arguments, number=1, **more):
    """A modern call; returns the last message."""
    meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": ABLE}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": name}
    answer = post(connection, call(name, arguments, number, _meta=meta, **more), headers)
    return list(messages(answer))[-1]


def session(connection):
    """The headers of a new legacy session whose client can be asked."""
    client = {"name": "soak", "version": "1"}
    params = {"protocolVersion": "2025-11-25", "capabilities": ABLE, "clientInfo": client}
    answer = post(connection, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, {})
    answer.read()
    return {"MCP-Protocol-Version": "2025-11-25", "Mcp-Session-Id": answer.getheader("Mcp-Session-Id") or ""}


def end(connection, headers):
    connection.request("DELETE", "/mcp", headers=headers)
    connection.getresponse().read()


def fits(message, words):
    return words in text(message) or f"no {words!r} in {json.dumps(message)[:300]}"


def asked(connection, server, leaves):
    name, arguments = f"{server}__test_elicitation", {"message": "who?"}
    said = modern(connection, name, arguments)
    result = said.get("result", {})
    if result.get("resultType") != "input_required":
        return f"no question in {json.dumps(said)[:300]}"
    if leaves:
        return True
    answers = {key: ANSWER for key in result["inputRequests"]}
    retry = {"inputResponses": answers, "requestState": result["requestState"]}
    return fits(modern(connection, name, arguments, 2, **retry), "action=accept")


def asked_legacy(connect, server, leaves):
    # The answer needs a connection beside that of the call.
    calling, answering = connect(), connect()
    try:
        headers = session(calling)
        answer = post(calling, call(f"{server}__test_elicitation", {"message": "who?"}), headers)
        for message in messages(answer):
            if message.get("method") == "elicitation/create":
                if leaves:
                    return True
                response = {"jsonrpc": "2.0", "id": message["id"], "result": ANSWER}
                post(answering, response, headers).read()
            elif "method" not in message:
                end(answering, headers)
                return fits(message, "action=accept")
        return "the stream has ended without an answer"
    finally:
        calling.close()
        answering.close()


def step(connection, connect, kind, words):
    """One step of a kind; True, or what was wrong."""
    _, server = STEPS[kind]
    if kind == "bridged":
        return fits(modern(connection, f"{server}__echo", {"message": words}), words)
    if kind == "bridged legacy":
        headers = session(connection)
        answer = post(connection, call(f"{server}__echo", {"message": words}), headers)
        good = fits(list(messages(answer))[-1], words)
        end(connection, headers)
        return good
    if kind.endswith("legacy"):
        return asked_legacy(connect, server, kind.startswith("asked and left"))
    return asked(connection, server, kind == "asked and left")


class SseClient:
    """A client over HTTP+SSE, with a version in which it can be asked."""

    def __init__(self, connect):
        self.stream, self.posting, self.number = connect(), connect(), 0
        self.stream.request("GET", "/sse", headers={"Accept": "text/event-stream"})
        self.events = self.stream.getresponse()
        while not (line := self.events.readline()).startswith(b"data:"):
            if not line:
                raise http.client.HTTPException(f"no first event: {self.events.status}")
        self.uri = "/" + line[5:].strip().decode().lstrip("/")
        client = {"name": "soak", "version": "1"}
        self.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": ABLE, "clientInfo": client})
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def post(self, message):
        self.posting.request("POST", self.uri, json.dumps(message), JSON)
        answer = self.posting.getresponse()
        body = answer.read()
        if answer.status != 202:
            raise http.client.HTTPException(f"{answer.status} {body[:200]!r}")

    def ask(self, method, params):
        """Sends a request and returns its answer; answers what a server asks meanwhile."""
        self.number += 1
        self.post({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})
        for message in read_events(self.events):
            if message.get("method") == "elicitation/create":
                self.post({"jsonrpc": "2.0", "id": message["id"], "result": ANSWER})
            elif message.get("id") == self.number and "method" not in message:
                return message
        raise http.client.HTTPException("the stream has ended")

    def tool(self, server, name, arguments, expected):
        return fits(self.ask("tools/call", {"name": f"{server}__{name}", "arguments": arguments}), expected)

    def close(self):
        # The response holds the socket, too.
        self.events.close()
        self.stream.close()
        self.posting.close()


def sse_steps(connect, stop, count):
    """The life of one client after another; `count` gets what came of each step."""
    chance = random.Random("sse")
    while not stop.is_set():
        client = None
        try:
            client = SseClient(connect)
            for _ in range(chance.randint(1, 40)):
                if stop.wait(chance.random() * 0.2):
                    break
                server = chance.choice(["demo", "fix", "old", "new"])
                if server in ("old", "new") and chance.random() < 0.3:
                    count(client.tool(server, "test_elicitation", {"message": "who?"}, "action=accept"))
                else:
                    count(client.tool(server, "echo", {"message": f"word {client.number}"}, f"word {client.number}"))
        except (OSError, ValueError, http.client.HTTPException) as error:
            count(f"{error!r}")
            time.sleep(0.2)
        finally:
            if client:
                client.close()
