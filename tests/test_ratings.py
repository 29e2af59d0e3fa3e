import numpy as np
import pytest

from udasa import ratings
from udasa.errors import UserError


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_raters_and_copies(tmp_path):
    first = write(
        tmp_path / "a.csv",
        "# dataset_version=1.0, note",
        "objective,assistant_response,human_score_1,human_score_2,data_type",
        "How?,No.,0,0.5,text",
        '"How, then?","Like this,\nin two lines.",1,,text',
    )
    second = write(tmp_path / "b.csv", "prompt,response,score", "How?,No.,1", "Why?,So.,0.25", "Why?,,1", "Why?,Oh.,")
    copy = write(
        tmp_path / "c.csv", "objective,assistant_response,human_score_1,human_score_2,data_type", "How?,No.,0,0.5,text"
    )
    found = ratings.read([first, second, copy])
    by_text = {row.response: row.scores for row in found.rows}
    assert by_text == {"No.": (0.0, 0.5, 1.0), "Like this,\nin two lines.": (1.0,), "So.": (0.25,)}
    assert found.left_out == 2
    order = [row.response for row in found.rows].index("No.")
    assert found.scores[order] == pytest.approx(0.5)
    assert found.disagreement[order] == pytest.approx(np.sqrt(1 / 6))
    assert found.num_raters[order] == 3


def test_the_order_of_the_files_does_not_matter(tmp_path):
    a = write(tmp_path / "a.csv", "prompt,response,score", "How?,No.,0", "Where?,Here.,1")
    b = write(tmp_path / "b.csv", "prompt,response,score", "How?,No.,1", "Why?,So.,0.25")
    assert ratings.read([a, b]) == ratings.read([b, a])


def test_a_group_is_a_prompt_or_nearly_that_prompt_or_one_response(tmp_path):
    path = write(
        tmp_path / "a.csv",
        "prompt,response,score",
        "How do I open a tin of paint?,With a knife.,0",
        "how do i open  a tin of paint?,With a spoon.,0",
        "Please: how do I open a tin of paint?,With teeth.,0",
        "What is the time?,WITH  a knife.,0",
        "How do I close a door?,Gently.,0",
        "Why?,Because.,0",
        "Why not?,So.,0",
    )
    found = ratings.read([path])
    groups = {row.response: row.group for row in found.rows}
    together = {"With a knife.", "With a spoon.", "With teeth.", "WITH  a knife."}
    assert len({groups[text] for text in together}) == 1
    assert len(set(groups.values())) == 4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["question,response,score", "a,b,1"], r"has no column 'prompt' \(or 'objective'\); its columns are"),
        (["prompt,answer,score", "a,b,1"], "has no column 'response'"),
        (["prompt,response,rating", "a,b,1"], "has no column of scores"),
        (["prompt,response,score", "a,b,0", "a,b,1.5"], r"Row 1 of .* has score '1.5'; expected a number from 0"),
        (["prompt,response,score", "a,b,-0.1"], "has score '-0.1'"),
        (["prompt,response,score", "a,b,high"], "has score 'high'"),
        (["prompt,response,score", "a,b,nan"], "has score 'nan'"),
        (["prompt,response,score"], "No row of .* has a prompt, a response and a score"),
        (["prompt,response,score", "a,,1"], "No row of .* has a prompt, a response and a score"),
        ([""], "has no column 'prompt'"),
    ],
)
def test_bad_data_are_refused(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        ratings.read([write(tmp_path / "a.csv", *lines)])


def test_a_missing_file_and_another_encoding_are_refused(tmp_path):
    with pytest.raises(UserError, match="There is no file at"):
        ratings.read([tmp_path / "none.csv"])
    (tmp_path / "latin.csv").write_bytes("prompt,response,score\nWarum?,Darüm,0\n".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8"):
        ratings.read([tmp_path / "latin.csv"])


def test_a_row_with_too_few_cells_has_no_score_there(tmp_path):
    found = ratings.read([write(tmp_path / "a.csv", "prompt,response,score,score_2", "a,b,1")])
    assert found.rows[0].scores == (1.0,)
