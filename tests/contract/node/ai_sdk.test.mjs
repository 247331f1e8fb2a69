// The AI SDK, over its OpenAI-compatible provider and over its Anthropic one.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { BOTH, CALL_FOR_PARIS, PARIS, all, apiKey, baseURL, script } from "./broker.mjs";

const compatible = createOpenAICompatible({ name: "headrace", apiKey, baseURL, includeUsage: true, supportsStructuredOutputs: true });
const anthropic = createAnthropic({ apiKey, baseURL });

const WAYS = [
  ["OpenAI-compatible", compatible],
  ["Anthropic", anthropic],
];

function weather(asked) {
  return tool({
    description: "The weather of a city.",
    inputSchema: z.object({ city: z.string(), days: z.number().int() }),
    execute: async (given) => {
      asked.push(given);
      return "21 degrees";
    },
  });
}

for (const [name, provider] of WAYS) {
  for (const model of BOTH) {
    const settings = { model: provider(model), maxRetries: 0, maxOutputTokens: 50 };

    test(`text is generated with its usage: ${name}, ${model}`, async () => {
      const answer = await generateText({ ...settings, system: "Be brief.", prompt: "Hello" });

      assert.equal(answer.text, "You said: Hello");
      assert.equal(answer.finishReason, "stop");
      assert.ok(answer.usage.inputTokens > 0 && answer.usage.outputTokens > 0);
      assert.deepEqual(answer.warnings, []);
    });

    test(`text is streamed with its usage: ${name}, ${model}`, async () => {
      const stream = streamText({ ...settings, prompt: "one two three four" });

      const pieces = await all(stream.textStream);

      assert.equal(pieces.join(""), "You said: one two three four");
      assert.ok(pieces.length > 2);
      assert.equal(await stream.finishReason, "stop");
      assert.ok((await stream.usage).outputTokens > 0);
    });

    test(`a tool is called and its result is heard: ${name}, ${model}`, async () => {
      const asked = [];

      const answer = await generateText({
        ...settings,
        prompt: CALL_FOR_PARIS,
        tools: { get_weather: weather(asked) },
        stopWhen: stepCountIs(3),
      });

      assert.deepEqual(asked, [PARIS]);
      assert.equal(answer.text, "The tool said: 21 degrees");
      assert.equal(answer.steps.length, 2);
    });

    test(`a tool is called over streams: ${name}, ${model}`, async () => {
      const asked = [];

      const stream = streamText({
        ...settings,
        prompt: CALL_FOR_PARIS,
        tools: { get_weather: weather(asked) },
        stopWhen: stepCountIs(3),
      });

      assert.equal((await all(stream.textStream)).join(""), "The tool said: 21 degrees");
      assert.deepEqual(asked, [PARIS]);
    });

    test(`a refusal by the provider keeps its status and sentence: ${name}, ${model}`, async () => {
      const prompt = script({ status: 400, error_message: "not with me" });

      await assert.rejects(generateText({ ...settings, prompt }), (error) => {
        assert.ok(APICallError.isInstance(error));
        assert.equal(error.statusCode, 400);
        assert.match(error.message, /not with me/);
        return true;
      });
    });
  }
}

test("an object is generated in its schema", async () => {
  const answer = await generateText({
    model: compatible("gpt-4o-mini"),
    maxRetries: 0,
    prompt: script({ text: '{"name": "Hamburg"}' }),
    output: Output.object({ schema: z.object({ name: z.string() }) }),
  });

  assert.deepEqual(answer.output, { name: "Hamburg" });
});

test("vectors are had for many values", async () => {
  const { embeddings } = await embedMany({
    model: compatible.embeddingModel("library/plain"),
    values: ["a", "b"],
    maxRetries: 0,
  });

  assert.deepEqual(embeddings, [
    [0, 0.5, -0.25],
    [1, 0.5, -0.25],
  ]);
});
