"""Counting the tokens of a text: OpenAI's own tokenizers, and by a factor those of other families.

Loaded at the first count (80 ms, 70 MB), not at start. The binding is pure and may be called from
any thread; it keeps the interpreter lock, 2 ms for 100,000 characters of prose, 8 ms at worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any, Final

MAX_EXACT_CHARS: Final = 100_000
"""What is longer is counted by a sample of this many characters, so that no prompt holds up the loop."""
_SLICES: Final = 4

_O200K: Final = "o200k_base"
_CL100K: Final = "cl100k_base"

# (names begin with, vocabulary, tokens for each of that vocabulary's); the first that fits.
# OpenAI's are exact (openai-cookbook, "How to count tokens with tiktoken"). Others keep their
# vocabularies to themselves or to a download: a factor, good within about
#   10 %  Llama 3 and what is built on it (its 128k vocabulary is cl100k and 28k more), Qwen
#   25 %  Claude: "3.5 English characters" a token (platform.claude.com glossary), o200k has 4.4;
#         DeepSeek, Grok, Mistral: 100k to 130k vocabularies, no public figure for English
#   30 %  encoders of 30k to 50k word pieces (BGE, E5, BART), and what nobody knows
_FAMILIES: Final = (
    (("gpt-4o", "gpt-4.", "chatgpt-4o"), _O200K, 1.0),
    (("gpt-4", "gpt-3", "gpt-35", "text-embedding", "davinci", "babbage"), _CL100K, 1.0),
    (("gpt", "o1", "o3", "o4", "codex", "chatgpt"), _O200K, 1.0),
    (("claude",), _O200K, 1.25),
    (("llama", "meta-llama", "nemotron", "sonar", "qwen"), _CL100K, 1.0),
    (("deepseek", "grok"), _O200K, 1.1),
    (("mistral", "mixtral", "ministral", "codestral"), _O200K, 1.15),
    (("",), _O200K, 1.1),
)


def text_tokens(text: str, model: str) -> int:
    """How many tokens `text` is to `model`; an estimate, except for OpenAI's models."""
    return texts_tokens([text], model)


def texts_tokens(texts: Sequence[str], model: str) -> int:
    encoding, factor = family_of(model)
    chars = sum(map(len, texts))
    if chars <= MAX_EXACT_CHARS:
        found = sum(_count(text, encoding) for text in texts)
        return found if factor == 1.0 else round(found * factor)
    whole = "\n".join(texts)
    size = MAX_EXACT_CHARS // _SLICES
    stride = (len(whole) - size) // (_SLICES - 1)
    sampled = sum(_count(whole[at : at + size], encoding) for at in range(0, _SLICES * stride, stride))
    return round(sampled * factor * chars / (_SLICES * size))


@lru_cache(maxsize=1024)
def family_of(model: str) -> tuple[str, float]:
    """The vocabulary to count with, and what to multiply by."""
    bare = model.rpartition("/")[2].lower()
    return next(
        (vocabulary, factor) for prefixes, vocabulary, factor in _FAMILIES if bare.startswith(prefixes)
    )


def _count(text: str, encoding: str) -> int:
    try:
        found: int = _tokenizer(encoding).count(text)
    except UnicodeEncodeError:
        # Half of a surrogate pair, which no provider would read either.
        found = _tokenizer(encoding).count(text.encode("utf-8", "replace").decode())
    return found


@cache
def _tokenizer(encoding: str) -> Any:
    return _binding().tokenizer_for_encoding(encoding)


@cache
def _binding() -> Any:
    # The package around the binding builds dictionaries that only tiktoken's interface needs:
    # 400 ms and 60 MB. So the extension module is loaded without it.
    package = find_spec("bpe_openai")
    spec = package and PathFinder.find_spec("bpe_openai._bindings", package.submodule_search_locations)
    if not spec or spec.loader is None:
        raise ModuleNotFoundError("bpe-openai is not installed, or another version of it")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
