// Bars in SVG. The table beside them tells the same in figures.

import { h, svg } from "./dom.js";

const HEIGHT = 100;

// `points`: [label, value], in their order. Labels of the first and the last stand below.
export function columns(title, points, format) {
  const most = Math.max(0, ...points.map(([, value]) => value));
  const bars = points.map(([label, value], index) => {
    const height = most ? (value / most) * HEIGHT : 0;
    return svg("rect", { x: index + 0.1, width: 0.8, y: HEIGHT - height, height }, svg("title", {}, `${label}: ${format(value)}`));
  });
  return h("figure", {},
    h("figcaption", {}, title, h("span", {}, `most: ${format(most)}`)),
    svg("svg", { class: "columns", viewBox: `0 0 ${points.length} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}, most ${format(most)}` }, bars),
    h("div", { class: "ends" }, h("span", {}, points[0]?.[0] ?? ""), h("span", {}, points.at(-1)?.[0] ?? "")));
}

// How much of `whole` is `part`, for a cell of a table.
export function bar(part, whole) {
  const width = whole ? Math.max(0, Math.min(100, (part / whole) * 100)) : 0;
  return svg("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "whole", width: 100, height: 8 }), svg("rect", { width, height: 8 }));
}
