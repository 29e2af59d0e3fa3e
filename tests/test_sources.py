"""A source's rows come from a mirror or from the Hub at a revision, with the right sha256, or the error says how to."""

import gzip
import hashlib

import pytest

from tests.hub.client import run_client
from udasa.errors import UserError
from udasa.evaluate import sources

TABLE = 'a,b\r\n1,"x\ny"\r\n2,é\r\n'
LINES = '{"a": 1}\n\n{"a": "x\u2028y"}\n'


def planted(monkeypatch, *, digest=None, hub=None, url="https://example.org/t.csv"):
    """Put a source `made` with three files into the table, and return its mirror's content."""
    contents = {"t.csv": TABLE.encode(), "t.jsonl": LINES.encode(), "t.jsonl.gz": gzip.compress(LINES.encode())}
    files = {
        name: sources.File((digest or hashlib.sha256(content).hexdigest(),), url, hub)
        for name, content in contents.items()
    }
    source = sources.Source(licence="CC0-1.0", citation="made up", files=files, hub=hub and "o/n", note="Cut by hand.")
    monkeypatch.setitem(sources.SOURCES, "made", source)
    return contents


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.delenv(sources.MIRROR, raising=False)
    (tmp_path / "made").mkdir()
    for name, content in planted(monkeypatch).items():
        (tmp_path / "made" / name).write_bytes(content)
    return tmp_path


def test_rows_of_every_kind_of_file(mirror, monkeypatch):
    assert sources.rows("made/t.csv", mirror) == [{"a": "1", "b": "x\ny"}, {"a": "2", "b": "é"}]
    assert sources.rows("made/t.jsonl", str(mirror)) == [{"a": 1}, {"a": "x\u2028y"}]
    monkeypatch.setenv(sources.MIRROR, str(mirror))
    assert sources.rows("made/t.jsonl.gz") == [{"a": 1}, {"a": "x\u2028y"}]


def test_what_was_read_is_recorded_with_its_sha256(mirror):
    with sources.recording() as found:
        sources.rows("made/t.csv", mirror)
    sources.rows("made/t.jsonl", mirror)
    assert found == {"made/t.csv": hashlib.sha256(TABLE.encode()).hexdigest()}


def test_a_folder_that_is_given_goes_before_the_environment(mirror, monkeypatch, tmp_path):
    monkeypatch.setenv(sources.MIRROR, str(tmp_path / "nowhere"))
    assert len(sources.rows("made/t.csv", mirror)) == 2


def test_another_sha256_is_refused(mirror):
    (mirror / "made" / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"made/t\.csv has the sha256 .{64}, expected .{64}: it is another version"):
        sources.rows("made/t.csv", mirror)


@pytest.mark.parametrize(
    ("data", "where"), [(None, "neither --data nor UDASA_EVAL_DATA names a folder"), ("m", r"not at m/made/t\.csv")]
)
def test_a_missing_source_says_what_to_download_and_where_to_put_it(monkeypatch, data, where):
    monkeypatch.delenv(sources.MIRROR, raising=False)
    planted(monkeypatch)
    with pytest.raises(UserError, match=where) as caught:
        sources.rows("made/t.csv", data)
    assert str(caught.value).endswith(
        "Download https://example.org/t.csv as DIR/made/t.csv, and give --data DIR or set UDASA_EVAL_DATA=DIR. "
        "Cut by hand."
    )


def test_every_file_is_pinned_and_says_where_it_is():
    for source in sources.SOURCES.values():
        assert source.licence and source.citation and source.files
        assert (source.hub is None) == (source.revision is None) == all(f.hub is None for f in source.files.values())
        assert source.revision is None or len(source.revision) == 40
        for file in source.files.values():
            assert all(len(digest) == 64 and int(digest, 16) for digest in file.sha256)
            assert file.url or source.note


def read_from_hub(content, digest):
    """Upload a file; return its rows at the right commit, and the errors for another sha256 and another commit."""
    from huggingface_hub import HfApi

    from udasa.errors import UserError
    from udasa.evaluate import sources

    HfApi().create_repo("owner/made", repo_type="dataset")
    uploaded = HfApi().upload_file(
        path_or_fileobj=content.encode(), path_in_repo="folder/t.csv", repo_id="owner/made", repo_type="dataset"
    )
    found = []
    for revision, expected in ((uploaded.oid, digest), (uploaded.oid, "0" * 64), ("f" * 40, digest)):
        file = sources.File((expected,), "https://example.org/t.csv", "folder/t.csv")
        sources.SOURCES["made"] = sources.Source(
            licence="CC0-1.0", citation="made up", files={"t.csv": file}, hub="owner/made", revision=revision
        )
        try:
            found.append(sources.rows("made/t.csv"))
        except UserError as error:
            found.append(str(error))
    return found


def test_a_source_of_the_hub_is_read_at_its_revision_and_checked(hub, tmp_path):
    digest = hashlib.sha256(TABLE.encode()).hexdigest()
    rows, other, missing = run_client(hub, read_from_hub, TABLE, digest, home=tmp_path, token=hub.token())
    assert rows == [{"a": "1", "b": "x\ny"}, {"a": "2", "b": "é"}]
    assert f"has the sha256 {digest}, expected 000000" in other
    assert "the Hub does not give owner/made@ffff" in missing and "Download https://example.org/t.csv as DIR" in missing
