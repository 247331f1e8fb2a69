// Jobs that were set aside, and the button that runs one again.

import { call, isOperator } from "./api.js";
import { at, count, field, filters, h, id, missing, pager, table } from "./dom.js";

export const title = "Dead letters";

export async function load(query) {
  if (!isOperator()) return [missing("Dead letters", "operate")];
  const asked = Object.fromEntries(["provider", "account", "reason", "cursor"].map((name) => [name, query.get(name)]));
  const page = await call("GET /api/v1/admin/dead-letters", { query: asked });
  return [
    filters("dead-letters", ...["Provider", "Account", "Reason"].map((label) => field(label, label.toLowerCase(), asked[label.toLowerCase()]))),
    table("Dead letters, newest first", [
      ["Died (UTC)", (of) => at(of.died_at)],
      ["Job", (of) => id(of.job_id)],
      ["Model", (of) => `${of.provider}/${of.model}`],
      ["Account", (of) => id(of.account)],
      ["Reason", (of) => of.reason],
      ["Deliveries", (of) => count(of.deliveries), true],
      ["Run again", again],
    ], page.data, "No job was set aside."),
    pager("dead-letters", query, page.next_cursor),
  ];
}

function again(letter) {
  if (letter.redriven_as) return `as ${letter.redriven_as}`;
  if (!letter.kept) return "too old";
  const cell = h("span", {});
  const ask = () => {
    const yes = h("button", { type: "button", onclick: () => redrive(letter, cell) }, "Yes, run it");
    cell.replaceChildren("It may be paid for again. ", yes, " ", h("button", { type: "button", onclick: offer }, "No"));
    yes.focus();
  };
  const offer = () => cell.replaceChildren(h("button", { type: "button", onclick: ask, "aria-label": `Run ${letter.job_id} again` }, "Run again"));
  offer();
  return cell;
}

async function redrive(letter, cell) {
  cell.replaceChildren("Asking…");
  try {
    const done = await call("POST /api/v1/admin/dead-letters/{job_id}/redrive", { path: { job_id: letter.job_id } });
    cell.replaceChildren(`as ${done.redriven_as}`);
  } catch (error) {
    cell.replaceChildren(h("span", { class: "bad" }, error.message));
  }
}
