"""Files are written whole: whoever reads, or kills, in between finds the previous one."""

import pytest

from ppl_vae import InputError
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.utils.files import written_whole


def test_the_previous_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a" / "file"
    with written_whole(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with path.open() as reader, written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        temporary.touch()
        before = path.stat().st_ino
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_ino != before  # renamed, not written over
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_previous_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(InputError, match="No space left on device"), written_whole(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_mends_a_folder_is_said_in_arguments_and_in_options(tmp_path):
    folder = RunFolder(tmp_path)
    said = {}
    for name, call in {
        "none": folder.read_json,
        "taken": lambda: (tmp_path / "last.pt").touch() or folder.read_state({}, resume=False),
        "half": folder.read_best,
    }.items():
        with pytest.raises(InputError) as error:
            call()
        said[name] = str(error.value), error.value.options
    assert "ppl_vae.train(out=" in said["none"][0] and said["none"][1].startswith("ppl-vae train --out")
    assert "Pass resume=True" in said["taken"][0] and said["taken"][1] == "--resume, or --out DIR"
    assert "resume=True" in said["half"][0] and "--resume" in said["half"][1]
    assert not any("--" in words for words, _ in said.values())
