// A real authorization server for tests: oidc-provider, where alice is always logged in and agrees to everything.
//
//   tests/tools/node tests/oauth/server.mjs        prints `issuer http://127.0.0.1:PORT` when it serves
//
// It has discovery, dynamic registration, codes with PKCE, resource indicators, refresh tokens, client credentials
// and token exchange. Access tokens are JWTs for the `resource` that was asked for, with the granted scopes and the
// claims `roles` and `tenant`. The client `service`, whose secret is `guards-nothing`, gets tokens without a user and may exchange them.
//
// Tests control it; each of these answers JSON:
//   POST /test/rotate[?alg=RS256][&withdraw]   signs with a new key from now on; `withdraw` publishes only that one
//   POST /test/hang, POST /test/resume         leaves requests for keys without an answer, and ends that
//   POST /test/ttl?seconds=N                   how long access tokens live from now on; 10 minutes at first
//   POST /test/token?sub=NAME&resource=URL     returns a token of this user, without a login
//   GET  /test/counts                          the requests of each endpoint: jwks, token, reg, auth and so on
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

// The packages lie under .tools, where a plain import from this folder does not look.
const here = path.dirname(fileURLToPath(import.meta.url));
const tools = path.resolve(process.env.TOOLGATE_TOOLS ?? path.join(here, '../../.tools'));
const from = createRequire(path.join(tools, 'node/package.json'));
const load = (name) => import(pathToFileURL(from.resolve(name)));
const { Provider, errors } = await load('oidc-provider');
const { default: Memory } = await load('oidc-provider/lib/adapters/memory_adapter.js');
const { createLocalJWKSet, jwtVerify } = await load('jose');

const SCOPES = ['mcp', 'files:read', 'files:write'];
const SERVICE = { id: 'service', secret: 'guards-nothing' };
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';

const FAMILIES = {
  RS256: ['rsa', { modulusLength: 2048 }],
  ES256: ['ec', { namedCurve: 'P-256' }],
  EdDSA: ['ed25519', {}],
};

function newKey(alg) {
  const { privateKey } = generateKeyPairSync(...FAMILIES[alg]);
  return { ...privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: randomUUID() };
}

/** The properties of a resource's tokens; every resource is known, and has every scope. */
function resourceServer(_, resource) {
  const [{ alg, kid }] = keys;
  return { audience: resource, scope: SCOPES.join(' '), accessTokenFormat: 'jwt', jwt: { sign: { alg, kid } } };
}

/** The scope that a client registers with is what it wants first, not the bound of what it may ask for later. */
class Storage extends Memory {
  upsert(id, payload, expiresIn) {
    if (this.model === 'Client') delete payload.scope;
    return super.upsert(id, payload, expiresIn);
  }
}

function newProvider(issuer) {
  const provider = new Provider(issuer, {
    adapter: Storage,
    jwks: { keys },
    scopes: ['openid', 'offline_access', ...SCOPES],
    cookies: { keys: ['signs nothing of worth'] },
    clients: [
      {
        client_id: SERVICE.id,
        client_secret: SERVICE.secret,
        grant_types: ['client_credentials', EXCHANGE],
        redirect_uris: [],
        response_types: [],
      },
    ],
    clientDefaults: { id_token_signed_response_alg: keys[0].alg },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      registration: { enabled: true },
      resourceIndicators: { enabled: true, getResourceServerInfo: resourceServer, useGrantedResource: () => true },
    },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: (ctx, { kind }) =>
      ctx?.exchanged ?? { roles: [kind === 'ClientCredentials' ? 'robot' : 'dev'], tenant: 'acme' },
    interactions: { url: (_, { uid }) => `/interaction/${uid}` },
    ttl: {
      AccessToken: () => ttl,
      ClientCredentials: () => ttl,
      Grant: 3600,
      Interaction: 600,
      RefreshToken: 3600,
      Session: 3600,
    },
  });
  const names = ['subject_token', 'subject_token_type', 'audience', 'resource', 'scope', 'requested_token_type'];
  provider.registerGrantType(EXCHANGE, (ctx) => exchange(provider, ctx), names);
  provider.on('server_error', (_, error) => console.error(error));
  return provider;
}

