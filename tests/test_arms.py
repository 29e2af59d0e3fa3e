"""Arms: what each trains on, from one release, and how they are cut to one budget."""

import dataclasses
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builds import FAKE, built, recipe
from tests.releases import edit, released
from tests.tables import EXAMPLES
from udasa import run, schema
from udasa.arms import ARMS, ONE_STAGE, find, level, train_pairs, training_of
from udasa.arms.contrast import INSTRUCTIONS
from udasa.backends import ModelSpec
from udasa.errors import UserError
from udasa.recipe import Override, Pairing, Training, Weights
from udasa.release import open_data
from udasa.restage import restage

ORDERS = ("staged", "single", "reversed", "random")
WEIGHTS = {
    "semantic-only": Weights(semantic=1.0, factual=0.0, value=0.0),
    "factual-only": Weights(semantic=0.0, factual=1.0, value=0.0),
    "value-only": Weights(semantic=0.0, factual=0.0, value=1.0),
    "no-semantic": Weights(semantic=0.0),
    "no-factual": Weights(factual=0.0),
    "no-value": Weights(value=0.0),
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return built(tmp_path_factory.mktemp("arms") / "build")


@pytest.fixture(scope="module")
def opened(build, tmp_path_factory):
    return open_data(str(released(build, tmp_path_factory.mktemp("arms") / "release")))


def arranged(opened, name, seed=0, stages=schema.STAGES):
    rows = train_pairs(ARMS[name], opened, FAKE, schema.STAGES)
    return ARMS[name].arrange(rows, stages, seed)


def contents(stages):
    """Every pair of every stage, as a multiset."""
    return Counter(
        (row["prompt_id"], row["chosen"][0]["content"], row["rejected"][0]["content"])
        for rows in stages.values()
        for row in rows.to_dicts()
    )


# --- the same pairs in another order


def test_the_orders_share_every_pair_and_hold_none_twice(opened):
    published = opened.frame("pairs").filter(split="train")
    wanted = contents({"all": published})
    assert max(wanted.values()) == 1 and len(wanted) > 15
    for name in ORDERS:
        for seed in range(3):
            assert contents(arranged(opened, name, seed)) == wanted, (name, seed)


def test_the_orders_are_what_their_names_say(opened):
    staged, single, backwards = (arranged(opened, name) for name in ("staged", "single", "reversed"))
    assert list(staged) == list(schema.STAGES) and list(backwards) == list(reversed(schema.STAGES))
    assert all(staged[stage].equals(backwards[stage]) for stage in schema.STAGES)
    assert list(single) == [ONE_STAGE]
    assert staged["conservative"]["gap"].min() >= staged["moderate"]["gap"].max()


def test_random_stages_have_the_published_sizes_and_hang_on_the_seed_alone(opened):
    staged, drawn = arranged(opened, "staged"), [arranged(opened, "random", seed) for seed in (0, 0, 1)]
    for one in drawn:
        assert list(one) == ["random-1", "random-2", "random-3"]
        assert [rows.height for rows in one.values()] == [rows.height for rows in staged.values()]
    ids = [[rows["prompt_id"].to_list() for rows in one.values()] for one in drawn]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0] != [rows["prompt_id"].to_list() for rows in staged.values()]


def test_an_arm_takes_only_the_stages_that_the_recipe_trains(opened):
    rows = train_pairs(ARMS["single"], opened, FAKE, ("exploratory",))
    assert set(rows["stage"]) == {"exploratory"} and set(rows["split"]) == {"train"}


# --- other pairs from the same scores


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_ablation_is_a_restaged_build_byte_for_byte(opened, build, tmp_path, name):
    again = restage(build, tmp_path / "again", recipe(weights=WEIGHTS[name]))
    wanted = (again / "pairs" / "00000.parquet").read_bytes()
    for source in (opened, open_data(str(build))):
        rows = ARMS[name].pair(source, FAKE)
        table = schema.conform(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), schema.PAIRS)
        assert run.parquet_bytes(table) == wanted


def test_max_pairs_are_a_restaged_build_byte_for_byte(tmp_path):
    build = built(tmp_path / "build", pairing=Pairing(rejected="next"))
    again = restage(build, tmp_path / "again", recipe(pairing=Pairing(rejected="max")))
    opened = open_data(str(build))
    rows = ARMS["max-pairs"].pair(opened, FAKE)
    table = schema.conform(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), schema.PAIRS)
    assert run.parquet_bytes(table) == (again / "pairs" / "00000.parquet").read_bytes()
    assert rows["gap"].mean() > opened.frame("pairs")["gap"].mean()


