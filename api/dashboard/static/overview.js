// How the broker does: for operators all of it, for others what every caller may know.

import { call, isOperator } from "./api.js";
import { at, bytes, count, duration, figures, h, id, missing, part, table, usd, utc } from "./dom.js";

export const title = "Overview";

export async function load() {
  return isOperator() ? whole(await call("GET /api/v1/admin/overview")) : narrow();
}

const BAD = new Set(["degraded", "offline", "unavailable", "open"]);
const word = (text) => h("span", { class: BAD.has(text) ? "bad" : null }, text);

function breaker(of) {
  if (of.breaker === "open") return `open, a try in ${duration(of.open_seconds)}`;
  return of.breaker.replace("_", "-");
}

const amount = (of, value) => (of.measure.endsWith("_usd") ? usd(value) : count(value));

const PROVIDER = [
  ["Provider", (of) => of.name],
  ["Health", (of) => word(of.status)],
  ["Breaker", (of) => h("span", { class: of.breaker === "open" ? "bad" : null }, breaker(of))],
  ["Paused", (of) => (of.paused_seconds ? `for ${duration(of.paused_seconds)}` : "no")],
];

function whole(view) {
  const lanes = view.providers.flatMap((provider) => provider.lanes.map((lane) => ({ ...lane, provider })));
  const sum = (of) => lanes.reduce((total, lane) => total + of(lane), 0);
  const dead = view.providers.reduce((total, of) => total + of.dead_letters, 0);
  const busy = lanes.filter((lane) => lane.queued || lane.in_flight);
  const settling = view.settling;
  const known = (text) => (settling ? text : "unknown");
  return [
    h("p", { class: "as-of" }, `As of ${utc(view.at)} UTC`),
    figures("The broker", [
      ["Redis", view.redis, view.redis !== "connected"],
      ["Database", view.database, view.database !== "connected"],
      ["Scheduler", view.scheduler === null ? "unknown" : view.scheduler ? "runs" : "none runs", view.scheduler === false],
      ["Jobs queued", known(count(sum((lane) => lane.queued)))],
      ["Jobs running", known(count(sum((lane) => lane.in_flight)))],
      ["Dead letters", known(count(dead)), dead > 0],
      ["Redis memory", view.redis_used_bytes === null ? "unknown" : bytes(view.redis_used_bytes) + (view.redis_max_bytes ? ` of ${bytes(view.redis_max_bytes)}` : "")],
      ["Not in the ledger yet", settling ? count(settling.ledger_entries) : "unknown", settling?.ledger_seconds > 60],
      ["Refused by the ledger", settling ? count(settling.rejected) : "unknown", settling?.rejected > 0],
    ]),
    table("Providers", [
      ...PROVIDER,
      ["Workers", (of) => count(of.workers), true],
      ["Slots", (of) => count(of.slots), true],
      ["Dead letters", (of) => count(of.dead_letters), true],
    ], view.providers, settling ? "No provider is served." : "Providers cannot be told while Redis is away."),
    table("Queues", [
      ["Provider", (lane) => lane.provider.name],
      ["Lane", (lane) => lane.lane],
      ["Queued", (lane) => count(lane.queued), true],
      ["of these in the backlog", (lane) => count(lane.waiting), true],
      ["Running", (lane) => count(lane.in_flight), true],
      ["First one waits", (lane) => duration(lane.oldest_seconds), true],
    ], busy, settling ? "Nothing waits and nothing runs." : "Queues cannot be read while Redis is away."),
  ];
}

async function narrow() {
  const [health, providers, quota] = await Promise.all([
    part("Health", call("GET /api/v1/health"), (view) => figures("The broker", [
      ["Broker", view.status, view.status !== "ok"],
      ["Redis", view.redis, view.redis !== "connected"],
      ["Database", view.database, view.database !== "connected"],
    ])),
    part("Providers", call("GET /api/v1/providers"), (view) => table("Providers", PROVIDER, view.providers, "No provider is served.")),
    part("Limits", call("GET /api/v1/quota"), (view) => table("What may still be used", [
      ["Of", (of) => [`${of.scope} `, id(of.id)]],
      ["What", (of) => of.measure.replace("_usd", "").replaceAll("_", " ")],
      ["Used", (of) => amount(of, of.used), true],
      ["Limit", (of) => (of.limit === null ? "none" : amount(of, of.limit)), true],
      ["All there again (UTC)", (of) => at(of.resets_at)],
    ], view.limits, "No limits are set.")),
  ]);
  return [health, providers, quota, missing("Queues, workers and dead letters", "operate")];
}
