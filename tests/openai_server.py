"""A small OpenAI-compatible server on loopback: a real model through transformers, with faults on demand.

with running_server(tiny.policy()) as server:
    server.faults.append("429")          # the next request is refused; see FAULTS
    ... ModelSpec(model="tiny", backend="openai", server=Server(url=server.url))
"""

import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from udasa.backends import ModelSpec
from udasa.backends_hf import load_causal_lm

FAULTS = ("429", "500", "cut", "garbage", "no-choices")
"""What can be injected: two statuses, a connection cut in the middle of the answer, and two unreadable answers."""


@dataclass
class Server:
    """A server that answers, what it was asked, and the faults that it will show next, one a request."""

    url: str
    requests: list[dict] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    drawn: list[tuple[list[int], list[int]]] = field(default_factory=list)
    """Token ids of prompt and reply, in the order in which they were drawn."""
    under_way: int = 0
    most_under_way: int = 0


class _Cut(Response):
    """An answer that ends before its length."""

    async def __call__(self, scope, receive, send):
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"choices": [', "more_body": True})
        raise ConnectionAbortedError("cut by the test")


def _refuse(status, message, **headers):
    return JSONResponse({"error": {"message": message, "type": "test"}}, status, headers)


def _fault(name):
    if name == "429":
        return _refuse(429, "slow down", **{"Retry-After": "0"})
    if name == "500":
        return _refuse(500, "internal error")
    if name == "cut":
        return _Cut()
    if name == "garbage":
        return Response('{"choices": [', media_type="application/json")
    return JSONResponse({"choices": []})


def _app(server, folder):
    model, tokenizer = load_causal_lm(ModelSpec(model=str(folder), dtype="float32"))
    lock = threading.Lock()

    def answer(body):
        prompt = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        longest = model.config.max_position_embeddings - body["max_tokens"]
        if prompt["input_ids"].shape[1] > longest:
            return _refuse(400, f"This model's maximum context length is {longest} tokens.")
        with lock:
            torch.manual_seed(body.get("seed", 0))
            choices = [_choice(server, model, tokenizer, prompt, body, index) for index in range(body.get("n", 1))]
        return JSONResponse({"object": "chat.completion", "model": body["model"], "choices": choices})

    def complete(body):
        server.requests.append(body)
        if body["model"] != "tiny":
            return _refuse(404, f"The model `{body['model']}` does not exist.")
        if server.faults and (fault := server.faults.pop(0)):
            return _fault(fault)
        return answer(body)

    async def completions(request):
        from starlette.concurrency import run_in_threadpool

        body = json.loads(await request.body())
        server.under_way += 1
        server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            return await run_in_threadpool(complete, body)
        finally:
            server.under_way -= 1

    return Starlette(routes=[Route("/v1/chat/completions", completions, methods=["POST"])])


def _choice(server, model, tokenizer, prompt, body, index):
    """Sample one choice, token by token as `generate` does it, with the model's own log-probabilities."""
    sampled = body["temperature"] > 0
    settings = {"do_sample": True, "temperature": body["temperature"], "top_p": body["top_p"]} if sampled else {}
    with torch.inference_mode():
        out = model.generate(
            **prompt, max_new_tokens=body["max_tokens"], output_logits=True, return_dict_in_generate=True, **settings
        )
    ids = out.sequences[0, prompt["input_ids"].shape[1] :]
    server.drawn.append((prompt["input_ids"][0].tolist(), ids.tolist()))
    logprobs = torch.log_softmax(torch.stack(out.logits, dim=1)[0].double(), dim=-1)
    top = logprobs.topk(min(body.get("top_logprobs") or 1, logprobs.shape[-1]), dim=-1)
    content = [
        {
            "token": tokenizer.decode(int(token)),
            "logprob": float(logprobs[step, token]),
            "top_logprobs": [
                {"token": tokenizer.decode(int(i)), "logprob": float(p)}
                for p, i in zip(top.values[step], top.indices[step], strict=True)
            ],
        }
        for step, token in enumerate(ids)
    ]
    stopped = int(ids[-1]) in model.generation_config.eos_token_id
    text = tokenizer.decode(ids, skip_special_tokens=True)
    for stop in body.get("stop") or ():
        if stop in text:  # the tokens of what is cut off stay in the list, as in vLLM
            text, stopped = text[: text.find(stop)], True
    return {
        "index": index,
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": content} if body.get("logprobs") else None,
        "finish_reason": "stop" if stopped else "length",
    }


@contextmanager
def running_server(folder):
    """Serve the model in `folder` as `tiny` on a free port, in a thread, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        config = uvicorn.Config(_app(server, folder), ws="none", lifespan="off", log_config=None, access_log=False)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not running.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the test server did not start within 10 s")
            time.sleep(0.005)
        try:
            yield server
        finally:
            running.should_exit = True
            thread.join(10)
