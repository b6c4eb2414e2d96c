"""The FastMCP client with tasks (SEP-2663): calls tools that become tasks, and prints what it got as JSON.

    tasks.py URL
"""

import asyncio
import json
import sys

import fastmcp_tasks
from fastmcp import Client


async def main(url: str) -> None:
    seen = {}
    async with Client(url) as client:
        for tool in await client.list_tools():
            if tool.name.endswith("quick"):
                seen[tool.name] = (await client.call_tool(tool.name, {})).data
            if tool.name.endswith("crunch"):
                # The client polls until the task has ended, without its caller's knowledge.
                seen[tool.name] = (await client.call_tool(tool.name, {"n": 5, "seconds": 1})).data
                task = await fastmcp_tasks.call_tool_task(client, tool.name, {"n": 6, "seconds": 600})
                before = (await task.status()).status
                await task.cancel()
                seen[f"{tool.name} cancelled"] = [before, (await task.status()).status]
    print(json.dumps(seen), flush=True)


asyncio.run(main(sys.argv[1]))
