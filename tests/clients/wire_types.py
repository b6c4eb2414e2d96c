"""Checks messages against the official types of MCP: the wire models of PyPI mcp-types, which are generated from
the schema of the specification. What the gateway composes or translates itself is fed through this.

Each line of standard input is {"type": NAME, "revision": "2025-11-25", "message": {...}}, where NAME is a type of
the schema such as CallToolResult, Tool or JSONRPCRequest. For a ...Result type the message may also be the whole
JSON-RPC response around it. Prints a line for each message that does not fit and then `N valid, M invalid`; exit 1
if M is not 0.

mcp-types has one set of models for all revisions up to 2025-11-25 and one for 2026-07-28. Fields that a type does
not know are allowed, as the protocol has it, so a misspelt optional field passes.
"""

import json
import sys
from functools import cache

import mcp_types._v2025_11_25 as legacy
import mcp_types._v2026_07_28 as modern
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

MODELS = {version: legacy for version in HANDSHAKE_PROTOCOL_VERSIONS}
MODELS |= {version: modern for version in MODERN_PROTOCOL_VERSIONS}


@cache
def adapter(name: str, revision: str) -> TypeAdapter:
    if revision not in MODELS:
        raise LookupError(f"no types for revision {revision}; there are {', '.join(MODELS)}")
    model = getattr(MODELS[revision], name, None)
    if model is None or name.startswith("_"):
        raise LookupError(f"no type {name} in revision {revision}")
    return TypeAdapter(model)


def check(name: str, revision: str, message: object) -> None:
    # Strict and by wire name: 1 is not "1", and inputSchema is not input_schema.
    adapter(name, revision).validate_json(json.dumps(message), strict=True, by_alias=True, by_name=False)


def fits(name: str, revision: str, message: object) -> None:
    if name.endswith("Result") and isinstance(message, dict) and "jsonrpc" in message:
        check("JSONRPCResultResponse", revision, message)
        message = message["result"]
    check(name, revision, message)


def main() -> int:
    valid = invalid = 0
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            item = json.loads(line)
            where += f": {item['type']} ({item['revision']})"
            fits(item["type"], item["revision"], item["message"])
            valid += 1
        except ValidationError as wrong:
            invalid += 1
            faults = (f"{'.'.join(map(str, f['loc'])) or 'message'}: {f['msg']}" for f in wrong.errors()[:5])
            print(f"{where}: {'; '.join(faults)}")
        except (LookupError, TypeError, ValueError) as wrong:
            invalid += 1
            print(f"{where}: {wrong}")
    print(f"{valid} valid, {invalid} invalid")
    return 1 if invalid else 0


if __name__ == "__main__":
    sys.exit(main())
