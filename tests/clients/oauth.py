"""A real client, the MCP Python SDK, that has to log in first: it meets a 401 and goes the whole way by the SDK's
own OAuth (metadata of the resource and of the authorization server, registration, code with PKCE, token). oauth.mjs
is its twin on the TypeScript SDK, with the same words.

    oauth.py URL code|service  < plan.json

`code` logs in as a person at a browser, `service` with client credentials: SERVICE_ISSUER, SERVICE_ID and
SERVICE_SECRET say whose. The plan is that of all_tools.py, and a step {"sleep": SECONDS} only waits. Each call prints
{"tool", "ok", "is_error", "text"}; the last line is {"negotiated", "tools", "logins", "scope", "token"}, where
`logins` has the scope and the resource of each time that the person was asked. Exit 1 if a call was not ok or the
connection failed.
"""

import asyncio
import json
import logging
import os
import sys
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
from mcp import Client, MCPError
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

REDIRECT = "http://127.0.0.1:1/callback"


class Memory:
    """Where the SDK stores its tokens."""

    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


class Person:
    """A browser: opens the URL of the SDK, and follows redirects up to the one that leads back."""

    def __init__(self):
        self.logins = []
        self.answer = {}

    async def browse(self, url: str) -> None:
        asked = parse_qs(urlsplit(url).query)
        self.logins.append({name: asked.get(name, [None])[0] for name in ("scope", "resource")})
        async with httpx2.AsyncClient() as browser:
            while not url.startswith(REDIRECT):
                response = await browser.get(url)
                if "location" not in response.headers:
                    raise RuntimeError(f"{url}: {response.status_code} {response.text}")
                url = urljoin(url, response.headers["location"])
        self.answer = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}

    async def come_back(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult(**{name: self.answer.get(name) for name in ("code", "state", "iss")})


async def step(client: Client, plan: dict) -> bool:
    if "sleep" in plan:
        await asyncio.sleep(plan["sleep"])
        return True
    try:
        result = await client.call_tool(plan["tool"], plan.get("args", {}))
        is_error = bool(result.is_error)
        text = "\n".join(part.text for part in result.content if part.type == "text")
    except MCPError as error:
        is_error, text = True, f"error {error.code}: {error.message}"
    expect = plan.get("expect")
    ok = not is_error if expect is None else expect in text
    print(json.dumps({"tool": plan["tool"], "ok": ok, "is_error": is_error, "text": text}), flush=True)
    return ok


async def main(url: str, how: str) -> bool:
    plan = json.loads(sys.stdin.read() or "[]")
    memory, person = Memory(), Person()
    if how == "code":
        about = OAuthClientMetadata(
            client_name="toolgate-tests", redirect_uris=[REDIRECT], token_endpoint_auth_method="none"
        )
        auth = OAuthClientProvider(url, about, memory, person.browse, person.come_back)
    else:
        service = {name.lower(): os.environ[f"SERVICE_{name}"] for name in ("ISSUER", "ID", "SECRET")}
        auth = ClientCredentialsOAuthProvider(
            url, memory, service["id"], service["secret"], issuer=service["issuer"]
        )
    async with (
        create_mcp_http_client(auth=auth) as http,
        Client(streamable_http_client(url, http_client=http), mode="auto", read_timeout_seconds=60) as client,
    ):
        tools = [tool.name for tool in (await client.list_tools()).tools]
        ok = [await step(client, one) for one in plan]
        print(
            json.dumps(
                {
                    "negotiated": client.protocol_version,
                    "tools": tools,
                    "logins": person.logins,
                    "scope": memory.tokens.scope,
                    "token": memory.tokens.access_token,
                }
            ),
            flush=True,
        )
    return all(ok)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in ("code", "service"):
        sys.exit(f"usage: {sys.argv[0]} URL code|service < plan.json")
    logging.basicConfig(level=logging.WARNING)
    sys.exit(0 if asyncio.run(main(*sys.argv[1:])) else 1)
