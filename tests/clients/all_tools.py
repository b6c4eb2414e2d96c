"""A real client, the MCP Python SDK, driven by a plan: what it can and cannot do with a server is what users of
every client built on that SDK will see. all_tools.mjs is its twin on the TypeScript SDK, with the same words.

    all_tools.py URL|"stdio:COMMAND" legacy|auto|2026-07-28  < plan.json

The plan is a list of {"tool": NAME, "args": {...}, "expect": TEXT}. Each call prints a line
{"tool", "ok", "is_error", "text"}; `ok` says that the text contains what was expected or, when nothing was,
that the call is no error. The last line is {"negotiated", "tools", "prompts", "resources", "templates"}. Exit 1 if
a call was not ok or the connection failed. AUTHORIZATION in the environment is sent as that header.
"""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import sys

import mcp_types as types
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client


def fill(schema: dict) -> dict:
    """Something valid for every property of an elicitation form."""

    def one(about: dict):
        if "default" in about:
            return about["default"]
        choices = about.get("enum") or [choice["const"] for choice in about.get("oneOf", [])]
        kinds = {"boolean": True, "integer": 1, "number": 1.5, "array": []}
        return choices[0] if choices else kinds.get(about.get("type"), "filled")

    return {name: one(about) for name, about in schema.get("properties", {}).items()}


async def elicit(_, params) -> types.ElicitResult:
    if params.mode == "url":
        return types.ElicitResult(action="accept")
    return types.ElicitResult(action="accept", content=fill(params.requested_schema))


async def sample(_, params) -> types.CreateMessageResult:
    words = types.TextContent(type="text", text="a sampled answer")
    return types.CreateMessageResult(role="assistant", content=words, model="none")


async def roots(_) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///root", name="root")])


async def pages(ask, key: str) -> list:
    found, cursor = [], None
    while True:
        page = await ask(cursor=cursor)
        found += getattr(page, key)
        cursor = page.next_cursor
        if cursor is None:
            return found


async def step(client: Client, plan: dict) -> bool:
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


async def main(url: str, mode: str) -> bool:
    plan = json.loads(sys.stdin.read() or "[]")
    async with contextlib.AsyncExitStack() as stack:
        server = url
        if url.startswith("stdio:"):
            command, *args = shlex.split(url.removeprefix("stdio:"))
            server = stdio_client(StdioServerParameters(command=command, args=args))
        elif authorization := os.environ.get("AUTHORIZATION"):
            http = await stack.enter_async_context(create_mcp_http_client({"Authorization": authorization}))
            server = streamable_http_client(url, http_client=http)
        answers = {"elicitation_callback": elicit, "sampling_callback": sample, "list_roots_callback": roots}
        client = await stack.enter_async_context(Client(server, mode=mode, read_timeout_seconds=60, **answers))
        able = client.server_capabilities
        # With a pinned version nothing was discovered, so there is nothing to go by.
        blind = mode not in ("legacy", "auto")
        tools = await pages(client.list_tools, "tools") if able.tools or blind else []
        prompts = await pages(client.list_prompts, "prompts") if able.prompts or blind else []
        resources = await pages(client.list_resources, "resources") if able.resources or blind else []
        templates = await pages(client.list_resource_templates, "resource_templates") if able.resources or blind else []
        ok = [await step(client, one) for one in plan]
        seen = {
            "negotiated": client.protocol_version,
            "tools": [tool.name for tool in tools],
            "prompts": [prompt.name for prompt in prompts],
            "resources": [str(resource.uri) for resource in resources],
            "templates": [template.uri_template for template in templates],
        }
    print(json.dumps(seen), flush=True)
    return all(ok)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} URL|stdio:COMMAND legacy|auto|2026-07-28 < plan.json")
    logging.basicConfig(level=logging.WARNING)
    sys.exit(0 if asyncio.run(main(sys.argv[1], sys.argv[2])) else 1)
