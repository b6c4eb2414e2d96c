"""What the end-to-end benches share: a server, proxies in front of it, load, and what they use.

The server and the load (wrk) run on core 1, what is measured on core 0 with one thread. The figure to compare is CPU a
call, user and system, from /proc: it does not depend on the speed of the server or the load.
"""

import base64
import hashlib
import hmac
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILT = ROOT / "target/release"
META = '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}'
SECRET = "the secret of a benchmark, which guards nothing"

NGINX = """
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; client_max_body_size 64m; client_body_buffer_size 1m;
  upstream server {{ server 127.0.0.1:{server}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""

CALL = """
local head = '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}",{meta}"arguments":{{"text":"'
local fill = math.max(0, {size} - #head - 4)
wrk.method = "POST"
wrk.body = head .. string.rep("lorem ipsum dolor ", math.ceil(fill / 18)):sub(1, fill) .. '"}}}}}}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
{headers}
local requests, turn = {{}}, 0
init = function(args)
  local sessions = {{ {sessions} }}
  for number, id in ipairs(sessions) do
    wrk.headers["Mcp-Session-Id"] = id
    requests[number] = wrk.format()
  end
  if #requests == 0 then requests[1] = wrk.format() end
end
request = function()
  turn = turn % #requests + 1
  return requests[turn]
end
"""


def needed(*programs):
    # Where Debian has servers; not every user's PATH includes it.
    os.environ["PATH"] += ":/usr/sbin"
    for program in programs:
        if not shutil.which(program):
            sys.exit(f"{program} is missing: `make stage` installs or builds it")


def many_files():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def stat(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()


def cpu(pids):
    """Microseconds of CPU that the processes have used."""
    ticks = sum(int(field) for pid in pids for field in stat(pid)[11:13])
    return ticks * 1e6 / os.sysconf("SC_CLK_TCK")


def children(pid):
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int(stat(entry.name)[1]) == pid:
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return found


def memory(pids):
    """Resident MiB."""
    status = "".join(pathlib.Path(f"/proc/{pid}/status").read_text() for pid in pids)
    return sum(int(kib) for kib in re.findall(r"VmRSS:\s+(\d+)", status)) / 1024


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]


def token(secret=SECRET):
    def part(raw):
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    claims = {"iss": "bench", "aud": "bench", "sub": "bench", "roles": ["dev", "role4"], "exp": int(time.time()) + 86400}
    signed = b".".join(part(json.dumps(piece).encode()) for piece in ({"alg": "HS256", "typ": "JWT"}, claims))
    return (signed + b"." + part(hmac.digest(secret.encode(), signed, "sha256"))).decode()


def judged():
    """Settings that require a token from every caller: 50 roles with 200 patterns, ten rules, three limits that let all pass."""
    roles = "".join(
        f"    role{n}: {{allow: {{tools: [\"bench{n}__*\", \"*__read{n}_*\"]}}, deny: {{tools: [\"x{n}__*\", \"*__drop{n}\"]}}}}\n"
        for n in range(49)
    )
    rules = "".join(
        f"    - {{name: rule{n}, when: 'call.tool.startsWith(\"db{n}__\") && !(\"sre{n}\" in caller.roles)', effect: deny}}\n"
        for n in range(10)
    )
    keys = ["[user]", "[user, tool]", "[tenant, server]"]
    limits = "".join(
        f"    - {{name: limit{n}, key: {key}, limit: 1000000000/1s, match: {{methods: [\"*\"]}}}}\n" for n, key in enumerate(keys)
    )
    return (
        f"auth:\n  jwt: [{{issuer: bench, audience: bench, secret: \"{SECRET}\"}}]\n"
        f"rbac:\n  roles:\n{roles}    dev: {{inherits: [role1, role2, role3], allow: {{tools: [\"bench__*\"]}}}}\n"
        f"  rules:\n{rules}rate_limits:\n  rules:\n{limits}"
    )


KEY = "the key of a benchmark, which is nobody's"


def keyed():
    """Settings with one API key: a caller who is known keeps a session at a server of the other era."""
    return f"auth:\n  api_keys: [{{id: bench, sha256: \"{hashlib.sha256(KEY.encode()).hexdigest()}\"}}]\n"


class Stage:
    """A folder and the processes of one bench; removed when it ends."""

    def __enter__(self):
        many_files()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="toolgate-bench-"))
        self.running = []
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                # Pingora's own grace time is minutes.
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, core, *command):
        log = open(self.folder / "out.log", "a")
        self.running.append(subprocess.Popen(["taskset", "-c", str(core), *map(str, command)], stdout=log, stderr=log))
        return self.running[-1].pid

    def written(self, name, text):
        (self.folder / name).write_text(text)
        return self.folder / name

    def server(self):
        """The port of the server behind."""
        port = free_port()
        self.start(1, BUILT / "examples/server", f"127.0.0.1:{port}")
        self.listens(port)
        return port

    def nginx(self, server):
        """Port and processes of nginx as a proxy."""
        port = free_port()
        conf = self.written(f"nginx{port}.conf", NGINX.format(dir=self.folder, port=port, server=server))
        pid = self.start(0, "nginx", "-c", conf)
        self.listens(port)
        return port, children(pid)

    def relay(self, server):
        """Port and process of a relay on Pingora without any features."""
        port = free_port()
        pid = self.start(0, BUILT / "examples/relay", f"127.0.0.1:{port}", f"127.0.0.1:{server}")
        self.listens(port)
        return port, [pid]

    def gateway(self, servers, more="", binary=None, level="warn", connected=None):
        """Port and process of Toolgate in front of `servers`, a name and a URL each."""
        port = free_port()
        listed = "".join(f"  {name}: {{url: \"{url}\"}}\n" for name, url in servers.items())
        text = (
            f"listen: {{address: 127.0.0.1:{port}}}\nworkers: 1\nlog: {{level: {level}}}\n"
            f"limits: {{max_body: 20MiB}}\n{more}mcpServers:\n{listed}"
        )
        config = self.written(f"toolgate{port}.yaml", text)
        pid = self.start(0, binary or BUILT / "toolgate", "run", "-c", config)
        wanted = f'"connected":{len(servers) if connected is None else connected}'.encode()
        for _ in range(1200):
            try:
                if wanted in urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read():
                    return port, [pid]
            except OSError:
                pass
            time.sleep(0.05)
        sys.exit(f"the gateway does not serve:\n{(self.folder / 'out.log').read_text()}")

    def listens(self, port):
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit(f"nothing listens at {port}:\n{(self.folder / 'out.log').read_text()}")

    def script(self, tool, size, era="modern", headers=None, sessions=()):
        """The script of wrk for a call of so many bytes."""
        sent = {"modern": {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool}}
        sent = {**sent.get(era, {"MCP-Protocol-Version": "2025-11-25"}), **(headers or {})}
        text = CALL.format(
            name=tool,
            size=size,
            meta=META + "," if era == "modern" else "",
            headers="\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in sent.items()),
            sessions=", ".join(f'"{session}"' for session in sessions),
        )
        return self.written("call.lua", text)


def legacy_sessions(port, path, count, headers=None, capabilities="{}"):
    """Ids of so many sessions of 2025-11-25."""
    client = f'"capabilities":{capabilities},"clientInfo":{{"name":"bench","version":"1"}}'
    params = f'{{"protocolVersion":"2025-11-25",{client}}}'
    body = f'{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}'.encode()
    sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **(headers or {})}
    found = []
    for _ in range(count):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, sent)
        with urllib.request.urlopen(request) as answer:
            found.append(answer.headers["Mcp-Session-Id"])
    return found


def wrk(script, port, path="/mcp", connections=64, seconds=3, refused=0, pids=()):
    """Calls a second, µs of CPU a call, p50 and p99 in ms; `refused` says which share must be refused, none or all."""
    before = cpu(pids)
    said = subprocess.run(
        ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script,
         f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True).stdout  # fmt: skip
    used = cpu(pids) - before
    calls = int(re.search(r"(\d+) requests in", said)[1])
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    if (int(errors[1]) if errors else 0) != refused * calls or "Socket errors" in said or "nan" in said:
        sys.exit(f"not what was expected of port {port}:\n{said}")
    p50, p99 = (milliseconds(re.search(rf"^\s+{p}%\s+(\S+)", said, re.M)[1]) for p in (50, 99))
    return calls / seconds, used / max(calls, 1), p50, p99
