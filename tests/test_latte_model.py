"""The transformer: exact sizes, identity at the start, gradients everywhere, golden forward, saving and loading."""

import itertools
from dataclasses import asdict, dataclass

import pytest
import torch
from tiny_latte import CLASSES, DECOUPLED, PLAIN, architecture, check_golden, keyed_draws, random_latents, tiny_latte

from latte.blocks import MAX_PLAIN_TOKENS, attend
from latte.config import LatteArchitecture, LatteConfig
from latte.diffusion import training_loss
from latte.embeddings import spatial_positions
from latte.latte import Latte

VARIANTS = list(
    itertools.product(["keyframe_first", "channel"], ["flow", "epsilon"], ["full", "factorised"], [False, True])
)


def streams_of(model, batch=2, shapes=DECOUPLED):
    return model.layout.pack(random_latents(shapes, batch))


@pytest.mark.parametrize(
    ("size", "count"), [("S/2", 32_675_456), ("B/2", 129_936_512), ("L/2", 457_334_912), ("XL/2", 674_265_728)]
)
def test_parameter_counts_equal_latte(size, count):
    """Latte counts its fixed position tables (256 patches and 5 frames) as parameters; ours are buffers."""
    parts = {"video": {"shape": (16, 5, 32, 32), "mean": [0.0] * 16, "std": [1.0] * 16}}
    config = LatteConfig(size=size, layout="channel", attention="factorised", objective="epsilon")
    with torch.device("meta"):
        model = Latte(asdict(LatteArchitecture.build(config, parts, [f"class {i}" for i in range(101)])))
    tables = [model.patch_positions, model.frame_positions]
    assert sum(p.numel() for p in itertools.chain(model.parameters(), tables)) == count


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_blocks_are_the_identity_and_the_output_zero_at_the_start(attention):
    model = tiny_latte(attention=attention, depth=4)
    inputs = []
    model.blocks[2].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    model.final_layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    streams = streams_of(model)
    output = model(streams, torch.tensor([10.0, 900.0]), torch.tensor([0, 3]))
    assert all(not x.any() for x in output.values())
    tokens = model.embed(streams) + model.frame_positions[:, None]
    torch.testing.assert_close(inputs[0], tokens)
    torch.testing.assert_close(inputs[1], tokens)


@pytest.mark.parametrize(("layout", "objective", "attention", "qk_norm"), VARIANTS)
def test_every_parameter_gets_a_gradient(layout, objective, attention, qk_norm):
    model = tiny_latte(awake=True, layout=layout, objective=objective, attention=attention, qk_norm=qk_norm)
    loss, _ = training_loss(model, random_latents(DECOUPLED, 4), torch.tensor([0, 1, 2, -1]), keyed_draws([1, 2, 3, 4]))
    loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize(("layout", "objective", "attention", "qk_norm"), VARIANTS)
def test_golden_forward(layout, objective, attention, qk_norm):
    model = tiny_latte(awake=True, layout=layout, objective=objective, attention=attention, qk_norm=qk_norm)
    with torch.no_grad():
        output = model(streams_of(model), torch.tensor([250.0, 750.0]), torch.tensor([1, 3]))
    numbers = torch.cat(
        [torch.stack([x.mean(), x.std(), x[0, 0, 0, 1, 2], x[1, -1, -1, 3, 0]]) for x in output.values()]
    )
    check_golden("latte_forward", f"{layout} {objective} {attention} qk_norm={qk_norm}", numbers)


@pytest.mark.parametrize("attention", ["full", "factorised"])
@pytest.mark.parametrize("shapes", [DECOUPLED, PLAIN, {**PLAIN, "video": (5, 1, 4, 8)}])
def test_shapes_of_any_parts(attention, shapes):
    model = tiny_latte(shapes, awake=True, attention=attention, objective="epsilon")
    streams = streams_of(model, 3, shapes)
    output = model(streams, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 2]))
    assert {k: v.shape for k, v in output.items()} == {
        k: (v.shape[0], 2 * v.shape[1], *v.shape[2:]) for k, v in streams.items()
    }


