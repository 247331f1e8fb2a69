// Each page of the dashboard, against a broker that real requests went through. Run by tests/acceptance/test_dashboard.py

import assert from "node:assert/strict";
import { test } from "node:test";
import { api, Browser, given } from "./browser.mjs";

async function signedIn(who, hash = "", title = "Overview", account = "") {
  const browser = await Browser.open({ hash });
  await browser.signIn(who, title, account);
  return browser;
}

const number = (value) => value.toLocaleString("en");

test("a wrong password is told, and the right one opens the overview", async () => {
  const browser = await Browser.open();
  browser.fill({ email: given.member, password: "not the password of hers" });
  browser.document.querySelector("form button").click();
  const alert = browser.document.getElementById("alert");
  await browser.until(() => alert.textContent);
  assert.equal(alert.getAttribute("role"), "alert");
  assert.equal(browser.kept, null);

  await browser.signIn(given.member);

  assert.equal(alert.textContent, "");
  assert.equal(browser.figure("Redis"), "connected");
  assert.ok(browser.rows("Providers").some((row) => row.Provider === "OpenAI" && row.Breaker === "closed"));
  assert.ok(browser.kept.token);
  assert.equal(browser.document.cookie, "");
  assert.equal(browser.window.localStorage.length, 0);
});

test("who does not operate sees the rest, and which permission is missing", async () => {
  const browser = await signedIn(given.viewer, "", "Overview", given.account);
  assert.match(browser.text, /Queues, workers and dead letters: this takes the permission 'operate'/);
  assert.ok(!browser.asked.some((one) => one.includes("/admin/")));
  assert.ok(!browser.all("nav a").some((link) => link.textContent === "Dead letters"));

  await browser.go("#/activity", "Activity");
  assert.ok(browser.rows("Requests, newest first").length > 0);
  await browser.go("#/activity?show=acts", "Activity");
  assert.match(browser.text, /'audit:read'/);
  await browser.go("#/cache", "Cache");
  assert.match(browser.text, /Shared answers: this takes the permission 'operate'/);
  assert.ok(browser.figure("Input tokens"));
  await browser.go("#/dead-letters", "Dead letters");
  assert.match(browser.text, /'operate'/);
});

test("the overview of an operator has what waits, runs and lies dead", async () => {
  const browser = await signedIn(given.operator);

  assert.equal(browser.figure("Scheduler"), "runs");
  assert.equal(browser.figure("Jobs running"), "1");
  assert.equal(browser.figure("Dead letters"), "1");
  const openai = browser.rows("Providers").find((row) => row.Provider === "OpenAI");
  assert.equal(openai.Workers, "1");
  assert.equal(openai["Dead letters"], "1");
  assert.deepEqual(browser.rows("Queues").map((row) => [row.Provider, row.Lane, row.Running]), [["OpenAI", "interactive", "1"]]);
});

test("usage is what the API says of it, by model and by day", async () => {
  const browser = await signedIn(given.member, "#/usage?by=model&measure=errors", "Usage");
  const { body } = await api("/api/v1/usage?by=model", browser.kept.token);

  assert.equal(browser.figure("Requests"), number(body.total.jobs));
  assert.match(browser.figure("Errors"), /^1 /);
  assert.equal(browser.figure("Input tokens"), number(body.total.prompt_tokens));
  assert.notEqual(browser.figure("Cost at providers"), "$0.00");
  const rows = browser.rows("By model");
  assert.deepEqual(rows.map((row) => row.Model).sort(), body.groups.map((group) => group.model).sort());
  assert.equal(rows.find((row) => row.Model === "gpt-4o-mini").Errors, "1");
  const bars = browser.all("svg.columns rect");
  assert.equal(bars.length, 30);
  assert.equal(bars.at(-1).querySelector("title").textContent, `${new Date().toISOString().slice(0, 10)}: 1`);
  assert.equal(bars.at(-1).getAttribute("height"), "100");
  assert.equal(bars[0].getAttribute("height"), "0");

  browser.fill({ by: "provider", measure: "cost" });
  browser.document.querySelector("#main h1").textContent = "before";
  browser.button("Show").click();
  await browser.loaded("Usage");

  assert.match(browser.window.location.hash, /by=provider/);
  assert.deepEqual(browser.rows("By provider").map((row) => row.Provider).sort(), ["anthropic", "openai"]);
});

