// The running broker, as the pytest that started this run names it; and what the tests say to it.

const found = JSON.parse(process.env.HEADRACE_TEST_BROKER);

export const url = found.url;
export const baseURL = `${found.url}/v1`;
export const apiKey = found.api_key;

// A model of each dialect that providers speak: callers see one form.
export const OPENAI = "gpt-4o-mini";
export const ANTHROPIC = "anthropic/claude-haiku-4-5";
export const BOTH = [OPENAI, ANTHROPIC];

export const PARIS = { city: "Paris, 巴黎 🗼", days: 2 };

export const WEATHER_SCHEMA = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
};

// A text that tells the scripted provider what to do; its fields are in cues.py.
export function script(cue, prompt = "") {
  return `!script ${JSON.stringify(cue)}\n${prompt}`;
}

export const CALL_FOR_PARIS = script({ tool_calls: [{ name: "get_weather", arguments: PARIS }] });

// All that a stream gives.
export async function all(stream) {
  const found = [];
  for await (const one of stream) found.push(one);
  return found;
}