def test_one_stream_has_no_stream_embedding_and_no_classes_no_table():
    names = {name.split(".")[0] for name, _ in tiny_latte(PLAIN, classes=()).named_parameters()}
    assert names == {"patch_embeddings", "time_embedding", "blocks", "final_layer"}
    model = tiny_latte(PLAIN, classes=(), awake=True)
    assert model(streams_of(model, 1, PLAIN), torch.tensor([5.0]))["video"].shape == (1, *PLAIN["video"])


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_each_output_depends_on_time_label_and_every_stream(attention):
    model = tiny_latte(awake=True, attention=attention)
    streams, time, label = streams_of(model, 1), torch.tensor([300.0]), torch.tensor([1])
    with torch.no_grad():
        base = model(streams, time, label)
        others = [model(streams, time + 100, label), model(streams, time, label + 1)]
        others += [model({**streams, name: x + 0.5}, time, label) for name, x in streams.items()]
    for other in others:
        assert all((other[name] - base[name]).abs().max() > 1e-4 for name in base)


def test_samples_of_a_batch_do_not_mix():
    model = tiny_latte(awake=True)
    streams = streams_of(model, 2)
    with torch.no_grad():
        both = model(streams, torch.tensor([100.0, 700.0]), torch.tensor([0, 1]))
        second = model({k: v[1:] for k, v in streams.items()}, torch.tensor([700.0]), torch.tensor([1]))
    assert all(torch.allclose(both[name][1:], second[name], atol=1e-5) for name in both)


def test_plain_attention_equals_sdpa():
    query, key, value = torch.randn(3, 2, 4, 10, 8, dtype=torch.float64)
    torch.testing.assert_close(
        attend(query, key, value), torch.nn.functional.scaled_dot_product_attention(query, key, value)
    )
    long = torch.randn(1, 1, MAX_PLAIN_TOKENS + 1, 4)
    torch.testing.assert_close(attend(long, long, long), (long @ long.mT / 2).softmax(-1) @ long)


def test_positions_follow_the_formula():
    table = spatial_positions(2, 3, 8)
    for row, column in itertools.product(range(2), range(3)):
        angles = [position / 10000 ** (2 * i / 4) for position in (column, row) for i in range(2)]
        c0, c1, r0, r1 = torch.tensor(angles)
        expected = torch.stack([c0.sin(), c1.sin(), c0.cos(), c1.cos(), r0.sin(), r1.sin(), r0.cos(), r1.cos()])
        torch.testing.assert_close(table[row * 3 + column], expected)


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_bf16_autocast_stays_close_to_float32(attention):
    model = tiny_latte(awake=True, attention=attention, qk_norm=True)
    streams, time, label = streams_of(model), torch.tensor([100.0, 900.0]), torch.tensor([0, 1])
    full = model(streams, time, label)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(streams, time, label)
        sum(x.square().mean() for x in half.values()).backward()
    for name in full:
        assert half[name].dtype == torch.float32
        assert (half[name] - full[name]).abs().max() < 0.05 * full[name].abs().max()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_gradient_checkpointing_changes_nothing():
    grads = []
    for checkpointing in (False, True):
        model = tiny_latte(awake=True, gradient_checkpointing=checkpointing)
        assert model.is_gradient_checkpointing == checkpointing
        loss, _ = training_loss(model, random_latents(DECOUPLED, 2), torch.tensor([0, 1]), keyed_draws([1, 2]))
        loss.backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_save_and_load(tmp_path):
    model = tiny_latte(awake=True, objective="epsilon", layout="channel").eval()
    model.save_pretrained(tmp_path)
    loaded = Latte.from_pretrained(tmp_path)
    assert loaded.architecture == model.architecture
    assert tuple(loaded.architecture.classes) == CLASSES
    streams, time, label = streams_of(model), torch.tensor([100.0, 900.0]), torch.tensor([0, 1])
    with torch.no_grad():
        ours, theirs = model(streams, time, label), loaded(streams, time, label)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "M/2"}, "latte.size"),
        ({"size": "S/3"}, "latte.size"),
        ({"heads": 3}, "multiple"),
        ({"patch": 3}, "do not tile"),
        ({"attention": "flash"}, "latte.attention"),
        ({"objective": "v"}, "latte.objective"),
        ({"layout": "tokens"}, "latte.layout"),
        ({"label_dropout": 1.5}, "latte.label_dropout"),
        ({"part_weights": {"movement": 2.0}}, "names \\['movement'\\]"),
        ({"part_weights": {"motion": 0.0}}, "positive weights"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Latte(architecture(**options))


def test_unknown_settings_of_a_saved_model_are_refused():
    with pytest.raises(ValueError, match="unknown settings"):
        Latte({**architecture(), "colour": 1})


def test_options_that_a_section_adds_stay_out_of_the_architecture():
    @dataclass(frozen=True)
    class Section(LatteConfig):
        steps: int = 5

    built = asdict(LatteArchitecture.build(Section(width=32), architecture()["parts"], CLASSES))
    assert "steps" not in built and built["width"] == 32