@pytest.mark.parametrize("dimension", schema.DIMENSIONS)
def test_an_ablated_dimension_has_no_say(tmp_path, dimension):
    """Turn the dimension's values around: the arm without it stays, and what has it changes."""
    build = built(tmp_path / "build")

    def found(name):
        rows = ARMS[name].pair(open_data(str(build)), FAKE)
        return rows.select("prompt_id", "chosen_id", "rejected_id", "gap", "stage").to_dicts()

    others = [f"{other}-only" for other in schema.DIMENSIONS if other != dimension]
    before = {name: found(name) for name in (f"no-{dimension}", f"{dimension}-only", *others)}

    def turn(rows):
        for row in rows:
            for one in row["responses"]:
                if (value := one[f"{dimension}_uncertainty"]) is not None:
                    one[f"{dimension}_uncertainty"] = 1.0 - value

    for shard in run.shard_paths(build, "scored"):
        edit(shard, turn, schema.SCORED)
    for name in (f"no-{dimension}", *others):
        assert found(name) == before[name], name
    assert found(f"{dimension}-only") != before[f"{dimension}-only"]


def test_intervals_are_given_up_only_where_no_dimension_bounds_them(tmp_path):
    opened = open_data(str(built(tmp_path / "build", pairing=Pairing(gap_resamples=100))))
    assert ARMS["no-value"].pair(opened, FAKE)["gap_low"].null_count() == 0
    assert ARMS["value-only"].pair(opened, FAKE)["gap_low"].null_count() == len(ARMS["value-only"].pair(opened, FAKE))


def test_an_arm_without_any_dimension_is_refused(tmp_path):
    only = Weights(semantic=0.0, factual=0.0, value=1.0)
    opened = open_data(str(built(tmp_path / "build", weights=only)))
    with pytest.raises(UserError, match="weighs no dimension but value"):
        ARMS["no-value"].pair(opened, FAKE)


# --- the field's baselines


def risks(opened):
    return {
        row["prompt_id"]: {one["response_id"]: one["value_risk"] for one in row["responses"]}
        for row in opened.frame("scored").to_dicts()
    }


def test_self_rewarding_takes_the_ends_and_judge_only_two_by_hash(opened):
    known = risks(opened)
    ends = ARMS["self-rewarding"].pair(opened, FAKE)
    assert set(ends["stage"]) == {ONE_STAGE} and ends.height > 20
    for row in ends.to_dicts():
        found = known[row["prompt_id"]]
        assert found[row["chosen_id"]] == min(found.values()) and found[row["rejected_id"]] == max(found.values())
    two = ARMS["judge-only"].pair(opened, FAKE)
    inner = 0
    for row in two.to_dicts():
        found = known[row["prompt_id"]]
        assert found[row["chosen_id"]] < found[row["rejected_id"]]
        inner += found[row["rejected_id"]] != max(found.values())
    assert inner > 3, "two of the K, and not the ends"


def test_self_rewarding_needs_a_policy_that_judged_itself(tmp_path):
    judging = dataclasses.replace(recipe().judging, model=ModelSpec(model="other/judge", backend="fake"))
    opened = open_data(str(built(tmp_path / "build", judging=judging)))
    with pytest.raises(UserError, match=r"judged itself; in .* the judge is other/judge"):
        ARMS["self-rewarding"].pair(opened, FAKE)


def test_contrast_pairs_hold_the_plain_prompt_and_hang_on_ids(opened, monkeypatch):
    from udasa.arms import contrast
    from udasa.backends_fake import FakeSampler

    asked = []

    class Listening(FakeSampler):
        def sample(self, prompts, seeds, report=lambda _: None):
            asked.append(prompts)
            return super().sample([[messages[0], *messages] for messages in prompts], seeds, report)

        def _one(self, prompt, seed):
            return super()._one(prompt, seed)

    monkeypatch.setattr(contrast, "make_sampler", lambda spec, sampling: Listening(sampling))
    rows = ARMS["rlcd"].pair(opened, FAKE)
    assert [messages[0]["role"] for messages in asked[0]] == ["system"] * len(asked[0])
    for prompts, instruction in zip(asked, INSTRUCTIONS.values(), strict=True):
        assert all(messages[0]["content"].startswith(instruction) for messages in prompts)
        assert all("- Is the reply safe?" in messages[0]["content"] for messages in prompts)
    plain = dict(opened.frame("scored").select("prompt_id", "messages").iter_rows())
    assert all(row["prompt"] == plain[row["prompt_id"]] for row in rows.to_dicts())
    assert all(row["chosen"] != row["rejected"] for row in rows.to_dicts()) and rows.height > 20
    assert ARMS["context-distillation"].pair(opened, FAKE).equals(rows), "the same draws, another loss"
    published = dict(opened.frame("pairs").select("prompt_id", "split").iter_rows())
    assert all(published.get(row["prompt_id"], row["split"]) == row["split"] for row in rows.to_dicts())


