"""Models that are functions of a document, for tests of tasks and of what is made of their results."""

from collections import Counter

from udasa.evaluate import results, suite

SETUP = results.Setup(
    model={"model": "scripted"},
    adapter=None,
    chat_template="0" * 64,
    dtype="float32",
    device="cpu",
    batch_size=8,
    limit=None,
)


def unasked(*_):
    raise AssertionError("the task asks for what this model was not given")


def evaluate(folder, tasks, *, loglikelihood=unasked, reply=unasked, limit=None, data=None, **options):
    """Evaluate a scripted model and write the results to `folder`.

    `loglikelihood`: of (document, index of the request); `reply`: of (document, how often it was asked before).
    """
    from lm_eval.api.model import LM

    class Scripted(LM):
        tokenizer_name = "scripted"

        def loglikelihood(self, requests, disable_tqdm=False):
            return [(loglikelihood(request.doc, request.idx), False) for request in requests]

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            return [loglikelihood(request.doc, request.idx) for request in requests]

        def generate_until(self, requests, disable_tqdm=False):
            seen = Counter()
            found = []
            for request in requests:
                found.append(reply(request.doc, seen[request.doc["id"]]))
                seen[request.doc["id"]] += 1
            return found

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            return "".join(f"[{turn['role']}] {turn['content']}\n" for turn in chat_history)

    folder.mkdir(exist_ok=True)
    with suite._quiet(folder / "lm_eval.log"):
        loaded = suite._load_tasks(tasks, data, **options)
        return suite._write(folder, suite._harness(Scripted(), loaded, limit), SETUP, skipped=loaded["skipped"])
