"""Servers of fine-tuned models, each in its own language, on one real socket.

/run/predict                          a Gradio Space
/generate, /generate_stream           Text Generation Inference
/v1/chat/completions                  OpenAI's form
/endpoints/{name}/invocations         SageMaker before a container of OpenAI's form; checks the signature

Each says back what it was told, behind its own name.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

ACCESS_KEY: Final = "AKIDEXAMPLE"
ACCOUNT: Final = "123456789012"
SECRET_KEY: Final = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@dataclass
class ModelServers:
    base_url: str = ""
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    """Path, body and headers of every call."""


@asynccontextmanager
async def model_servers() -> AsyncIterator[ModelServers]:
    servers = ModelServers()

    async def read(request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        headers = {name.lower(): value for name, value in request.headers.items()}
        servers.requests.append((request.path, body, headers))
        return body

    async def predict(request: web.Request) -> web.Response:
        body = await read(request)
        if body["data"][0] == "break":
            return web.json_response({"data": ["(nothing)"], "problem": "CUDA out of memory on /dev/nvidia0"})
        return web.json_response({"data": [f"space: {body['data'][0]}"], "duration": 0.1})

    async def generate(request: web.Request) -> web.Response:
        body = await read(request)
        if "overload" in body["inputs"]:
            error = {"error": "Model is overloaded", "error_type": "overloaded"}
            return web.json_response(error, status=429)
        details = {"finish_reason": "eos_token", "generated_tokens": 3, "prefill": [], "tokens": []}
        return web.json_response({"generated_text": f"tgi: {body['inputs']}", "details": details})

    async def generate_stream(request: web.Request) -> web.StreamResponse:
        body = await read(request)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        text = f"tgi: {body['inputs']}"
        for piece in ("tgi: ", body["inputs"]):
            token = {"token": {"id": 1, "text": piece, "special": False}, "generated_text": None}
            await response.write(f"data:{json.dumps({**token, 'details': None})}\n\n".encode())
        details = {"finish_reason": "eos_token", "generated_tokens": 3, "input_length": 7}
        last = {"token": {"id": 2, "text": "</s>", "special": True}, "generated_text": text}
        await response.write(f"data:{json.dumps({**last, 'details': details})}\n\n".encode())
        return response

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await read(request)
        whole = _completion("openai", body)
        if not body.get("stream"):
            return web.json_response(whole)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        choice = {"index": 0, "delta": whole["choices"][0]["message"], "finish_reason": "stop"}
        chunk = {**whole, "object": "chat.completion.chunk", "choices": [choice]}
        await response.write(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())
        return response

    async def invocations(request: web.Request) -> web.Response:
        body = await read(request)
        if not _is_signed(request, await request.read()):
            return web.json_response({"message": "The signature does not match."}, status=403)
        said = body["messages"][-1]["content"]
        if said == "throttle":
            # As it is: opensearch-project/ml-commons#2429.
            kind = {"x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/coral/"}
            return web.json_response({"message": None}, status=400, headers=kind)
        if said == "too long":
            failed = {
                "ErrorCode": "CLIENT_ERROR_FROM_MODEL",
                "LogStreamArn": f"arn:aws:logs:eu-west-1:{ACCOUNT}:log-group:/aws/sagemaker",
                "Message": f"Received client error (400) from primary. See the console of {ACCOUNT}.",
                "OriginalMessage": json.dumps({"error": {"message": "too many tokens", "code": 400}}),
                "OriginalStatusCode": 400,
            }
            return web.json_response(failed, status=424, headers={"x-amzn-errortype": "ModelError"})
        return web.json_response(_completion("sagemaker", body))

    app = web.Application()
    app.router.add_post("/run/predict", predict)
    app.router.add_post("/generate", generate)
    app.router.add_post("/generate_stream", generate_stream)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/endpoints/{name}/invocations", invocations)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    servers.base_url = f"http://{host}:{port}"
    try:
        yield servers
    finally:
        await runner.cleanup()


def _completion(name: str, body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"{name}: {body['messages'][-1]['content']}"}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
    }


def _is_signed(request: web.Request, body: bytes) -> bool:
    """Counts the signature again, from what arrived."""
    algorithm, _, rest = request.headers.get("authorization", "").partition(" ")
    fields = dict(part.strip().split("=", 1) for part in rest.split(",")) if rest else {}
    if algorithm != "AWS4-HMAC-SHA256" or not fields:
        return False
    access_key, scope = fields["Credential"].split("/", 1)
    names = fields["SignedHeaders"].split(";")
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names)
    canonical = "\n".join(
        [request.method, request.raw_path, "", headers, ";".join(names), hashlib.sha256(body).hexdigest()]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = b"AWS4" + SECRET_KEY.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return access_key == ACCESS_KEY and "host" in names and signature == fields["Signature"]
