"""Weights of one Latte in another: what fits is taken, what does not is named, what would mean nothing is refused."""

import pytest
import torch
from tiny_latte import CLASSES, DECOUPLED, PLAIN, tiny_latte, tiny_records

from latte.fine_tuning import take_fitting_weights
from latte.latte import Latte


@pytest.fixture
def source():
    return tiny_latte(awake=True)


def differences(model, source):
    theirs = source.state_dict()
    return {name for name, x in model.state_dict().items() if name not in theirs or not torch.equal(x, theirs[name])}


def test_other_training_takes_every_weight(source):
    model = tiny_latte(label_dropout=0.5, time_mean=1.0, gradient_checkpointing=True, clean_keyframe_share=0.2)
    assert take_fitting_weights(model, source, "run") == []
    assert differences(model, source) == set()
    assert model.training_options.time_mean == 1.0 and source.training_options.time_mean == 0.0


def test_rows_of_classes_go_by_name(source):
    model = tiny_latte(classes=("up", "jump", "left", "run"))
    before = model.label_embedding.weight.detach().clone()
    left = take_fitting_weights(model, source, "run")
    assert left == ["new classes: jump, run", "left classes: right"]
    assert differences(model, source) == {"label_embedding.weight"}
    ours, theirs = model.label_embedding.weight, source.label_embedding.weight
    for row, other in ((0, CLASSES.index("up")), (2, CLASSES.index("left")), (4, len(CLASSES))):
        assert torch.equal(ours[row], theirs[other])
    assert torch.equal(ours[[1, 3]], before[[1, 3]])


def test_classes_in_another_order_and_no_classes(source):
    model = tiny_latte(classes=CLASSES[::-1])
    assert take_fitting_weights(model, source, "run") == []
    assert torch.equal(model.label_embedding.weight, source.label_embedding.weight[[2, 1, 0, 3]])
    nameless = tiny_latte(classes=())
    assert take_fitting_weights(nameless, source, "run") == [
        "left weights: label_embedding",
        "left classes: left, right, up",
    ]
    assert take_fitting_weights(tiny_latte(), nameless, "run") == [
        "new weights: label_embedding",
        "new classes: left, right, up",
    ]


def test_other_statistics_of_the_latents_are_kept(source):
    records = tiny_records()
    records["architecture"]["parts"]["motion"]["std"] = [3.0, 3.0]
    model = Latte(**records)
    assert take_fitting_weights(model, source, "run") == ["left statistics of latents: motion"]
    assert differences(model, source) == set()
    assert model.architecture.parts["motion"]["std"] == [3.0, 3.0]


def test_another_depth_takes_the_blocks_that_both_have(source):
    deep = tiny_latte(depth=5)
    assert take_fitting_weights(deep, source, "run") == ["new weights: blocks.2, blocks.3, blocks.4"]
    assert {name.split(".")[1] for name in differences(deep, source)} == {"2", "3", "4"}
    shallow = tiny_latte(depth=1)
    assert take_fitting_weights(shallow, source, "run") == ["left weights: blocks.1"]
    assert differences(shallow, source) == set()


def test_parts_of_blocks_and_other_embeddings(source):
    model = tiny_latte(mlp="swiglu", positions="rope", patch=1)
    assert take_fitting_weights(model, source, "run") == [
        "new weights: blocks.*.mlp.fc1, blocks.*.mlp.fc2, patch_embeddings.keyframe, "
        "final_layer.heads.keyframe and 2 more",
        "trained with: latte.positions sincos",
    ]
    assert torch.equal(model.blocks[0].attention.qkv.weight, source.blocks[0].attention.qkv.weight)


def test_streams_that_both_have_and_longer_clips(source):
    model = tiny_latte({part: (c, 2 * t - 1, h, w) for part, (c, t, h, w) in DECOUPLED.items()}, layout="tokens")
    left = take_fitting_weights(model, source, "run")
    assert [phrase.split(": ")[0] for phrase in left] == ["new weights", "left weights"]
    assert torch.equal(model.stream_embedding[0], source.stream_embedding[0])  # the keyframe's
    assert not torch.equal(model.stream_embedding[1], source.stream_embedding[1])
    assert torch.equal(model.patch_embeddings["keyframe"].weight, source.patch_embeddings["keyframe"].weight)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (DECOUPLED, {"width": 32}, r"the width of latte.size \(got 16, expected 32\)"),
        (DECOUPLED, {"objective": "epsilon"}, r"latte.objective \(got flow, expected epsilon\)"),
        (DECOUPLED, {"layout": "channel"}, "latte.layout"),
        (DECOUPLED, {"heads": 1}, r"latte.heads \(got 2, expected 1\)"),
        (PLAIN, {}, "latent parts"),
        ({**DECOUPLED, "motion": (3, 4, 4, 4)}, {}, "latent parts"),
    ],
)
def test_weights_without_meaning_are_refused_and_nothing_is_changed(source, shapes, options, message):
    model = tiny_latte(shapes, **options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"in runs/other.*{message}"):
        take_fitting_weights(model, source, "runs/other")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