test("days without any use say so", async () => {
  const browser = await signedIn(given.member, "#/usage?from=2020-01-01&to=2020-01-31", "Usage");

  assert.equal(browser.figure("Requests"), "0");
  assert.match(browser.text, /Nothing was used in these days/);
  assert.equal(browser.all("svg.columns rect").length, 31);
});

test("a question that the API refuses is told as the API tells it", async () => {
  const browser = await signedIn(given.member, "#/usage?from=2020-01-01&to=2024-01-01", "Usage");

  assert.equal(browser.all("[role=alert]").filter((one) => /366 days/.test(one.textContent)).length, 1);
});

test("an operator sees every account, or one", async () => {
  const browser = await signedIn(given.operator, "#/usage?by=account", "Usage");
  assert.ok(browser.rows("By account").length >= 2);

  await browser.go(`#/usage?by=account&account=${given.account}`, "Usage");
  assert.deepEqual(browser.rows("By account").map((row) => row.Account), [given.account]);
});

test("the CSV is asked for with the token in a header", async () => {
  const browser = await signedIn(given.member, "#/usage?by=model", "Usage");

  browser.button("Download as CSV").click();
  const [head, ...lines] = (await (await browser.saved).text()).trim().split("\r\n");
  assert.match(head, /^day,model,provider/);
  assert.equal(lines.length, browser.rows("By model").length);
  assert.ok(browser.asked.at(-1).includes("format=csv"));
  assert.ok(!browser.asked.some((one) => one.includes(browser.kept.token)));
});

test("acts are listed, found and read as text, whatever a name says", async () => {
  const browser = await signedIn(given.member, "#/activity", "Activity");
  const acts = browser.rows("Administrative acts, newest first");
  assert.ok(acts.some((act) => act.Act === "api-key.created" && act.Details.includes(given.hostile)));
  assert.equal(browser.all("#main img, #main script, #main b").length, 0);

  browser.fill({ act: "user.registered" });
  browser.document.querySelector("#main h1").textContent = "before";
  browser.button("Show").click();
  await browser.loaded("Activity");

  assert.deepEqual([...new Set(browser.rows("Administrative acts, newest first").map((act) => act.Act))], ["user.registered"]);
});

test("a hostile name of a model or in a filter stays text on every page", async () => {
  const browser = await signedIn(given.member, `#/activity?show=acts&act=${encodeURIComponent(given.hostile_word)}`, "Activity");
  assert.equal(browser.document.querySelector("[name=act]").value, given.hostile_word);
  assert.match(browser.text, /No such act is on record/);

  for (const [hash, title] of [["#/usage?by=model", "Usage"], ["#/cache", "Cache"], ["#/activity?show=requests", "Activity"]]) {
    await browser.go(hash, title);
    assert.ok(browser.text.includes(given.hostile_word), title);
    assert.equal(browser.all("#main img").length, 0, title);
  }
  assert.equal(browser.window.struck, undefined);
});

test("requests are paged by the cursor", async () => {
  const browser = await signedIn(given.member, "#/activity?show=requests", "Activity");
  const { body } = await api("/api/v1/usage", browser.kept.token);
  const first = browser.rows("Requests, newest first");
  assert.equal(first.length, 50);
  assert.ok(!browser.all(".pager a").some((link) => link.textContent === "Newest"));

  const older = browser.all(".pager a").find((link) => link.textContent === "Older");
  await browser.go(older.getAttribute("href"), "Activity");

  assert.equal(browser.rows("Requests, newest first").length, body.total.jobs - 50);
  assert.ok(!browser.all(".pager a").some((link) => link.textContent === "Older"));
  const newest = browser.all(".pager a").find((link) => link.textContent === "Newest");
  await browser.go(newest.getAttribute("href"), "Activity");
  assert.deepEqual(browser.rows("Requests, newest first"), first);
});

