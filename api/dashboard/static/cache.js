// What did not have to be computed again: prompts that providers had cached, and requests that shared an answer.

import { call, isOperator } from "./api.js";
import { bar } from "./chart.js";
import { count, figures, filters, h, missing, part, share, table, utc } from "./dom.js";
import { rangeFields, rangeOf, route } from "./usage.js";

export const title = "Cache";

const REPLAYS = {
  idempotency_key: "the same Idempotency-Key came again",
  client_retry: "an official client tried again by itself",
  single_flight: "the same request ran already",
};

export async function load(query) {
  const range = rangeOf(query);
  const [prompts, replays] = await Promise.all([
    part("Prompt caches", call(route(), { query: { ...range.asked, by: ["provider", "model"] } }), drawPrompts),
    isOperator()
      ? part("Shared answers", call("GET /api/v1/admin/overview"), drawReplays)
      : missing("Shared answers", "operate"),
  ]);
  return [filters("cache", ...rangeFields(range, query)), prompts, replays].flat();
}

function drawPrompts({ total, groups }) {
  return [
    figures("Prompt caches of providers", [
      ["Input tokens", count(total.prompt_tokens)],
      ["of these read from a cache", count(total.cached_tokens)],
      ["Share of input tokens", share(total.cached_tokens, total.prompt_tokens)],
      ["Requests that read from one", `${count(total.cached_jobs)} of ${count(total.jobs)}`],
      ["Hit ratio of requests", share(total.cached_jobs, total.jobs)],
    ]),
    table("Prompt caches by provider and model", [
      ["Provider", (of) => of.provider],
      ["Model", (of) => of.model],
      ["Share", (of) => bar(of.cached_tokens, of.prompt_tokens)],
      ["of input tokens", (of) => share(of.cached_tokens, of.prompt_tokens), true],
      ["Input tokens", (of) => count(of.prompt_tokens), true],
      ["read from the cache", (of) => count(of.cached_tokens), true],
      ["Requests", (of) => count(of.jobs), true],
      ["that read from it", (of) => share(of.cached_jobs, of.jobs), true],
    ], groups, "Nothing was asked in these days."),
    h("p", { class: "note" }, "From the ledger: tokens that a provider said it read from its own prompt cache, of all requests that ended in these days. A provider that says nothing of its cache counts as none."),
  ];
}

function drawReplays({ process }) {
  return [
    table("Requests that got another one's answer", [
      ["Why", ([kind]) => REPLAYS[kind] ?? kind],
      ["Requests", ([, number]) => count(number), true],
    ], Object.entries(process.replays)),
    h("p", { class: "note" }, `Counted by the one api process that answered just now, since it started at ${utc(process.started_at)} UTC. Each process counts its own; gateway_replays_total in /metrics is there to be summed.`),
  ];
}
