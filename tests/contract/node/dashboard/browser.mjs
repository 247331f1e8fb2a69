// The dashboard as a browser runs it: its files, as the broker serves them, evaluated in a window of jsdom.

import { SourceTextModule } from "node:vm";
import { JSDOM } from "jsdom";

export const given = JSON.parse(process.env.HEADRACE_TEST_DASHBOARD);

const WITHIN_MS = 10_000;

export class Browser {
  // `kept`: a session that this tab has already. `hold`: see there.
  static async open({ hash = "", kept, hold } = {}) {
    const page = await text("");
    const dom = new JSDOM(page, { url: `${given.url}/dashboard/${hash}`, runScripts: "outside-only", pretendToBeVisual: true });
    const browser = new Browser(dom);
    if (hold) browser.hold = hold;
    if (kept) dom.window.sessionStorage.setItem("headrace.session", JSON.stringify(kept));
    const [script] = dom.window.document.querySelectorAll("script");
    await browser.#run(script.getAttribute("src"));
    return browser;
  }

  constructor(dom) {
    this.dom = dom;
    this.window = dom.window;
    this.document = dom.window.document;
    this.asked = [];
    // Awaited before each question to the API. What it returns is the answer.
    this.hold = async () => {};
    this.window.fetch = async (path, init) => {
      this.asked.push(`${init.method} ${path}`);
      const instead = await this.hold(path);
      return instead ?? fetch(new URL(path, this.window.location.href), init);
    };
    // What jsdom has not: the next file that is saved, where a browser would make a link to it.
    this.saved = new Promise((resolve) => {
      this.window.URL.createObjectURL = (blob) => {
        resolve(blob);
        return "blob:saved";
      };
    });
    // A link to what is saved leads nowhere in jsdom, and says so.
    this.document.addEventListener("click", (event) => event.target.download && event.preventDefault());
  }

  async #run(entry) {
    const modules = new Map();
    const load = (name) => {
      if (!modules.has(name)) {
        const context = this.dom.getInternalVMContext();
        modules.set(name, text(name).then((source) => new SourceTextModule(source, { context, identifier: name })));
      }
      return modules.get(name);
    };
    const main = await load(entry);
    await main.link((specifier) => load(specifier.replace("./", "")));
    await main.evaluate();
  }

  get text() {
    return this.document.body.textContent;
  }

  get kept() {
    return JSON.parse(this.window.sessionStorage.getItem("headrace.session"));
  }

  all(selector) {
    return [...this.document.querySelectorAll(selector)];
  }

  // Once `is` is true; looked at after every change of the page.
  until(is, what = `${is}`) {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (!is()) return;
        seen.disconnect();
        clearTimeout(timer);
        resolve();
      };
      const seen = new this.window.MutationObserver(look);
      const timer = setTimeout(() => {
        seen.disconnect();
        reject(new Error(`never came: ${what}; the page says: ${this.text}`));
      }, WITHIN_MS);
      seen.observe(this.document, { subtree: true, childList: true, attributes: true, characterData: true });
      look();
    });
  }

  loaded(title) {
    const main = this.document.getElementById("main");
    return this.until(
      () => main.querySelector("h1")?.textContent === title && !main.querySelector(".loading"),
      `the page ${title}`,
    );
  }

  async go(hash, title) {
    // Marked, so that the page that is there is not taken for the one to come.
    this.document.querySelector("#main h1").textContent = "before";
    this.window.location.hash = hash;
    await this.loaded(title);
  }

  button(label, within = this.document) {
    return [...within.querySelectorAll("button")].find((button) => button.textContent === label);
  }

  fill(fields) {
    for (const [name, value] of Object.entries(fields)) this.document.querySelector(`[name=${name}]`).value = value;
  }

  async signIn(who, title = "Overview", account = "") {
    this.fill({ email: who, password: given.password, account });
    this.document.querySelector("form button").click();
    await this.loaded(title);
  }

  async signInByKey(key, title = "Overview") {
    this.fill({ key });
    this.document.querySelectorAll("form button")[1].click();
    await this.loaded(title);
  }

  // What a figure says, by what it is called.
  figure(name) {
    return this.all(".figures div").find((one) => one.querySelector("dt").textContent === name)?.querySelector("dd").textContent;
  }

  // Rows of a table as objects, by its caption.
  rows(caption) {
    const found = this.all("table").find((table) => table.caption.textContent === caption);
    if (!found) return [];
    const heads = [...found.tHead.rows[0].cells].map((cell) => cell.textContent);
    return [...found.tBodies[0].rows].map((row) => Object.fromEntries([...row.cells].map((cell, index) => [heads[index], cell.textContent])));
  }
}

async function text(name) {
  const answer = await fetch(`${given.url}/dashboard/${name}`);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer.text();
}

// The API itself, to compare with.
export async function api(path, token) {
  const answer = await fetch(`${given.url}${path}`, { headers: { authorization: `Bearer ${token}` } });
  return { status: answer.status, body: await answer.json() };
}