test("the cache page tells cached tokens, their share, and shared answers", async () => {
  const browser = await signedIn(given.operator, `#/cache?account=${given.account}`, "Cache");

  assert.equal(browser.figure("of these read from a cache"), "600");
  assert.match(browser.figure("Requests that read from one"), /^1 of \d+$/);
  const mini = browser.rows("Prompt caches by provider and model").find((row) => row.Model === "gpt-4o");
  assert.deepEqual([mini["of input tokens"], mini["that read from it"]], ["60%", "100%"]);
  const replays = browser.rows("Requests that got another one's answer");
  assert.equal(replays.find((row) => /Idempotency-Key/.test(row.Why)).Requests, "1");
});

test("a dead letter is run again once its operator said so twice", async () => {
  const browser = await signedIn(given.operator, "#/dead-letters", "Dead letters");
  const again = () => browser.asked.filter((one) => one.endsWith("/redrive"));
  assert.deepEqual(browser.rows("Dead letters, newest first").map((row) => [row.Job, row.Reason]), [[given.dead_job, "poison"]]);

  browser.button("Run again").click();
  assert.match(browser.text, /It may be paid for again/);
  browser.button("No").click();
  assert.deepEqual(again(), []);
  browser.button("Run again").click();
  browser.button("Yes, run it").click();
  await browser.until(() => /^as job_/.test(browser.rows("Dead letters, newest first")[0]["Run again"]));

  assert.equal(again().length, 1);
  await browser.go("#/overview", "Overview");
  await browser.go("#/dead-letters?reason=poison", "Dead letters");
  assert.match(browser.rows("Dead letters, newest first")[0]["Run again"], /^as job_/);
});

test("a session that has ended leads to the sign-in, and back to the page after it", async () => {
  const browser = await Browser.open({ hash: "#/usage", kept: { token: "no.such.token", me: { name: "x", permissions: [] } } });
  await browser.until(() => browser.document.querySelector("h1").textContent === "Sign in");
  assert.match(browser.document.getElementById("alert").textContent, /session has ended/);
  assert.equal(browser.kept, null);
  assert.equal(browser.all("nav a").length, 0);

  await browser.signIn(given.member, "Usage");
});

test("an access token that is over is renewed once, for all that wait for it", async () => {
  const before = await signedIn(given.member);
  const browser = await Browser.open({ hash: "#/overview", kept: { ...before.kept, token: "no.such.token" } });
  await browser.loaded("Overview");

  assert.equal(browser.figure("Redis"), "connected");
  assert.equal(browser.asked.filter((one) => one === "POST /api/v1/auth/refresh").length, 1);
  assert.notEqual(browser.kept.refreshToken, before.kept.refreshToken);
});

test("a broker that cannot renew at the moment ends no session", async () => {
  const before = await signedIn(given.member);
  const away = JSON.stringify({ error: { message: "Accounts cannot be reached." } });
  const hold = async (path) => (path.endsWith("/refresh") ? new Response(away, { status: 503 }) : undefined);
  const browser = await Browser.open({ kept: { ...before.kept, token: "no.such.token" }, hold });
  await browser.loaded("Overview");
  assert.match(browser.text, /Accounts cannot be reached/);
  assert.equal(browser.kept.refreshToken, before.kept.refreshToken);

  browser.hold = async () => {};
  browser.button("Refresh").click();
  await browser.until(() => browser.figure("Redis") === "connected");
});

test("signing out ends the session also where the access token is over", async () => {
  const browser = await signedIn(given.member);
  const { refreshToken } = browser.kept;
  browser.window.sessionStorage.setItem("headrace.session", JSON.stringify({ ...browser.kept, token: "no.such.token" }));
  browser.button("Sign out").click();
  await browser.until(() => /signed out/.test(browser.document.getElementById("alert").textContent));

  assert.equal(browser.kept, null);
  const again = await fetch(new URL("/api/v1/auth/refresh", given.url), { method: "POST", headers: { authorization: `Bearer ${refreshToken}` } });
  assert.equal(again.status, 401);
});

