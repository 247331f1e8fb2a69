"""Providers: data and pure functions. Nothing here opens a socket.

    profile.py      what we know of one provider, as data
    dialect.py      the seam: canonical request to provider bytes and back
    dialects/       the two languages spoken: OpenAI chat, Anthropic messages
    openai.py ...   one file a provider, mostly a profile
    custom.py       endpoints an operator configured, and presets.py: models by a name of theirs
    registry.py     every provider of this process, by id
    credentials.py  their secrets; workers only
    catalogue.py    models we know: context, output, prices; catalogue_file.py has the form
    model_lists.py  models that providers list themselves, and how they answered
    resolve.py      a model name to the target that serves it
    tokens.py       how many tokens a request is; tokens_bpe.py counts text
    duties.py       what can be asked of each: health, cost, limits, quota

Canonical is OpenAI: chat-completions JSON in, `chat.completion` out,
`chat.completion.chunk` while streaming. Every dialect translates to and from it.
"""
