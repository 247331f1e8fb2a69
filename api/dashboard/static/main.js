// Which page is shown: that of the address, `#/usage?by=model`, or the one that signs in.

import { isOperator, session, signInByKey, signInByPassword, signOut } from "./api.js";
import * as activity from "./activity.js";
import * as cache from "./cache.js";
import * as deadLetters from "./dead_letters.js";
import { field, h } from "./dom.js";
import * as overview from "./overview.js";
import * as usage from "./usage.js";

const PAGES = { overview, usage, activity, cache, "dead-letters": deadLetters };
const [nav, who, alert, main] = ["nav", "who", "alert", "main"].map((id) => document.getElementById(id));

// Pages may be left while they load: what comes late is not shown.
let turn = 0;

async function show() {
  const mine = ++turn;
  alert.textContent = "";
  if (!session()) return showSignIn();
  const [asked, query] = location.hash.replace(/^#\//, "").split("?");
  const name = Object.hasOwn(PAGES, asked) ? asked : "overview";
  const page = PAGES[name];
  frame(name);
  const heading = h("h1", { tabindex: "-1" }, page.title);
  const again = h("button", { type: "button", onclick: show }, "Refresh");
  const body = h("div", {}, h("p", { class: "loading" }, "Loading…"));
  main.replaceChildren(h("div", { class: "heading" }, heading, again), body);
  heading.focus();
  main.setAttribute("aria-busy", "true");
  let content;
  try {
    content = await page.load(new URLSearchParams(query));
  } catch (error) {
    if (error.status === 401) return;
    content = [h("p", { ...(error.status === 403 ? { class: "missing" } : { class: "problem", role: "alert" }) }, error.message)];
    if (error.status === undefined) console.error(error);
  }
  if (mine !== turn) return;
  main.removeAttribute("aria-busy");
  body.replaceChildren(...content.flat().filter(Boolean));
}

function frame(current) {
  const shown = Object.entries(PAGES).filter(([name]) => name !== "dead-letters" || isOperator());
  nav.replaceChildren(...shown.map(([name, page]) => h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, page.title)));
  const { name, account } = session().me;
  who.replaceChildren(h("span", {}, account ? `${name}, ${account}` : name), h("button", { type: "button", onclick: leave }, "Sign out"));
  document.title = `${PAGES[current].title} – Headrace`;
}

function showSignIn(why = "") {
  turn += 1;
  nav.replaceChildren();
  who.replaceChildren();
  alert.textContent = why;
  main.removeAttribute("aria-busy");
  document.title = "Sign in – Headrace";
  const form = (signIn, ...fields) => h("form", { class: "sign-in", onsubmit: (event) => submitted(event, signIn) }, fields, h("button", {}, "Sign in"));
  main.replaceChildren(
    h("h1", {}, "Sign in"),
    form((given) => signInByPassword(given.get("email"), given.get("password"), given.get("account").trim()),
      field("Email", "email", "", { type: "email", autocomplete: "username", required: true }),
      field("Password", "password", "", { type: "password", autocomplete: "current-password", required: true }),
      field("Account, if you are in several", "account", "", { placeholder: "the first one", autocomplete: "off" })),
    form((given) => signInByKey(given.get("key").trim()),
      field("API key or admin token", "key", "", { type: "password", autocomplete: "off", required: true })));
}

async function submitted(event, signIn) {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  try {
    await signIn(new FormData(event.target));
    await show();
  } catch (error) {
    alert.textContent = error.message;
    button.disabled = false;
  }
}

async function leave() {
  try {
    await signOut();
    showSignIn("You are signed out.");
  } catch (error) {
    showSignIn(`You are signed out here. The broker was not told: ${error.message}`);
  }
}

window.addEventListener("hashchange", show);
window.addEventListener("signed-out", () => showSignIn("Your session has ended. Sign in again."));
show();
