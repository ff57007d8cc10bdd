"""Options of Latte: refused when they are read, saved as two records, old saved models understood."""

import json
from dataclasses import asdict, dataclass, fields

import pytest
import torch
from tiny_latte import DECOUPLED, PLAIN, random_latents, tiny_latte, tiny_records

from latte.config import LatteArchitecture, LatteConfig, LatteTraining, build_records, read_records
from latte.latte import Latte

# config.json as it was when one record held both; written by that version.
FLAT_RECORD = json.loads("""{
"size": "custom", "depth": 2, "width": 16, "heads": 2, "patch": 2, "mlp": "gelu", "mlp_ratio": 4.0,
"layout": "keyframe_first", "attention": "full", "positions": "sincos", "qk_norm": false,
"gradient_checkpointing": false, "label_dropout": 0.2, "objective": "flow", "part_weights": {}, "time_mean": 0.5,
"time_std": 1.0, "min_snr_gamma": 0.0, "zero_terminal_snr": false, "clean_keyframe_share": 0.0,
"independent_times_share": 0.0, "image_share": 0.0, "parts": {"video": {"shape": [5, 3, 4, 4],
"mean": [0.5, 0.5, 0.5, 0.5, 0.5], "std": [2.0, 2.0, 2.0, 2.0, 2.0]}}, "classes": ["left", "right"]}""")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "M/2"}, "latte.size"),
        ({"size": "S/3"}, "latte.size"),
        ({"size": "custom", "width": 16, "heads": 3}, "multiple"),
        ({"attention": "flash"}, "latte.attention"),
        ({"objective": "score"}, "latte.objective"),
        ({"layout": "sequence"}, "latte.layout"),
        ({"mlp": "relu"}, "latte.mlp"),
        ({"positions": "learned"}, "latte.positions"),
        ({"size": "custom", "width": 16, "heads": 4, "positions": "rope"}, "latte.positions rope .*6 channels, got 4"),
        ({"zero_terminal_snr": True}, "latte.zero_terminal_snr"),
        ({"label_dropout": 1.5}, "latte.label_dropout"),
        ({"part_weights": {"motion": 0.0}}, "positive weights"),
        ({"image_share": 0.7, "clean_keyframe_share": 0.7}, "add up to 1"),
        ({"min_snr_gamma": 5.0}, "latte.min_snr_gamma"),
        ({"min_snr_gamma": -1.0, "objective": "v"}, "latte.min_snr_gamma"),
    ],
)
def test_wrong_options_are_refused_before_there_is_a_model(options, message):
    with pytest.raises(ValueError, match=message):
        LatteConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 3}, "do not tile"),
        ({"part_weights": {"movement": 2.0}}, "names \\['movement'\\]"),
        ({"layout": "channel", "clean_keyframe_share": 0.5}, "tokens of its own"),
    ],
)
def test_options_that_do_not_fit_the_latents_are_refused_by_the_model(options, message):
    with pytest.raises(ValueError, match=message):
        Latte(**tiny_records(**options))


def test_every_option_belongs_to_one_record():
    """What a section adds belongs to none."""

    @dataclass(frozen=True)
    class Section(LatteConfig):
        steps: int = 5

    records = build_records(Section(width=32, time_mean=0.5), tiny_records()["architecture"]["parts"], ["walk"])
    names = {field.name for field in fields(LatteConfig)}
    assert set(records["architecture"]) | set(records["training"]) == names | {"parts", "classes"}
    assert not set(records["architecture"]) & set(records["training"])
    assert records["architecture"]["width"] == 32 and records["training"]["time_mean"] == 0.5
    assert read_records(**records) == (
        LatteArchitecture(**records["architecture"]),
        LatteTraining(**records["training"]),
    )


def test_a_model_saved_with_one_record_loads_and_is_saved_with_two(tmp_path):
    model = tiny_latte(PLAIN, classes=("left", "right"), awake=True, label_dropout=0.2, time_mean=0.5).eval()
    model.save_pretrained(tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    assert set(config) >= {"architecture", "training"}
    del config["training"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config | {"architecture": FLAT_RECORD}))
    old = Latte.from_pretrained(tmp_path / "old", use_safetensors=True, low_cpu_mem_usage=False)
    assert asdict(old.training_options) == asdict(model.training_options)
    streams, time = model.layout.pack(random_latents(PLAIN, 2)), torch.tensor([100.0, 900.0])
    with torch.no_grad():
        assert torch.equal(old(streams, time)["video"], model(streams, time)["video"])
    old.save_pretrained(tmp_path / "new")
    new = Latte.from_pretrained(tmp_path / "new", use_safetensors=True, low_cpu_mem_usage=False)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["training"]["label_dropout"] == 0.2
    assert (new.architecture, new.training_options) == (old.architecture, old.training_options)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"architecture": FLAT_RECORD | {"colour": 1}}, "unknown settings \\['colour'\\]"),
        ({"architecture": {}}, "does not say how it was trained"),
        ({"architecture": tiny_records()["architecture"]}, "does not say how it was trained"),
        ({"architecture": FLAT_RECORD, "training": {}}, "unknown settings"),
        ({**tiny_records(DECOUPLED), "training": {"momentum": 1}}, "unknown settings \\['momentum'\\]"),
    ],
)
def test_other_records_are_refused(records, message):
    with pytest.raises(ValueError, match=message):
        Latte(**records)
