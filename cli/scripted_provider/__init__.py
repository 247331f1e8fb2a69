"""The scripted provider: OpenAI's and Anthropic's wire forms, and failures on cue.

One process that speaks both protocols over real sockets. Without a cue it gives
a deterministic answer; with one it fails in the way asked for.

    python -m cli.scripted_provider --port 9100 [--log calls.jsonl] [--delay-ms N] [--golden DIR] [--record]

    POST .../chat/completions   OpenAI, plain and SSE, tools, errors
    POST .../messages           Anthropic, plain and SSE, tools, errors
    POST .../embeddings, completions, rerank, pipeline/...   see endpoints.py
    GET  .../models[/{id}]      OpenAI's form; Anthropic's with `anthropic-version`
    ...  .../files, .../batches, .../messages/batches   see batches.py
    GET  /health
    POST /_script  DELETE /_script   queue cues for later calls, forget them
    GET  /_calls   DELETE /_calls    what was called, forget it
    GET  /_stats                     counts, open calls, most open at once

Any prefix before the path is accepted, so every base URL works; the id of a provider
as its first segment brings that provider's manner along (manners.py). Any model name
is accepted and a credential only has to be present;
one that holds `refused-with-429` is answered with that status.

What is deterministic:
- The answer is `You said: <last user text>`, or `The tool said: <result>` when
  the conversation ends in a tool's result. `max_tokens` is ignored.
- Offered tools are called: the one `tool_choice` names, else the first, with
  arguments filled in from its schema. A tool's result ends the calling.
- Tokens are ceil(characters / 4), over all text of the request and over all text
  and tool arguments of the answer.
- Ids carry `x-headrace-job-id` when the caller sent one, else the call's number.
  The request id always carries the call's number.

The ways to give a cue are in `cues.py`, the fields of the log in `call_log.py`.
"""
