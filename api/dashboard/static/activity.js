// Who did what: administrative acts, and requests.

import { call, isOperator, may } from "./api.js";
import { at, choice, count, day, duration, field, filters, h, id, missing, pager, part, table, usd } from "./dom.js";

export const title = "Activity";

const PAGE = 50;

export async function load(query) {
  const acts = query.get("show") ? query.get("show") === "acts" : isOperator() || may("audit:read");
  const shown = (what, text, is) => h("a", { href: `#/activity?show=${what}`, "aria-current": is ? "true" : null }, text);
  return [
    h("p", { class: "tabs" }, shown("acts", "Administrative acts", acts), shown("requests", "Requests", !acts)),
    ...(await (acts ? listActs(query) : listRequests(query))),
  ];
}

const asked = (query, ...names) => ({ ...Object.fromEntries(names.map((name) => [name, query.get(name)])), limit: PAGE });
const account = () => (isOperator() ? [["Account", (of) => id(of.account)]] : []);
const hidden = (show) => h("input", { type: "hidden", name: "show", value: show });
const accountField = (query) => (isOperator() ? field("Account", "account", query.get("account"), { placeholder: "all" }) : null);

async function listActs(query) {
  if (!isOperator() && !may("audit:read")) return [missing("Administrative acts", "audit:read")];
  const route = isOperator() ? "GET /api/v1/admin/audit" : "GET /api/v1/audit";
  const names = ["act", "actor", "cursor", ...(isOperator() ? ["account"] : [])];
  return [
    filters("activity", hidden("acts"), field("Act", "act", query.get("act"), { placeholder: "such as api-key.created" }),
      field("Done by", "actor", query.get("actor"), { placeholder: "id of a user or key" }), accountField(query)),
    await part("Administrative acts", call(route, { query: asked(query, ...names) }), (page) => [
      table("Administrative acts, newest first", [
        ["Time (UTC)", (of) => at(of.at)],
        ["Act", (of) => of.act],
        ["Outcome", (of) => of.outcome],
        ["Done by", (of) => id(of.actor)],
        ["To", (of) => id(of.object)],
        ...account(),
        ["Details", (of) => (Object.keys(of.details).length ? JSON.stringify(of.details) : "–")],
        ["From address", (of) => of.address ?? "–"],
      ], page.data, "No such act is on record."),
      pager("activity", query, page.next_cursor),
    ]),
  ].flat();
}

async function listRequests(query) {
  const route = isOperator() ? "GET /api/v1/admin/usage/jobs" : "GET /api/v1/usage/jobs";
  const names = ["model", "key", "outcome", "cursor", ...(isOperator() ? ["account"] : [])];
  // The broker's own default is this month.
  const range = { from: day(new Date(Date.now() - 365 * 86_400_000)) };
  return [
    filters("activity", hidden("requests"), field("Model", "model", query.get("model")), field("Key", "key", query.get("key")),
      choice("Outcome", "outcome", query.get("outcome") ?? "", [["", "any"], ...["succeeded", "failed", "cancelled", "expired", "dead"].map((one) => [one, one])]),
      accountField(query)),
    await part("Requests", call(route, { query: { ...range, ...asked(query, ...names) } }), (page) => [
      table("Requests, newest first", [
        ["Ended (UTC)", (of) => at(of.ended_at)],
        ["Model", (of) => `${of.provider}/${of.model}`],
        ["Kind", (of) => of.kind],
        ["Outcome", (of) => h("span", { class: of.outcome === "succeeded" ? null : "bad" }, of.error ? `${of.outcome}: ${of.error}` : of.outcome)],
        ["Input tokens", (of) => count(of.prompt_tokens), true],
        ["Output tokens", (of) => count(of.completion_tokens), true],
        ["Cost", (of) => usd(of.cost_usd), true],
        ["Queued", (of) => duration(of.queue_ms / 1000), true],
        ["At provider", (of) => duration(of.provider_ms / 1000), true],
        ...account(),
        ["Key", (of) => id(of.key)],
        ["User", (of) => id(of.user)],
      ], page.data, "No such request in the last year."),
      pager("activity", query, page.next_cursor),
    ]),
  ].flat();
}