def test_every_arm_says_what_it_is_and_where_from():
    assert all(arm.meaning and arm.source for arm in ARMS.values())
    assert [name for name, arm in ARMS.items() if arm.loss] == ["sft", "context-distillation"]
    assert list(find(["single", "staged"])) == ["single", "staged"]
    for wrong, message in ((["nothing"], "no arm nothing"), (["single", "single"], "different arms"), ([], "none")):
        with pytest.raises(UserError, match=message):
            find(wrong)


# --- one budget


def test_an_arm_takes_no_settings_for_stages_that_it_lacks():
    training = Training(loss="cdpo", label_smoothing=0.1, overrides=(Override(stage="moderate", beta=0.3),))
    for name in ("staged", "reversed", "no-value", "max-pairs"):
        assert training_of(ARMS[name], training) == training
    for name in ("single", "random", "sft", "rlcd"):
        with pytest.raises(UserError, match="are for moderate, and this arm has other stages"):
            training_of(ARMS[name], training)
    sft = training_of(ARMS["sft"], dataclasses.replace(training, overrides=()))
    assert (sft.loss, sft.label_smoothing) == ("sft", 0.0)


def stage_rows(sizes, start=0):
    """A table with so many pairs a stage; prompt ids are numbers from `start` on."""
    stages = [stage for stage, size in sizes.items() for _ in range(size)]
    ids = [f"p{start + number}" for number in range(len(stages))]
    return pl.DataFrame({"prompt_id": ids, "stage": stages}, schema={"prompt_id": pl.String, "stage": pl.String})


def sizes_of(rows):
    return dict(rows.group_by("stage").len().sort("stage").iter_rows())


def test_the_budget_is_whole_batches_of_the_arm_that_has_fewest():
    arms = {"staged": stage_rows({"a": 13, "b": 13, "c": 13}), "one": stage_rows({"all": 30})}
    cut = level(arms, batch_size=4, seed=0)
    assert sizes_of(cut["one"]) == {"all": 28}
    assert sizes_of(cut["staged"]) == {"a": 8, "b": 8, "c": 12}, "9 batches become 7, each from the fullest"


@EXAMPLES
@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=1, max_size=4), st.integers(1, 6))
def test_level_arms_see_as_many_pairs_in_whole_batches(sizes, batch_size):
    arms = {f"arm{n}": stage_rows({f"s{i}": size for i, size in enumerate(one)}) for n, one in enumerate(sizes)}
    if any(not any(size >= batch_size for size in one) for one in sizes):
        with pytest.raises(UserError, match="No stage holds a whole batch"):
            level(arms, batch_size, seed=0)
        return
    cut = level(arms, batch_size, seed=0)
    assert len({rows.height for rows in cut.values()}) == 1
    assert next(iter(cut.values())).height == min(sum(n // batch_size for n in one) for one in sizes) * batch_size
    for name, rows in cut.items():
        assert all(size % batch_size == 0 for size in sizes_of(rows).values())
        assert set(rows["prompt_id"]) <= set(arms[name]["prompt_id"])


def test_arms_of_other_pairs_keep_the_same_prompts_where_they_can():
    first, second = stage_rows({"all": 60}), stage_rows({"all": 60}, start=10)
    cut = level({"first": first, "second": second}, batch_size=8, seed=0)
    shared = set(cut["first"]["prompt_id"]) & set(cut["second"]["prompt_id"])
    assert len(shared) > 40, "50 prompts are in both, and 56 of 60 are kept"
    again = level({"first": first.reverse(), "second": second}, batch_size=8, seed=0)
    assert again["first"].equals(cut["first"]), "not by position"
