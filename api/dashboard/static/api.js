// What the pages ask the broker, and the session that they ask with: in this tab's storage, never in a cookie.

const KEPT = "headrace.session";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// {token, refreshToken?, me}, or null where nobody is signed in.
export function session() {
  return JSON.parse(sessionStorage.getItem(KEPT));
}

function keep(kept) {
  if (kept) sessionStorage.setItem(KEPT, JSON.stringify(kept));
  else sessionStorage.removeItem(KEPT);
}

// `route`: method and path as in the OpenAPI document. Throws Refused; a 401 ends the session.
export async function call(route, { path = {}, query = {}, body, token, as = "json" } = {}) {
  const [method, template] = route.split(" ");
  const filled = template.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(path[name]));
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one) asked.append(name, one);
  }
  const url = `${asked}` ? `${filled}?${asked}` : filled;
  const used = token ?? session()?.token;
  let answer = await send(method, url, body, used);
  if (answer.status === 401 && token === undefined && used) {
    if (await renewed(used)) answer = await send(method, url, body, session().token);
    if (answer.status === 401) end();
  }
  if (answer.status === 404 && method === "GET" && template.includes("/admin/")) {
    throw new Refused(404, "Operators' pages are on the admin port of this broker.");
  }
  if (!answer.ok) throw new Refused(answer.status, await messageOf(answer));
  if (answer.status === 204) return null;
  return as === "blob" ? answer.blob() : answer.json();
}

async function send(method, url, body, token) {
  const headers = {};
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  try {
    return await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, "The broker cannot be reached.");
  }
}

async function messageOf(answer) {
  const known = await answer.json().catch(() => null);
  return known?.error?.message ?? `The broker answered ${answer.status}.`;
}

let renewing = null;

// Whether there is another token than `used` now. A refresh token is good once, so that one call renews for all.
// Throws Refused where the broker could not say: then the session may still go on.
async function renewed(used) {
  const kept = session();
  if (!kept) return false;
  if (kept.token !== used) return true;
  if (!kept.refreshToken) return false;
  renewing ??= call("POST /api/v1/auth/refresh", { body: { refreshToken: kept.refreshToken }, token: "" })
    .then((next) => {
      if (session()?.refreshToken !== kept.refreshToken) return false; // signed out meanwhile
      keep({ ...kept, token: next.token, refreshToken: next.refreshToken });
      return true;
    }, (error) => {
      if (error.status === 400 || error.status === 401) return false;
      throw error;
    })
    .finally(() => { renewing = null; });
  return renewing;
}

function end() {
  keep(null);
  window.dispatchEvent(new Event("signed-out"));
}

export async function signInByPassword(email, password, account) {
  const opened = await call("POST /api/v1/auth/login", { body: { email, password, account: account || null }, token: "" });
  keep({ token: opened.token, refreshToken: opened.refreshToken, me: await whoIs(opened.token) });
}

// An API key, or the admin token.
export async function signInByKey(token) {
  keep({ token, me: await whoIs(token) });
}

// With a token that is not over yet, or the broker ends nothing.
export async function signOut() {
  try {
    if (session()?.refreshToken) await call("POST /api/v1/auth/logout");
  } finally {
    keep(null);
  }
}

// `permissions`: null where the broker does not say. The admin token and keys of few scopes are told nothing of
// themselves, so that what they may is found out by asking.
async function whoIs(token) {
  try {
    const me = await call("GET /api/v1/auth/me", { token });
    return { name: me.user?.email ?? me.credential, account: me.account, permissions: me.permissions };
  } catch (error) {
    if (error.status !== 401 && error.status !== 403) throw error;
  }
  try {
    await call("GET /api/v1/admin/overview", { token });
    return { name: "operator", account: null, permissions: ["operate"] };
  } catch (error) {
    if (error.status === 403) return { name: "a key", account: null, permissions: null };
    throw error.status === 401 ? new Refused(401, "This key or token is wrong.") : error;
  }
}

export const isOperator = () => session()?.me.permissions?.includes("operate") ?? false;

export function may(permission) {
  const permissions = session()?.me.permissions;
  return permissions === null || Boolean(permissions?.includes(permission));
}
