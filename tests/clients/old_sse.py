"""A client of before 2026-07-28 over HTTP+SSE: `sse_client` of the MCP Python SDK 1.x, driven by a plan as
all_tools.py is. old_sse.mjs is its twin on the TypeScript SDK.

    old_sse.py URL [VERSION] < plan.json       VERSION: the revision to ask for, by default the SDK's newest

AUTHORIZATION in the environment is sent as that header.
"""

import asyncio
import json
import logging
import os
import sys
from datetime import timedelta

from mcp import ClientSession, McpError, types
from mcp.client.sse import sse_client


async def elicit(_, params) -> types.ElicitResult:
    names = params.requestedSchema.get("properties", {})
    return types.ElicitResult(action="accept", content={name: "filled" for name in names})


async def sample(_, params) -> types.CreateMessageResult:
    words = types.TextContent(type="text", text="a sampled answer")
    return types.CreateMessageResult(role="assistant", content=words, model="none")


async def roots(_) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///root", name="root")])


async def step(client: ClientSession, plan: dict) -> bool:
    progress = []

    async def told(*at) -> None:
        progress.append(at)

    try:
        result = await client.call_tool(plan["tool"], plan.get("args", {}), progress_callback=told)
        is_error = bool(result.isError)
        text = "\n".join(part.text for part in result.content if part.type == "text")
    except McpError as error:
        is_error, text = True, f"error {error.error.code}: {error.error.message}"
    expect = plan.get("expect")
    ok = not is_error if expect is None else expect in text
    line = {"tool": plan["tool"], "ok": ok, "is_error": is_error, "text": text, "progress": len(progress)}
    print(json.dumps(line), flush=True)
    return ok


async def main(url: str, version: str | None) -> bool:
    plan = json.loads(sys.stdin.read() or "[]")
    if version:
        types.LATEST_PROTOCOL_VERSION = version
    authorization = os.environ.get("AUTHORIZATION")
    headers = {"Authorization": authorization} if authorization else {}
    answers = {"elicitation_callback": elicit, "sampling_callback": sample, "list_roots_callback": roots}
    async with sse_client(url, headers=headers) as streams:
        async with ClientSession(*streams, read_timeout_seconds=timedelta(seconds=60), **answers) as client:
            begun = await client.initialize()
            able = begun.capabilities
            tools = (await client.list_tools()).tools if able.tools else []
            prompts = (await client.list_prompts()).prompts if able.prompts else []
            resources = (await client.list_resources()).resources if able.resources else []
            await client.send_ping()
            ok = [await step(client, one) for one in plan]
            seen = {
                "negotiated": begun.protocolVersion,
                "tools": [tool.name for tool in tools],
                "prompts": [prompt.name for prompt in prompts],
                "resources": [str(resource.uri) for resource in resources],
            }
    print(json.dumps(seen), flush=True)
    return all(ok)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} URL [VERSION] < plan.json")
    logging.basicConfig(level=logging.WARNING)
    sys.exit(0 if asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None)) else 1)
