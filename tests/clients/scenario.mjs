// The client that the conformance suite's client scenarios drive: the MCP TypeScript SDK, doing what each scenario
// asks of a client.
//
//   tests/tools/node scenario.mjs URL      as --command of the suite, which sets MCP_CONFORMANCE_*
//
// With TOOLGATE naming the gateway's binary and TOOLGATE_PORT a port for it, it starts one in front of URL and talks to
// that instead: what passes without and fails with it is the gateway's fault. TOOLGATE_CLIENT is the revision in which it
// talks to the gateway, if not that of the server: the gateway bridges the eras then.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const tools = process.env.TOOLGATE_TOOLS ?? path.join(here, '../../.tools');
const sdk = createRequire(path.join(path.resolve(tools), 'node/package.json')).resolve('@modelcontextprotocol/client');
const { Client, StreamableHTTPClientTransport } = await import(pathToFileURL(sdk));

const { MCP_CONFORMANCE_SCENARIO: scenario, MCP_CONFORMANCE_CONTEXT: context } = process.env;
const { TOOLGATE: binary, TOOLGATE_PORT: port } = process.env;
const spoken = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION;
const server = process.argv.at(-1);
const revision = (binary && process.env.TOOLGATE_CLIENT) || spoken;
const isModern = (of) => of === '2026-07-28';
const modern = isModern(revision);
const clientInfo = { name: 'toolgate-tests', version: '1.0.0' };

/** Sends a request without an SDK, to the server in its own revision; returns status and message. */
async function ask(url, method, params = {}) {
  return url === server ? send(url, spoken, method, params) : send(url, revision, method, params);
}

async function send(url, revision, method, params) {
  const modern = isModern(revision);
  const _meta = {
    'io.modelcontextprotocol/protocolVersion': revision,
    'io.modelcontextprotocol/clientCapabilities': {},
    'io.modelcontextprotocol/clientInfo': clientInfo,
  };
  const headers = { accept: 'application/json, text/event-stream', 'content-type': 'application/json' };
  if (modern) Object.assign(headers, { 'mcp-protocol-version': revision, 'mcp-method': method });
  if (modern && params.name) headers['mcp-name'] = params.name;
  const post = (method, params) => {
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params });
    return fetch(url, { method: 'POST', headers, body });
  };
  if (!modern && method !== 'initialize') {
    const opened = await post('initialize', { protocolVersion: revision, capabilities: {}, clientInfo });
    await opened.text();
    Object.assign(headers, { 'mcp-session-id': opened.headers.get('mcp-session-id'), 'mcp-protocol-version': revision });
  }
  const response = await post(method, modern ? { ...params, _meta } : params);
  return { status: response.status, message: await response.json() };
}

/** Whether the gateway has connected its server and lists its entries: before that it rejects every handshake. */
async function ready(url) {
  const params = { protocolVersion: revision, capabilities: {}, clientInfo };
  const asked = modern ? ask(url, 'server/discover') : ask(url, 'initialize', params);
  return (await asked.catch(() => ({}))).status === 200;
}

/** A gateway in front of the server; returns its URL, and a function that ends it. */
async function gateway(url) {
  const folder = mkdtempSync(path.join(tmpdir(), 'toolgate-'));
  const file = path.join(folder, 'toolgate.yaml');
  const up = { url, era: isModern(spoken) ? 'modern' : 'legacy', health: { interval: '1h' } };
  // Compiling a schema is where a client could fetch parts of it.
  if (scenario === 'json-schema-ref-no-deref') up.validate = 'enforce';
  // JSON is YAML too.
  writeFileSync(file, JSON.stringify({ listen: { address: `127.0.0.1:${port}` }, mcpServers: { up } }));
  const child = spawn(binary, ['run', '-c', file], { stdio: ['ignore', 'inherit', 'inherit'] });
  let ended = false;
  child.on('exit', () => (ended = true));
  const stop = async () => {
    child.kill('SIGKILL');
    if (!ended) await once(child, 'exit');
    rmSync(folder, { recursive: true });
  };
  // The suite ends a client that takes too long this way; its child processes end with it.
  process.once('SIGTERM', () => stop().then(() => process.exit(1)));
  const between = `http://127.0.0.1:${port}/servers/up/mcp`;
  while (!(await ready(between))) {
    if (ended) throw new Error('the gateway ended');
    await pause(20);
  }
  return { url: between, stop };
}

/** The calls of a scenario, by the tools that its server lists. */
function calls(listed) {
  const given = context && JSON.parse(context).toolCalls;
  if (given) return given;
  const rich = listed.find((tool) => tool.name === 'json_schema_2020_12_tool');
  const known = { add_numbers: { a: 5, b: 3 }, valid_tool: { region: 'eu' }, json_schema_echo: { schema: rich?.inputSchema }, lookup_user: { id: 'kim', profile: {} } };
  const skipped = ['json_schema_2020_12_tool'];
  return listed.filter(({ name }) => !skipped.includes(name)).map(({ name }) => ({ name, arguments: known[name] ?? {} }));
}

async function talk(url) {
  const client = new Client(
    clientInfo,
    {
      capabilities: { elicitation: { form: { applyDefaults: true } }, sampling: {}, roots: {} },
      versionNegotiation: { mode: modern ? 'auto' : 'legacy' },
      ...(modern ? {} : { supportedProtocolVersions: [revision] }),
    },
  );
  const confirmed = ({ params }) => (params.requestedSchema?.properties?.confirmed ? { confirmed: true } : {});
  client.setRequestHandler('elicitation/create', (asked) => ({ action: 'accept', content: confirmed(asked) }));
  client.setRequestHandler('roots/list', () => ({ roots: [] }));
  await client.connect(new StreamableHTTPClientTransport(new URL(url)));
  const able = client.getServerCapabilities() ?? {};
  const listed = (await client.listTools()).tools;
  // A scenario may send a response that the SDK rejects: its checks decide, not the client.
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

/** Faults that only a gateway can have; each check throws if one occurs. */
const traps = {
  // The SDK hides these tools from its callers whether or not they reach it.
  'http-invalid-tool-headers': async (url) => {
    const names = async (of) => (await ask(of, 'tools/list')).message.result.tools.map((tool) => tool.name);
    const all = await names(server);
    const shown = await names(url);
    if (all.length < 10 || shown.join() !== 'valid_tool') throw new Error(`of ${all} it shows ${shown}`);
    for (const name of all.filter((name) => name !== 'valid_tool')) {
      const { status, message } = await ask(url, 'tools/call', { name, arguments: {} });
      if (status !== (modern ? 400 : 200) || message.error?.code !== -32602) throw new Error(`${name}: ${JSON.stringify(message)}`);
    }
  },
  'json-schema-ref-no-deref': async (url) => {
    const { status, message } = await ask(url, 'tools/call', { name: 'lookup_user', arguments: { id: 'kim' } });
    if (status !== 502 || !message.error?.message.includes('$ref')) throw new Error(JSON.stringify(message));
  },
};

if (!scenario || !server) throw new Error('usage: MCP_CONFORMANCE_SCENARIO=NAME scenario.mjs URL');
const between = binary ? await gateway(server) : { url: server, stop: async () => {} };
try {
  await talk(between.url);
  if (binary) await traps[scenario]?.(between.url);
} finally {
  await between.stop();
}
