// A client of before 2026-07-28 over HTTP+SSE: SSEClientTransport of the MCP TypeScript SDK 1.x; the twin of old_sse.py,
// with the same input, output and exit status.
//
//   tests/tools/node old_sse.mjs URL newest|first < plan.json
//
// `newest` is the last 1.x SDK; `first` is 1.0.1, which knows no version but 2024-11-05. Both come with servers of
// tests/tools/package.json. AUTHORIZATION in the environment is sent as that header.
import { createRequire } from 'node:module';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath, pathToFileURL } from 'node:url';

const [url, age] = process.argv.slice(2);
if (!['newest', 'first'].includes(age)) {
  console.error(`usage: ${process.argv[1]} URL newest|first < plan.json`);
  process.exit(2);
}
const here = path.dirname(fileURLToPath(import.meta.url));
const tools = path.resolve(process.env.TOOLGATE_TOOLS ?? path.join(here, '../../.tools'));
const owner = { newest: 'server-everything', first: 'server-github' }[age];
const { resolve } = createRequire(path.join(tools, `node/node_modules/@modelcontextprotocol/${owner}/package.json`));
const load = (name) => import(pathToFileURL(resolve(`@modelcontextprotocol/sdk/${name}`)));
const { Client } = await load('client/index.js');
const { SSEClientTransport } = await load('client/sse.js');
const types = await load('types.js');
// The first SDK takes what a browser has.
globalThis.EventSource ??= createRequire(path.join(tools, 'node/package.json'))('eventsource').EventSource;
const print = (line) => console.log(JSON.stringify(line));

async function step(client, { tool, args = {}, expect }) {
  let isError, words, progress = 0;
  try {
    const told = { onprogress: () => (progress += 1) };
    const result = await client.callTool({ name: tool, arguments: args }, types.CallToolResultSchema, told);
    isError = result.isError === true;
    words = result.content.filter((part) => part.type === 'text').map((part) => part.text).join('\n');
  } catch (error) {
    [isError, words] = [true, `error ${error.code}: ${error.message}`];
  }
  const ok = expect === undefined ? !isError : words.includes(expect);
  print({ tool, ok, is_error: isError, text: words, progress });
  return ok;
}

async function main() {
  const plan = JSON.parse((await text(process.stdin)) || '[]');
  const able = { sampling: {}, roots: {} };
  if (types.ElicitRequestSchema) able.elicitation = {};
  const client = new Client({ name: 'toolgate-tests', version: '1.0.0' }, { capabilities: able });
  if (types.ElicitRequestSchema) {
    client.setRequestHandler(types.ElicitRequestSchema, ({ params }) => {
      const names = Object.keys(params.requestedSchema.properties);
      return { action: 'accept', content: Object.fromEntries(names.map((name) => [name, 'filled'])) };
    });
  }
  client.setRequestHandler(types.CreateMessageRequestSchema, () => ({
    role: 'assistant',
    content: { type: 'text', text: 'a sampled answer' },
    model: 'none',
  }));
  client.setRequestHandler(types.ListRootsRequestSchema, () => ({ roots: [{ uri: 'file:///root', name: 'root' }] }));
  const { AUTHORIZATION: authorization } = process.env;
  const headers = authorization ? { Authorization: authorization } : {};
  const transport = new SSEClientTransport(new URL(url), { requestInit: { headers } });
  let negotiated;
  const connected = client.connect(transport);
  // It is in no public member of both SDKs.
  const { onmessage } = transport;
  transport.onmessage = (message, ...rest) => {
    negotiated ??= message.result?.protocolVersion;
    onmessage(message, ...rest);
  };
  await connected;
  const offers = client.getServerCapabilities() ?? {};
  const listed = {
    tools: offers.tools ? (await client.listTools()).tools.map((tool) => tool.name) : [],
    prompts: offers.prompts ? (await client.listPrompts()).prompts.map((prompt) => prompt.name) : [],
    resources: offers.resources ? (await client.listResources()).resources.map((resource) => resource.uri) : [],
  };
  await client.ping();
  let ok = true;
  for (const one of plan) ok = (await step(client, one)) && ok;
  print({ negotiated, ...listed });
  await client.close();
  return ok;
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  console.error(error);
  process.exitCode = 1;
}
