// The official Anthropic client for Node.

import assert from "node:assert/strict";
import { test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";

import { BOTH, CALL_FOR_PARIS, OPENAI, PARIS, WEATHER_SCHEMA, apiKey, script, url } from "./broker.mjs";

const client = new Anthropic({ apiKey, baseURL: url, maxRetries: 0 });
const tools = [{ name: "get_weather", input_schema: WEATHER_SCHEMA }];
const say = (content) => [{ role: "user", content }];

for (const model of BOTH) {
  test(`a message is answered with its usage: ${model}`, async () => {
    const message = await client.messages.create({ model, max_tokens: 50, messages: say("Hello") });

    assert.deepEqual(
      message.content.map(({ type, text }) => ({ type, text })),
      [{ type: "text", text: "You said: Hello" }],
    );
    assert.equal(message.stop_reason, "end_turn");
    assert.ok(message.usage.input_tokens > 0 && message.usage.output_tokens > 0);
  });

  test(`a stream adds up to the message: ${model}`, async () => {
    const pieces = [];
    const stream = client.messages
      .stream({ model, max_tokens: 50, messages: say("one two three four") })
      .on("text", (piece) => pieces.push(piece));

    const message = await stream.finalMessage();

    assert.equal(pieces.join(""), "You said: one two three four");
    assert.ok(pieces.length > 2);
    assert.equal(message.content[0].text, pieces.join(""));
    assert.ok(message.usage.output_tokens > 0);
  });

  test(`a tool is called and its result is heard: ${model}`, async () => {
    const messages = say(CALL_FOR_PARIS);

    const first = await client.messages.create({ model, max_tokens: 50, messages, tools });
    const call = first.content.find((block) => block.type === "tool_use");
    const result = { type: "tool_result", tool_use_id: call.id, content: "21 degrees" };
    const second = await client.messages.create({
      model,
      max_tokens: 50,
      messages: [...messages, { role: "assistant", content: first.content }, { role: "user", content: [result] }],
      tools,
    });

    assert.equal(first.stop_reason, "tool_use");
    assert.deepEqual(call.input, PARIS);
    assert.equal(second.content[0].text, "The tool said: 21 degrees");
  });

  test(`a tool's arguments are put together from a stream: ${model}`, async () => {
    const stream = client.messages.stream({ model, max_tokens: 50, messages: say(CALL_FOR_PARIS), tools });

    const message = await stream.finalMessage();

    assert.deepEqual(
      message.content.filter((block) => block.type === "tool_use").map((block) => block.input),
      [PARIS],
    );
  });

  test(`a refusal by the provider is a bad request: ${model}`, async () => {
    const messages = say(script({ status: 400, error_message: "not with me" }));

    await assert.rejects(client.messages.create({ model, max_tokens: 50, messages }), (error) => {
      assert.ok(error instanceof Anthropic.BadRequestError);
      assert.match(error.message, /not with me/);
      return true;
    });
  });
}

test("a refused key is an authentication error", async () => {
  const stranger = new Anthropic({ apiKey: "wrong", baseURL: url, maxRetries: 0 });

  await assert.rejects(
    stranger.messages.create({ model: OPENAI, max_tokens: 50, messages: say("Hello") }),
    Anthropic.AuthenticationError,
  );
});

test("a batch is created, waited for, listed, its results iterated, and deleted", async () => {
  const batches = client.messages.batches;
  const requests = BOTH.map((model, n) => ({
    custom_id: `n${n}`,
    params: { model, max_tokens: 50, messages: say("Hello") },
  }));

  const created = await batches.create({ requests });
  let batch = created;
  while (batch.processing_status !== "ended") batch = await batches.retrieve(created.id);
  const results = [];
  for await (const one of await batches.results(created.id)) results.push(one);
  const listed = [];
  for await (const one of batches.list({ limit: 1 })) {
    listed.push(one.id);
    if (listed.length === 2) break;
  }
  const deleted = await batches.delete(created.id);

  assert.equal(created.request_counts.processing, 2);
  assert.equal(batch.request_counts.succeeded, 2);
  assert.deepEqual(
    results.map(({ custom_id, result }) => [custom_id, result.message.content[0].text]),
    [
      ["n0", "You said: Hello"],
      ["n1", "You said: Hello"],
    ],
  );
  assert.equal(listed[0], created.id);
  assert.equal(deleted.type, "message_batch_deleted");
  await assert.rejects(batches.retrieve(created.id), Anthropic.NotFoundError);
});
