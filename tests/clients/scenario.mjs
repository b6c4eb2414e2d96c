// The client that the conformance suite's client scenarios drive: the MCP TypeScript SDK, doing what each scenario
// asks of a client.
//
//   tests/tools/node scenario.mjs URL      as --command of the suite, which sets MCP_CONFORMANCE_*
//
// With TOOLGATE naming the gateway's binary, it starts one in front of URL and talks to that instead: what passes
// without and fails with it is the gateway's doing.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const tools = process.env.TOOLGATE_TOOLS ?? path.join(here, '../../.tools');
const sdk = createRequire(path.join(path.resolve(tools), 'node/package.json')).resolve('@modelcontextprotocol/client');
const { Client, StreamableHTTPClientTransport } = await import(pathToFileURL(sdk));

const { MCP_CONFORMANCE_SCENARIO: scenario, MCP_CONFORMANCE_CONTEXT: context, TOOLGATE: binary } = process.env;
const modern = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION === '2026-07-28';
const server = process.argv.at(-1);

/** A gateway in front of the server; gives its URL, and what ends it. */
async function gateway(url) {
  const folder = mkdtempSync(path.join(tmpdir(), 'toolgate-'));
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  probe.close();
  const file = path.join(folder, 'toolgate.yaml');
  const up = { url, era: modern ? 'modern' : 'legacy', health: { interval: '1h' } };
  // JSON is YAML too.
  writeFileSync(file, JSON.stringify({ listen: { address: `127.0.0.1:${port}` }, mcpServers: { up } }));
  const child = spawn(binary, ['run', '-c', file], { stdio: ['ignore', 'inherit', 'inherit'] });
  let ended = false;
  child.on('exit', () => (ended = true));
  for (;;) {
    if (ended) throw new Error('the gateway ended');
    const told = await fetch(`http://127.0.0.1:${port}/metrics`).then((r) => r.text(), () => '');
    if (told.includes('toolgate_upstream_up{server="up"} 1')) break;
    await pause(20);
  }
  const stop = async () => {
    child.kill('SIGKILL');
    if (!ended) await once(child, 'exit');
    rmSync(folder, { recursive: true });
  };
  return { url: `http://127.0.0.1:${port}/servers/up/mcp`, stop };
}

/** The calls that a scenario wants, by the tools that its server lists. */
function calls(listed) {
  const given = context && JSON.parse(context).toolCalls;
  if (given) return given;
  const rich = listed.find((tool) => tool.name === 'json_schema_2020_12_tool');
  const known = { add_numbers: { a: 5, b: 3 }, valid_tool: { region: 'eu' }, json_schema_echo: { schema: rich?.inputSchema } };
  const skipped = ['json_schema_2020_12_tool', 'lookup_user'];
  return listed.filter(({ name }) => !skipped.includes(name)).map(({ name }) => ({ name, arguments: known[name] ?? {} }));
}

async function talk(url) {
  const client = new Client(
    { name: 'toolgate-tests', version: '1.0.0' },
    {
      capabilities: { elicitation: { form: { applyDefaults: true } }, sampling: {}, roots: {} },
      versionNegotiation: { mode: modern ? 'auto' : 'legacy' },
    },
  );
  const confirmed = ({ params }) => (params.requestedSchema?.properties?.confirmed ? { confirmed: true } : {});
  client.setRequestHandler('elicitation/create', (asked) => ({ action: 'accept', content: confirmed(asked) }));
  client.setRequestHandler('roots/list', () => ({ roots: [] }));
  await client.connect(new StreamableHTTPClientTransport(new URL(url)));
  const able = client.getServerCapabilities() ?? {};
  const listed = (await client.listTools()).tools;
  // An answer that the SDK refuses is one that a scenario may want: its checks tell, not the client.
  for (const call of calls(listed)) await client.callTool(call).catch((error) => console.error(call.name, error));
  if (able.resources) {
    for (const { uri } of (await client.listResources()).resources) await client.readResource({ uri });
  }
  if (able.prompts) {
    for (const { name } of (await client.listPrompts()).prompts) await client.getPrompt({ name });
  }
  // One request that a gateway cannot answer by itself, for a server that looks at what clients say with each.
  if (scenario === 'request-metadata') await client.readResource({ uri: 'none://such' }).catch(() => {});
  await client.close();
}

if (!scenario || !server) throw new Error('usage: MCP_CONFORMANCE_SCENARIO=NAME scenario.mjs URL');
const between = binary ? await gateway(server) : { url: server, stop: async () => {} };
try {
  await talk(between.url);
} finally {
  await between.stop();
}
