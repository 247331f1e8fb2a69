// What was used: requests, tokens, cost and errors, by day and by one thing more.

import { call, isOperator } from "./api.js";
import { bar, columns } from "./chart.js";
import { choice, count, day, field, figures, filters, h, share, table, usd } from "./dom.js";

export const title = "Usage";

const DAY = 86_400_000;
const ROWS = 200;
const GROUPS = [["day", "Day"], ["model", "Model"], ["provider", "Provider"], ["key", "Key"], ["user", "User"]];
const MEASURES = {
  jobs: ["Requests", (of) => of.jobs, count],
  tokens: ["Tokens", (of) => of.prompt_tokens + of.completion_tokens, count],
  cost: ["Cost", (of) => of.cost_usd, usd],
  errors: ["Errors", (of) => of.jobs - of.succeeded, count],
};

export const route = () => (isOperator() ? "GET /api/v1/admin/usage" : "GET /api/v1/usage");

// Of the last thirty days, or as the address says: from `from` to the end of `to`, days of UTC.
export function rangeOf(query) {
  const valid = (text) => /^\d{4}-\d\d-\d\d$/.test(text ?? "") && !Number.isNaN(Date.parse(text));
  const to = valid(query.get("to")) ? query.get("to") : day(new Date());
  const from = valid(query.get("from")) ? query.get("from") : day(new Date(Date.parse(to) - 29 * DAY));
  return { from, to, asked: { from, to: day(new Date(Date.parse(to) + DAY)), account: isOperator() && query.get("account") } };
}

export const rangeFields = (range, query) => [
  field("From", "from", range.from, { type: "date", required: true }),
  field("To, that day included", "to", range.to, { type: "date", required: true }),
  isOperator() ? field("Account", "account", query.get("account"), { placeholder: "all" }) : null,
];

export async function load(query) {
  const range = rangeOf(query);
  const groups = isOperator() ? [...GROUPS, ["account", "Account"]] : GROUPS;
  const [by, name] = groups.find(([id]) => id === query.get("by")) ?? groups[1];
  const measure = MEASURES[query.get("measure")] ? query.get("measure") : "jobs";
  const ask = (group) => call(route(), { query: { ...range.asked, by: group } });
  const [days, report] = await Promise.all([ask("day"), by === "day" ? null : ask(by)]);
  const { groups: rows, truncated, total } = report ?? days;
  const [label, value, format] = MEASURES[measure];
  const most = Math.max(0, ...rows.map(value));
  return [
    filters("usage", ...rangeFields(range, query), choice("By", "by", by, groups),
      choice("Bars", "measure", measure, Object.entries(MEASURES).map(([id, [text]]) => [id, text]))),
    figures("In all", [
      ["Requests", count(total.jobs)],
      ["Errors", `${count(total.jobs - total.succeeded)} (${share(total.jobs - total.succeeded, total.jobs)})`],
      ["Input tokens", count(total.prompt_tokens)],
      ["Output tokens", count(total.completion_tokens)],
      ["Cost at providers", usd(total.cost_usd)],
      ["Billed", usd(total.billed_usd)],
    ]),
    columns(`${label} by day`, eachDay(range, days.groups, value), format),
    table(`By ${name.toLowerCase()}`, [
      [name, (of) => of[by] ?? "none"],
      [`${label} compared`, (of) => bar(value(of), most)],
      ["Requests", (of) => count(of.jobs), true],
      ["Errors", (of) => count(of.jobs - of.succeeded), true],
      ["Input tokens", (of) => count(of.prompt_tokens), true],
      ["Output tokens", (of) => count(of.completion_tokens), true],
      ["Cost", (of) => usd(of.cost_usd), true],
      ["Billed", (of) => usd(of.billed_usd), true],
      ["Mean time at provider", (of) => `${count(of.mean_provider_ms)} ms`, true],
    ], rows.slice(0, ROWS), "Nothing was used in these days."),
    rows.length > ROWS || truncated ? h("p", {}, `The first ${ROWS} are shown; the CSV has ${truncated ? "the first " : "all "}${count(rows.length)}.`) : null,
    h("button", { type: "button", onclick: () => download({ ...range.asked, by }) }, "Download as CSV"),
    h("p", { class: "note" }, "Each request counts once, on the day on which it ended. Errors are those that failed, were cancelled, ran out of time or were set aside."),
  ];
}

function eachDay(range, groups, value) {
  const known = new Map(groups.map((group) => [group.day, value(group)]));
  const found = [];
  for (let at = Date.parse(range.from); at <= Date.parse(range.to); at += DAY) {
    found.push([day(new Date(at)), known.get(day(new Date(at))) ?? 0]);
  }
  return found;
}

// Of the CSV before: nobody tells when a browser has it, so that it is kept until the next one.
let saved = null;

// The key travels in a header, so that a plain link would not be let in.
async function download(query) {
  const alert = document.getElementById("alert");
  try {
    const csv = await call(route(), { query: { ...query, format: "csv" }, as: "blob" });
    if (saved) URL.revokeObjectURL(saved);
    saved = URL.createObjectURL(csv);
    h("a", { href: saved, download: `usage-${query.from}-by-${query.by}.csv` }).click();
  } catch (error) {
    alert.textContent = `The CSV was not fetched: ${error.message}`;
  }
}
