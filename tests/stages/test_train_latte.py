"""train_latte: what it refuses when the YAML is read, and what it says about the weights that it starts from."""

from pathlib import Path

import pytest
import torch
from nano_run import nano
from tiny_latte import tiny_latte

from pipelines.train_latte import take_initial_weights


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("latte.label_dropout=1", "latte.label_dropout"),
        ("latte.min_snr_gamma=5", "latte.min_snr_gamma"),
    ],
)
def test_wrong_options_are_refused_when_they_are_read(tmp_path: Path, argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nano(tmp_path, argument)


def test_it_says_in_one_line_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tiny_latte(awake=True)
    source.save_pretrained(tmp_path / "folder")
    same, other = tiny_latte(label_dropout=0.5), tiny_latte(classes=("up", "jump"), depth=3)
    made_of = take_initial_weights(same, str(tmp_path / "folder"), tmp_path)
    assert made_of["path"] == str(tmp_path / "folder") and len(made_of["hash"]) == 64
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in source.state_dict().items())
    assert capsys.readouterr().err == ""
    take_initial_weights(other, str(tmp_path / "folder"), tmp_path)
    said = capsys.readouterr().err
    assert said.startswith(f"train_latte: the weights of {tmp_path / 'folder'} fit in part, ") and said.count("\n") == 1
    assert "new weights: blocks.2; new classes: jump; left classes: left, right" in said
