"""Entailment questions: asked once, in blocks, remembered on disk, the same bits after a kill."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.tables import CONSTITUTION, EXAMPLES, FAKE, answered, reply, responses
from udasa import questions
from udasa.backends import Floats, ModelSpec, Report, ignore, make_entailer
from udasa.backends_fake import FakeEntailer, FakeJudge
from udasa.backends_hf.entailers import NLIEntailer
from udasa.errors import UserError
from udasa.memory import Memory, Pair
from udasa.questions import Answers, Asker, before, compare, fingerprint, in_order
from udasa.recipe import Entailment
from udasa.score import Scorer


class Recorder:
    """Answers by shared words, with a little noise that hangs on the company a question is in, as real models have."""

    def __init__(self) -> None:
        self.calls: list[list[Pair]] = []

    @property
    def asked(self) -> list[Pair]:
        return [pair for call in self.calls for pair in call]

    def entail(self, pairs: Sequence[Pair], report: Report = ignore) -> Floats:
        self.calls.append(list(pairs))
        shares = FakeEntailer().entail(pairs, report)
        noise = np.outer(np.arange(len(pairs)) % 7 * 1e-9 + len(pairs) * 1e-8, [1.0, 0.0, -1.0])
        return np.abs(shares - np.sign(shares[:, :1] - 0.5) * noise)


TEXTS = ["Paris is the capital.", "The capital is Paris.", "A cat.", "", "No. 猫 🙂", "!!!"]
PAIRS = [(a, b) for a, b in product(TEXTS, TEXTS) if a != b]


def nli(batch_tokens: int = 4096) -> NLIEntailer:
    entailer = make_entailer(ModelSpec(model=str(tiny.nli()), batch_tokens=batch_tokens), "nli", 0.8)
    assert isinstance(entailer, NLIEntailer)
    return entailer


# --- once


def test_each_question_is_asked_once_whoever_asks_it() -> None:
    entailer = Recorder()
    ask = Asker(entailer).ask([*PAIRS, *PAIRS[::-1], ("same", "same")])
    assert sorted(entailer.asked) == sorted(PAIRS)
    assert ask(["A cat."], ["A cat.", "!!!"])[:, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_prompts_share_their_questions_unless_the_entailer_reads_the_prompt() -> None:
    rows = [answered(name, reply("A is."), reply("B is.")) for name in "pq"]
    apart, shared = Recorder(), Recorder()
    Scorer(shared, FakeJudge(CONSTITUTION))(responses(*rows))
    Scorer(apart, FakeJudge(CONSTITUTION), context=True)(responses(*rows))
    assert sorted(shared.asked) == [("A is.", "B is."), ("B is.", "A is.")]
    assert sorted(apart.asked) == [
        (f"{p}\n{a}", f"{p}\n{b}") for p in "pq" for a, b in (("A is.", "B is."), ("B is.", "A is."))
    ]


def test_the_context_is_every_turn_but_the_systems() -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert before(messages, context=True) == "Hi\nYes?\nWhy?\n"
    assert before(messages, context=False) == ""


def test_answers_stand_where_they_were_asked() -> None:
    answers = Answers({("q\na", "q\nb"): 0, ("q\nb", "q\na"): 1}, np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]))
    out = answers.after("q\n")(["a", "b"], ["a", "b"])
    np.testing.assert_array_equal(out, [[[1, 0.7], [0.1, 1]], [[0, 0.2], [0.3, 0]], [[0, 0.1], [0.6, 0]]])


def test_texts_that_are_there_already_are_compared() -> None:
    entailer = Recorder()
    first, second = compare([["Yes it is.", "No.", "Yes it is."], ["No.", "Yes it is."]], entailer)
    assert first.shape == (3, 3, 3) and second.shape == (3, 2, 2)
    assert len(entailer.asked) == 2
    np.testing.assert_array_equal(first[:, :2, :2], second[:, ::-1, ::-1])
    assert compare([], entailer) == []


# --- blocks


@EXAMPLES
@given(st.permutations(PAIRS), st.integers(1, 40))
def test_blocks_hang_on_the_set_of_questions_alone(pairs: list[Pair], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questions, "BLOCK", size)
        whole, mixed = Recorder(), Recorder()
        Asker(whole).ask(PAIRS)
        Asker(mixed).ask(pairs)
    assert mixed.calls == whole.calls
    assert max(len(call) for call in whole.calls) <= size
    lengths = [len(a) + len(b) for a, b in whole.asked]
    assert lengths == sorted(lengths, reverse=True)


def test_an_embedder_gets_all_its_texts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Embedder(Recorder):
        def embed(self, texts: Sequence[str]) -> Floats:
            raise AssertionError("its answers are all that is wanted")

    monkeypatch.setattr(questions, "BLOCK", 2)
    embedder, recorder = Embedder(), Recorder()
    Asker(embedder).ask(PAIRS)
    Asker(recorder).ask(PAIRS)
    assert [len(call) for call in embedder.calls] == [30]
    assert [len(call) for call in recorder.calls] == [2] * 15


@pytest.mark.parametrize("batch_tokens", [1, 60, 300])
def test_a_models_answers_hold_in_any_batch(batch_tokens: int) -> None:
    expected = Asker(nli()).ask(PAIRS)(TEXTS, TEXTS)
    np.testing.assert_allclose(Asker(nli(batch_tokens)).ask(PAIRS)(TEXTS, TEXTS), expected, atol=1e-5)


def test_a_models_answers_are_the_same_bits_for_the_same_questions() -> None:
    once, again = (Asker(nli(100)).ask(pairs)(TEXTS, TEXTS) for pairs in (PAIRS, PAIRS[::-1]))
    assert once.tobytes() == again.tobytes()


# --- remembered


def test_what_was_asked_is_not_asked_again(tmp_path: Path) -> None:
    path, entailer = tmp_path / "answers.sqlite", Recorder()
    first = Asker(entailer, Memory(path, "me")).ask(PAIRS)
    again = Asker(entailer, Memory(path, "me")).ask(PAIRS)
    assert len(entailer.calls) == 1
    assert first(TEXTS, TEXTS).tobytes() == again(TEXTS, TEXTS).tobytes()
    Asker(entailer, Memory(path, "another")).ask(PAIRS)
    assert len(entailer.calls) == 2


def test_a_second_estimator_asks_only_what_is_new(tmp_path: Path) -> None:
    entailer, memory = Recorder(), Memory(tmp_path / "answers.sqlite", "me")
    compare([TEXTS[:3]], entailer, memory)
    compare([TEXTS[:2], TEXTS[:4]], entailer, memory)
    assert len(entailer.asked) == len(set(entailer.asked)) == 4 * 3
    compare([TEXTS[:4]], entailer, memory)
    assert len(entailer.calls) == 2


def test_answers_of_another_company_are_not_taken_where_bits_count(tmp_path: Path) -> None:
    """A build whose memory holds the same questions from elsewhere gives the bytes of one that has no memory."""
    entailer, memory = Recorder(), Memory(tmp_path / "answers.sqlite", "me")
    Asker(entailer, memory).ask(PAIRS[:7])
    warm = Asker(entailer, memory).ask(PAIRS)(TEXTS, TEXTS)
    cold = Asker(Recorder()).ask(PAIRS)(TEXTS, TEXTS)
    assert warm.tobytes() == cold.tobytes()
    loose = Asker(entailer, memory, reuse="pair").ask(PAIRS[:9])
    assert len(entailer.calls) == 2
    np.testing.assert_allclose([loose([a], [b])[:, 0, 0] for a, b in PAIRS[:9]], _rows(cold, PAIRS[:9]), atol=1e-5)


def _rows(matrix: Floats, pairs: Sequence[Pair]) -> list[Floats]:
    return [matrix[:, TEXTS.index(a), TEXTS.index(b)] for a, b in pairs]


@EXAMPLES
@given(
    st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=8, unique=True),
    st.lists(st.floats(0, 1, allow_nan=False), min_size=8, max_size=8),
)
def test_floats_come_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], shares: list[float]
) -> None:
    answers = np.array([[s, (1 - s) / 3, (1 - s) * 2 / 3] for s in shares[: len(pairs)]])
    memory = Memory(tmp_path_factory.mktemp("memory") / "answers.sqlite", "me")
    memory.add(pairs, answers)
    back = memory.block(pairs)
    assert back is not None and back.tobytes() == answers.tobytes()
    found = memory.find(pairs)
    assert np.array([found[pair] for pair in pairs]).tobytes() == answers.tobytes()
    assert memory.block(pairs[::-1] if len(pairs) > 1 else [("not", "asked")]) is None


def test_parts_are_kept_apart(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "answers.sqlite", "me")
    memory.add([("ab", "c")], np.array([[1.0, 0.0, 0.0]]))
    assert memory.find([("a", "bc"), ("abc", ""), ("c", "ab")]) == {}
    assert memory.block([("a", "bc")]) is None


def test_more_questions_than_one_statement_takes_are_found(tmp_path: Path) -> None:
    memory, pairs = Memory(tmp_path / "answers.sqlite", "me"), [("p", str(i)) for i in range(1203)]
    memory.add(pairs, np.tile([0.5, 0.25, 0.25], (len(pairs), 1)))
    assert set(memory.find(pairs)) == set(pairs)


# --- damage


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_memory_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"answers\.sqlite cannot be used: .* delete it"):
        Memory(path, "me").block(PAIRS)


def test_damaged_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    Asker(Recorder(), Memory(path, "me")).ask(PAIRS)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE answers SET entail = 7 WHERE place = 3")
    file.close()
    with pytest.raises(UserError, match="are damaged: not 30 rows of three probabilities"):
        Memory(path, "me").block(in_order(PAIRS))
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM answers WHERE place = 3")
    file.close()
    with pytest.raises(UserError, match="are damaged"):
        Memory(path, "me").block(in_order(PAIRS))


def test_another_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    Memory(path, "me")
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(UserError, match="has layout 99 of the stored answers, this udasa reads 1"):
        Memory(path, "me")


# --- killed

KILLED = """
import os, signal, sys
from tests.test_questions import PAIRS, Recorder
from udasa import questions
from udasa.memory import Memory
from pathlib import Path
questions.BLOCK = 4
class Dies(Recorder):
    def entail(self, pairs, report=lambda n: None):
        if len(self.calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().entail(pairs, report)
questions.Asker(Dies(), Memory(Path(sys.argv[1]), "me")).ask(PAIRS)
"""


def test_a_shard_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.sqlite"
    where = os.pathsep.join(sys.path)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(path)]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": where}, check=False)
    assert killed.returncode == -signal.SIGKILL
    monkeypatch.setattr(questions, "BLOCK", 4)
    entailer, undisturbed = Recorder(), Recorder()
    resumed = Asker(entailer, Memory(path, "me")).ask(PAIRS)(TEXTS, TEXTS)
    assert resumed.tobytes() == Asker(undisturbed).ask(PAIRS)(TEXTS, TEXTS).tobytes()
    assert entailer.calls == undisturbed.calls[3:]


# --- who answers


def test_the_fingerprint_names_all_that_answers_depend_on() -> None:
    spec = ModelSpec(model=str(tiny.nli()))
    others = [
        Entailment(model=ModelSpec(model=str(tiny.nli(("ENTAILMENT", "NEUTRAL", "CONTRADICTION"))))),
        Entailment(model=ModelSpec(model=spec.model, batch_tokens=7)),
        Entailment(model=ModelSpec(model=spec.model, dtype="bfloat16")),
        Entailment(model=spec, kind="similarity"),
        Entailment(model=spec, kind="similarity", same_meaning=0.7),
        Entailment(model=spec, runtime="onnx-int8"),
        Entailment(model=FAKE),
    ]
    known = [fingerprint(one) for one in (Entailment(model=spec), *others)]
    assert len(set(known)) == len(known)
    assert fingerprint(Entailment(model=spec, context=True)) == known[0], "the question is in the texts"
    assert fingerprint(Entailment(model=spec, same_meaning=0.7)) == known[0], "an NLI model has no such threshold"


# --- long input


def test_a_text_of_20000_tokens_is_cut_on_its_own_side_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    entailer, long = nli(), "The cat is on the mat. " * 3000
    pairs = [(long, "A cat."), ("A cat.", long), ("A cat.", "No."), (long, "No. " + long)]
    with caplog.at_level(logging.WARNING):
        found = entailer.entail(pairs)
    assert entailer.num_cut == 3
    assert "3 of 4 pairs are longer than 512 tokens and were cut" in caplog.text
    assert np.isfinite(found).all()
    tokenizer = entailer.tokenizer
    whole = [tokenizer(*pair, truncation="longest_first", max_length=512, return_tensors="pt") for pair in pairs]
    for row, inputs in zip(found, whole, strict=True):
        logits = entailer.model(**inputs).logits[0, entailer.columns].double()
        np.testing.assert_allclose(row, logits.softmax(0).detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(entailer.entail([(long, "Yes.")])[0] - entailer.entail([(long, "No.")])[0], 0, atol=0.1)
    assert (entailer.entail([(long, "Yes.")]) != entailer.entail([(long, "No.")])).any(), "the short side remains"
