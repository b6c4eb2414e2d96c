// A real client, the MCP TypeScript SDK, that has to log in first: it meets a 401 and goes the whole way by the
// SDK's own OAuth (metadata of the resource and of the authorization server, registration, code with PKCE, token).
// The twin of oauth.py, with the same input, output and exit status, so that one test can run both.
//
//   tests/tools/node oauth.mjs URL code|service < plan.json
//
// `service` logs in with client credentials instead: SERVICE_ISSUER, SERVICE_ID and SERVICE_SECRET say whose.
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { text } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';

// The SDK lies under .tools, where a plain import from this folder does not look.
const here = path.dirname(fileURLToPath(import.meta.url));
const tools = process.env.TOOLGATE_TOOLS ?? path.join(here, '../../.tools');
const sdk = createRequire(path.join(path.resolve(tools), 'node/package.json')).resolve('@modelcontextprotocol/client');
const { Client, ClientCredentialsProvider, StreamableHTTPClientTransport, UnauthorizedError } = await import(
  pathToFileURL(sdk)
);

const [url, how] = process.argv.slice(2);
if (!['code', 'service'].includes(how)) {
  console.error(`usage: ${process.argv[1]} URL code|service < plan.json`);
  process.exit(2);
}
const print = (line) => console.log(JSON.stringify(line));
const REDIRECT = 'http://127.0.0.1:1/callback';

/** A browser: follows redirects with its cookies, up to the one that leads back to the client. */
async function browse(from) {
  const cookies = new Map();
  for (let at = String(from); ; ) {
    if (at.startsWith(REDIRECT)) return new URL(at).searchParams;
    const cookie = [...cookies].map((pair) => pair.join('=')).join('; ');
    const response = await fetch(at, { redirect: 'manual', headers: { cookie } });
    for (const one of response.headers.getSetCookie()) {
      const [name, value] = one.split(';')[0].split('=');
      cookies.set(name, value);
    }
    const next = response.headers.get('location');
    if (!next) throw new Error(`${at}: ${response.status} ${await response.text()}`);
    at = new URL(next, at).href;
  }
}

/** A user at a browser; everything is kept in memory. */
class Person {
  redirectUrl = REDIRECT;
  clientMetadata = {
    client_name: 'toolgate-tests',
    redirect_uris: [REDIRECT],
    grant_types: ['authorization_code', 'refresh_token'],
    token_endpoint_auth_method: 'none',
  };
  logins = [];
  state = () => crypto.randomUUID();
  clientInformation = () => this.client;
  saveClientInformation = (client) => void (this.client = client);
  tokens = () => this.kept;
  saveTokens = (tokens) => void (this.kept = tokens);
  codeVerifier = () => this.verifier;
  saveCodeVerifier = (verifier) => void (this.verifier = verifier);
  discoveryState = () => this.discovered;
  saveDiscoveryState = (state) => void (this.discovered = state);
  redirectToAuthorization = (url) => void (this.asked = url);

  /** Runs `act`, and once more after a login if it requires one. */
  async loggedIn(act, transport) {
    try {
      return await act();
    } catch (error) {
      if (!(error instanceof UnauthorizedError) || !this.asked) throw error;
      const { searchParams } = this.asked;
      this.logins.push({ scope: searchParams.get('scope'), resource: searchParams.get('resource') });
      const answer = await browse(this.asked);
      this.asked = undefined;
      await transport().finishAuth(answer);
      return await act();
    }
  }
}

/** A program with a name and a secret. */
class Service extends ClientCredentialsProvider {
  logins = [];
  loggedIn = (act) => act();
}

async function step(call, { tool, args = {}, expect, sleep }) {
  if (sleep !== undefined) return setTimeout(sleep * 1000, true);
  let isError, words;
  try {
    const result = await call({ name: tool, arguments: args });
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
  const { SERVICE_ISSUER: expectedIssuer, SERVICE_ID: clientId, SERVICE_SECRET: clientSecret } = process.env;
  const provider = how === 'code' ? new Person() : new Service({ clientId, clientSecret, expectedIssuer });
  let client, transport;
  const connect = async () => {
    client = new Client({ name: 'toolgate-tests', version: '1.0.0' }, { versionNegotiation: { mode: 'auto' } });
    transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
    await client.connect(transport);
  };
  await provider.loggedIn(connect, () => transport);
  const names = async () => (await client.listTools()).tools.map((tool) => tool.name);
  const listed = await provider.loggedIn(names, () => transport);
  const call = (params) => provider.loggedIn(() => client.callTool(params), () => transport);
  let ok = true;
  for (const one of plan) ok = (await step(call, one)) && ok;
  const { scope, access_token: token } = provider.tokens();
  print({ negotiated: client.getNegotiatedProtocolVersion(), tools: listed, logins: provider.logins, scope, token });
  await client.close();
  return ok;
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  console.error(error);
  process.exitCode = 1;
}
