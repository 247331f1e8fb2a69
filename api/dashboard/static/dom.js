// Elements, tables and figures. Text goes in as text nodes: what a name says is never read as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return element;
}

export const h = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);
export const svg = (tag, properties = {}, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

const integers = new Intl.NumberFormat("en");
const dollars = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD", maximumFractionDigits: 6 });
const percents = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });

export const count = (value) => integers.format(value);
export const usd = (value) => dollars.format(value);
export const share = (part, whole) => (whole ? percents.format(part / whole) : "–");
export const utc = (text) => new Date(text).toISOString().slice(0, 19).replace("T", " ");
export const at = (text) => h("time", { datetime: text }, utc(text));
// Cut off where it is long, for the eye alone: whoever copies it gets it whole.
export const id = (text) => (text ? h("span", { class: "id", title: text }, text) : "–");
export const day = (date) => date.toISOString().slice(0, 10);

export function duration(seconds) {
  if (seconds < 1) return seconds ? `${Math.ceil(seconds * 1000)} ms` : "0 s";
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

export function bytes(value) {
  const step = Math.min(3, Math.floor(Math.log2(Math.max(1, value)) / 10));
  return `${Math.round(value / 1024 ** step)} ${["B", "KiB", "MiB", "GiB"][step]}`;
}

// `columns`: [head, row => text or element, is it a number]. The first one is the head of its row.
export function table(caption, columns, rows, empty = "Nothing here.") {
  if (!rows.length) return h("section", {}, h("h2", {}, caption), h("p", { class: "empty" }, empty));
  const cell = ([, of, number], row, index) =>
    h(index ? "td" : "th", { class: number && "number", scope: index ? null : "row" }, [of(row)]);
  return h("section", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, columns.map(([head, , number]) => h("th", { scope: "col", class: number && "number" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((column, index) => cell(column, row, index)))))));
}

// `figures`: [what, value, is it bad].
export function figures(label, list) {
  return h("dl", { class: "figures", "aria-label": label },
    list.map(([what, value, bad]) => h("div", { class: bad ? "bad" : null }, h("dt", {}, what), h("dd", {}, value))));
}

export const field = (label, name, value, properties = {}) =>
  h("label", {}, label, h("input", { name, value: value ?? "", ...properties }));

export const choice = (label, name, value, options) =>
  h("label", {}, label, h("select", { name }, options.map(([option, text]) => h("option", { value: option, selected: option === value }, text))));

// A form whose answers become the query of the page's address, so that they can be reloaded and gone back from.
export function filters(page, ...fields) {
  const submit = (event) => {
    event.preventDefault();
    const query = new URLSearchParams([...new FormData(event.target)].filter(([, value]) => value.trim()));
    location.hash = `#/${page}?${query}`;
  };
  return h("form", { class: "filters", role: "search", onsubmit: submit }, fields, h("button", {}, "Show"));
}

// Where a page of a list goes on.
export function pager(page, query, cursor) {
  const to = (next) => {
    const changed = new URLSearchParams(query);
    changed.delete("cursor");
    if (next) changed.set("cursor", next);
    return `#/${page}?${changed}`;
  };
  return h("p", { class: "pager" },
    query.get("cursor") ? h("a", { href: to(null) }, "Newest") : null,
    cursor ? h("a", { href: to(cursor) }, "Older") : null);
}

export const missing = (what, permission) =>
  h("p", { class: "missing" }, `${what}: this takes the permission '${permission}', which this credential lacks.`);

// A part of a page: what it asks for, drawn. What was refused is told in its place, and the rest is still shown.
export async function part(what, asked, draw) {
  try {
    return draw(await asked);
  } catch (error) {
    if (error.status === undefined || error.status === 401) throw error;
    return h("p", { ...(error.status === 403 ? { class: "missing" } : { class: "problem", role: "alert" }) }, `${what}: ${error.message}`);
  }
}