test("signing out ends the session at the broker too", async () => {
  const browser = await signedIn(given.member);
  const { token } = browser.kept;
  browser.button("Sign out").click();
  await browser.until(() => /signed out/.test(browser.document.getElementById("alert").textContent));

  assert.equal(browser.kept, null);
  assert.ok(browser.asked.includes("POST /api/v1/auth/logout"));
  assert.equal((await api("/api/v1/auth/me", token)).status, 401);
});

test("the admin token and keys of one scope open what they may", async () => {
  const operator = await Browser.open();
  await operator.signInByKey(given.admin_token);
  assert.equal(operator.figure("Scheduler"), "runs");

  const scoped = await Browser.open({ hash: "#/usage" });
  await scoped.signInByKey(given.usage_key, "Usage");
  assert.notEqual(scoped.figure("Requests"), "0");
  await scoped.go("#/overview", "Overview");
  assert.match(scoped.text, /Providers: This takes the permission 'models:read'/);

  const wrong = await Browser.open();
  wrong.fill({ key: "gw_live_of_nobody" });
  wrong.document.querySelectorAll("form button")[1].click();
  await wrong.until(() => /wrong/.test(wrong.document.getElementById("alert").textContent));
  assert.equal(wrong.kept, null);
});

test("a broker that is away is told, and the page can be tried again", async () => {
  const browser = await signedIn(given.operator);
  browser.hold = async () => {
    throw new TypeError("no route");
  };
  await browser.go("#/cache", "Cache");
  assert.ok(browser.all(".problem[role=alert]").some((one) => /cannot be reached/.test(one.textContent)));

  browser.hold = async () => {};
  browser.document.querySelector("#main h1").textContent = "before";
  browser.button("Refresh").click();
  await browser.loaded("Cache");
  assert.ok(browser.figure("Input tokens"));
});

test("a page that was left while it loaded is not shown later", async () => {
  const browser = await signedIn(given.operator);
  let open;
  const gate = new Promise((resolve) => { open = resolve; });
  let let_in = 0;
  browser.hold = async (path) => {
    if (!path.includes("/usage")) return;
    await gate;
    let_in += 1;
  };
  browser.window.location.hash = "#/usage";
  await browser.until(() => /Loading/.test(browser.text) && browser.document.querySelector("#main h1").textContent === "Usage");
  await browser.go("#/dead-letters", "Dead letters");
  open();
  browser.hold = async () => {};
  await browser.go("#/overview", "Overview");

  assert.equal(let_in, 2);
  assert.equal(browser.document.querySelector("#main h1").textContent, "Overview");
  assert.ok(browser.figure("Scheduler"));
});

test("tables have heads for their columns and rows, and all that is pressed has a name", async () => {
  const browser = await signedIn(given.operator);
  for (const [hash, title] of [["#/overview", "Overview"], ["#/usage", "Usage"], ["#/activity", "Activity"], ["#/cache", "Cache"], ["#/dead-letters", "Dead letters"]]) {
    await browser.go(hash, title);
    for (const table of browser.all("table")) {
      assert.ok(table.caption.textContent);
      assert.ok([...table.tHead.rows[0].cells].every((cell) => cell.scope === "col" && cell.textContent));
      assert.ok([...table.tBodies[0].rows].every((row) => row.cells[0].scope === "row"));
    }
    assert.ok(browser.all("button, a").every((one) => one.textContent.trim()));
    assert.ok(browser.all("input:not([type=hidden]), select").every((one) => one.labels.length === 1));
    assert.equal(browser.all("nav [aria-current=page]")[0].textContent, title);
    assert.equal(browser.document.activeElement, browser.document.querySelector("h1"));
  }
});
