// The official OpenAI client for Node.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { ANTHROPIC, BOTH, CALL_FOR_PARIS, OPENAI, PARIS, WEATHER_SCHEMA, all, apiKey, baseURL, script } from "./broker.mjs";

const client = new OpenAI({ apiKey, baseURL, maxRetries: 0 });
const tools = [{ type: "function", function: { name: "get_weather", parameters: WEATHER_SCHEMA } }];
const say = (content) => [{ role: "user", content }];

for (const model of BOTH) {
  test(`a chat is answered with its usage: ${model}`, async () => {
    const answer = await client.chat.completions.create({ model, messages: say("Hello") });

    assert.equal(answer.choices[0].message.content, "You said: Hello");
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.ok(answer.usage.prompt_tokens > 0 && answer.usage.completion_tokens > 0);
  });

  test(`a stream adds up and ends with its usage: ${model}`, async () => {
    const stream = await client.chat.completions.create({
      model,
      messages: say("one two three four"),
      stream: true,
      stream_options: { include_usage: true },
    });

    const chunks = await all(stream);
    const pieces = chunks.map((chunk) => chunk.choices[0]?.delta.content).filter(Boolean);

    assert.equal(pieces.join(""), "You said: one two three four");
    assert.ok(pieces.length > 2);
    assert.ok(chunks.at(-1).usage.completion_tokens > 0);
  });

  test(`a tool is called and its result is heard: ${model}`, async () => {
    const messages = say(CALL_FOR_PARIS);

    const first = await client.chat.completions.create({ model, messages, tools });
    const [call] = first.choices[0].message.tool_calls;
    const result = { role: "tool", tool_call_id: call.id, content: "21 degrees" };
    const second = await client.chat.completions.create({
      model,
      messages: [...messages, first.choices[0].message, result],
      tools,
    });

    assert.equal(first.choices[0].finish_reason, "tool_calls");
    assert.deepEqual(JSON.parse(call.function.arguments), PARIS);
    assert.equal(second.choices[0].message.content, "The tool said: 21 degrees");
  });

  test(`the client's own loop runs a tool over streams: ${model}`, async () => {
    const asked = [];
    const runner = client.chat.completions.runTools({
      model,
      messages: say(CALL_FOR_PARIS),
      stream: true,
      tools: [
        {
          type: "function",
          function: {
            name: "get_weather",
            parameters: WEATHER_SCHEMA,
            parse: JSON.parse,
            function: (given) => asked.push(given) && "21 degrees",
          },
        },
      ],
    });

    assert.equal(await runner.finalContent(), "The tool said: 21 degrees");
    assert.deepEqual(asked, [PARIS]);
  });

  test(`a refusal by the provider is a bad request: ${model}`, async () => {
    const messages = say(script({ status: 400, error_message: "not with me" }));

    await assert.rejects(client.chat.completions.create({ model, messages }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.match(error.message, /not with me/);
      return true;
    });
  });
}

test("a refused key is an authentication error", async () => {
  const stranger = new OpenAI({ apiKey: "wrong", baseURL, maxRetries: 0 });

  await assert.rejects(
    stranger.chat.completions.create({ model: OPENAI, messages: say("Hello") }),
    OpenAI.AuthenticationError,
  );
});

test("an unknown provider's model is not found", async () => {
  await assert.rejects(
    client.chat.completions.create({ model: "no-such-provider/model", messages: say("Hello") }),
    OpenAI.NotFoundError,
  );
});

test("a wrong field is named", async () => {
  const messages = say("Hello");

  await assert.rejects(client.chat.completions.create({ model: OPENAI, messages, temperature: "hot" }), (error) => {
    assert.equal(error.status, 422);
    assert.equal(error.param, "temperature");
    assert.ok(error.requestID);
    return true;
  });
});

test("a stream that breaks is an error in the loop", async () => {
  const messages = say(script({ chunks: 4, error_in_stream: 2, error_message: "broke" }));
  const stream = await client.chat.completions.create({ model: ANTHROPIC, messages, stream: true });

  await assert.rejects(all(stream), OpenAI.APIError);
});

test("vectors come as numbers", async () => {
  const answer = await client.embeddings.create({ model: "library/plain", input: ["a", "b"] });

  assert.deepEqual(
    answer.data.map((one) => one.embedding),
    [
      [0, 0.5, -0.25],
      [1, 0.5, -0.25],
    ],
  );
});
