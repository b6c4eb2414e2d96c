// A real client, the MCP TypeScript SDK, driven by a plan; the twin of all_tools.py, with the same input, output
// and exit status, so that one test can run both.
//
//   tests/tools/node all_tools.mjs URL|"stdio:COMMAND" legacy|auto|modern|REVISION < plan.json
//
// `modern` and a revision pin: the SDK then fails rather than fall back. AUTHORIZATION in the environment is sent
// as that header.
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { text } from 'node:stream/consumers';

// The SDK lies under .tools, where a plain import from this folder does not look.
const here = path.dirname(fileURLToPath(import.meta.url));
const tools = process.env.TOOLGATE_TOOLS ?? path.join(here, '../../.tools');
const { resolve } = createRequire(path.join(path.resolve(tools), 'node/package.json'));
const load = (name) => import(pathToFileURL(resolve(name)));
const { Client, StreamableHTTPClientTransport } = await load('@modelcontextprotocol/client');

const [url, mode] = process.argv.slice(2);
if (!mode) {
  console.error(`usage: ${process.argv[1]} URL legacy|auto|modern|REVISION < plan.json`);
  process.exit(2);
}
const print = (line) => console.log(JSON.stringify(line));

/** Something valid for every property of an elicitation form. */
function fill(schema) {
  const kinds = { boolean: true, integer: 1, number: 1.5, array: [] };
  const one = (about) => about.default ?? about.enum?.[0] ?? about.oneOf?.[0].const ?? kinds[about.type] ?? 'filled';
  return Object.fromEntries(Object.entries(schema?.properties ?? {}).map(([name, about]) => [name, one(about)]));
}

async function step(client, { tool, args = {}, expect }) {
  let isError, words;
  try {
    const result = await client.callTool({ name: tool, arguments: args });
    isError = result.isError === true;
    words = result.content.filter((part) => part.type === 'text').map((part) => part.text).join('\n');
  } catch (error) {
    [isError, words] = [true, `error ${error.code}: ${error.message}`];
  }
  const ok = expect === undefined ? !isError : words.includes(expect);
  print({ tool, ok, is_error: isError, text: words });
  return ok;
}

async function main() {
  const plan = JSON.parse((await text(process.stdin)) || '[]');
  const pinned = mode === 'modern' ? '2026-07-28' : mode;
  const client = new Client(
    { name: 'toolgate-tests', version: '1.0.0' },
    {
      capabilities: { sampling: {}, elicitation: { form: {}, url: {} }, roots: {} },
      versionNegotiation: { mode: ['legacy', 'auto'].includes(mode) ? mode : { pin: pinned } },
    },
  );
  client.setRequestHandler('elicitation/create', ({ params }) => ({
    action: 'accept',
    ...(params.mode === 'url' ? {} : { content: fill(params.requestedSchema) }),
  }));
  client.setRequestHandler('sampling/createMessage', () => ({
    role: 'assistant',
    content: { type: 'text', text: 'a sampled answer' },
    model: 'none',
  }));
  client.setRequestHandler('roots/list', () => ({ roots: [{ uri: 'file:///root', name: 'root' }] }));
  const { AUTHORIZATION: authorization } = process.env;
  const requestInit = authorization ? { headers: { Authorization: authorization } } : undefined;
  let transport;
  if (url.startsWith('stdio:')) {
    const { StdioClientTransport } = await load('@modelcontextprotocol/client/stdio');
    const [command, ...args] = url.slice('stdio:'.length).split(' ');
    transport = new StdioClientTransport({ command, args });
  } else {
    transport = new StreamableHTTPClientTransport(new URL(url), { requestInit });
  }
  await client.connect(transport);

  // Without a cursor these walk all pages.
  const able = client.getServerCapabilities() ?? {};
  const listed = {
    tools: able.tools ? (await client.listTools()).tools.map((tool) => tool.name) : [],
    prompts: able.prompts ? (await client.listPrompts()).prompts.map((prompt) => prompt.name) : [],
    resources: able.resources ? (await client.listResources()).resources.map((resource) => resource.uri) : [],
    templates: able.resources
      ? (await client.listResourceTemplates()).resourceTemplates.map((template) => template.uriTemplate)
      : [],
  };
  let ok = true;
  for (const one of plan) ok = (await step(client, one)) && ok;
  print({ negotiated: client.getNegotiatedProtocolVersion(), ...listed });
  if (transport.sessionId) await transport.terminateSession();
  await client.close();
  return ok;
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  console.error(error);
  process.exitCode = 1;
}