/** RFC 8693: a token of ours for one resource becomes one for another, of the same user, with the client as actor. */
async function exchange(provider, ctx) {
  const { client, params } = ctx.oidc;
  if (params.subject_token_type !== ACCESS_TOKEN) throw new errors.InvalidRequest('subject_token_type is not known');
  const target = params.resource ?? params.audience;
  if (!target) throw new errors.InvalidTarget();
  const ours = createLocalJWKSet({ keys: keys.map(({ d, p, q, dp, dq, qi, ...open }) => open) });
  const { payload: subject } = await jwtVerify(params.subject_token, ours, { issuer: provider.issuer }).catch(() => {
    throw new errors.InvalidRequest('subject_token is not valid');
  });
  const granted = (subject.scope ?? '').split(' ');
  const scope = params.scope ? params.scope.split(' ').filter((one) => granted.includes(one)) : granted;
  ctx.exchanged = { roles: subject.roles, tenant: subject.tenant, act: { sub: client.clientId } };
  const token = new provider.AccessToken({ accountId: subject.sub, client, gty: EXCHANGE, scope: scope.join(' ') });
  token.resourceServer = new provider.ResourceServer(target, resourceServer(ctx, target));
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: ACCESS_TOKEN,
    token_type: token.tokenType,
    expires_in: token.expiration,
    scope: token.scope,
  };
}

/** The login and consent page: alice accepts at once. */
async function interact(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') return provider.interactionFinished(request, response, { login: { accountId: 'alice' } });
  const known = grantId && (await provider.Grant.find(grantId));
  const grant = known || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope, missingResourceScopes = {} } = prompt.details;
  if (missingOIDCScope) grant.addOIDCScope(missingOIDCScope.join(' '));
  for (const [resource, scopes] of Object.entries(missingResourceScopes)) {
    grant.addResourceScope(resource, scopes.join(' '));
  }
  await provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

/** A token as if this user had logged in and agreed to the scope `mcp`. */
async function tokenOf(accountId, resource) {
  const client = await provider.Client.find(SERVICE.id);
  const token = new provider.AccessToken({ accountId, client, scope: 'mcp' });
  token.resourceServer = new provider.ResourceServer(resource, resourceServer(null, resource));
  return token.save();
}

const counts = {};
let ttl = 600;
let hanging;

async function control(url, response) {
  const told = { counts };
  if (url.pathname === '/test/rotate') {
    const key = newKey(url.searchParams.get('alg') ?? 'ES256');
    keys = url.searchParams.has('withdraw') ? [key] : [key, ...keys];
    provider = newProvider(provider.issuer);
  } else if (url.pathname === '/test/hang') {
    hanging = true;
  } else if (url.pathname === '/test/ttl') {
    ttl = Number(url.searchParams.get('seconds'));
  } else if (url.pathname === '/test/resume') {
    hanging = false;
  } else if (url.pathname === '/test/token') {
    told.token = await tokenOf(url.searchParams.get('sub'), url.searchParams.get('resource'));
  }
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ ...told, kid: keys[0].kid }));
}

async function serve(request, response) {
  const url = new URL(request.url, 'http://localhost');
  if (url.pathname.startsWith('/test/')) return control(url, response);
  const [, place] = url.pathname.split('/');
  counts[place] = (counts[place] ?? 0) + 1;
  if (place === 'jwks' && hanging) return;
  if (place === 'interaction') return interact(request, response);
  // RFC 6749, 3.3: without a requested scope the default one is granted.
  if (url.pathname === '/auth' && !url.searchParams.has('scope')) request.url += `&scope=${SCOPES[0]}`;
  provider.callback()(request, response);
}

let keys = [newKey('ES256')];
let provider;
const server = http.createServer((request, response) =>
  serve(request, response).catch((error) => {
    console.error(error);
    response.writeHead(500).end();
  }),
);
// The issuer names the port, so that comes first.
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  provider = newProvider(issuer);
  console.log(`issuer ${issuer}`);
});
