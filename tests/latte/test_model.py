"""The transformer: exact sizes, identity at the start, gradients everywhere, golden forward, saving and loading."""

import itertools

import pytest
import torch
from tiny_latte import CLASSES, DECOUPLED, PLAIN, check_golden, keyed_draws, random_latents, tiny_latte

from latte.blocks import MAX_PLAIN_TOKENS, attend
from latte.config import LatteConfig, build_records
from latte.diffusion import training_loss
from latte.embeddings import spatial_positions
from latte.latte import Latte

OPTIONS = ("layout", "objective", "attention", "qk_norm")
VARIANTS = [
    dict(zip(OPTIONS, values, strict=True))
    for values in itertools.product(
        ["keyframe_first", "channel"], ["flow", "epsilon"], ["full", "factorised"], [False, True]
    )
]
VARIANTS += [
    {"layout": "tokens", "mlp": "swiglu", "positions": "rope", "qk_norm": True, "attention": "full"},
    {"layout": "keyframe_first", "mlp": "swiglu", "positions": "rope", "attention": "factorised"},
    {"layout": "tokens", "objective": "epsilon", "attention": "factorised"},
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options.values())))


def streams_of(model, batch=2, shapes=DECOUPLED):
    return model.layout.pack(random_latents(shapes, batch))


def reference_count(depth, width, channels, frames, classes, patch=2, side=32):
    """All parameters of the published Latte with learned variance, its two fixed tables of positions included."""
    linear = lambda inputs, outputs: inputs * outputs + outputs  # noqa: E731
    attention = linear(width, 3 * width) + linear(width, width)
    mlp = linear(width, 4 * width) + linear(4 * width, width)
    block = attention + mlp + linear(width, 6 * width)
    embeddings = linear(channels * patch**2, width) + linear(256, width) + linear(width, width) + (classes + 1) * width
    final = linear(width, 2 * width) + linear(width, 2 * channels * patch**2)
    tables = {"pos_embed": (side // patch) ** 2 * width, "temp_embed": frames * width}
    return depth * block + embeddings + final + sum(tables.values()), tables


@pytest.mark.parametrize("channels, frames", [(16, 5), (4, 16)])
@pytest.mark.parametrize(
    ("size", "depth", "width", "count"),
    [
        ("S/2", 12, 384, 32_675_456),
        ("B/2", 12, 768, 129_936_512),
        ("L/2", 24, 1024, 457_334_912),
        ("XL/2", 28, 1152, 674_265_728),
    ],
)
def test_parameter_counts_equal_latte(size, depth, width, count, channels, frames):
    """Ours has every parameter of the reference but the tables of positions, which are constants here."""
    expected, tables = reference_count(depth, width, channels, frames, classes=101)
    if (channels, frames) == (16, 5):
        assert expected == count
    parts = {"video": {"shape": (channels, frames, 32, 32), "mean": [0.0] * channels, "std": [1.0] * channels}}
    config = LatteConfig(size=size, layout="channel", attention="factorised", objective="epsilon")
    with torch.device("meta"):
        model = Latte(**build_records(config, parts, [f"class {i}" for i in range(101)]))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected - sum(tables.values())
    assert [model.patch_positions.numel(), model.frame_positions.numel()] == [*tables.values()]


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_blocks_are_the_identity_and_the_output_zero_at_the_start(attention):
    model = tiny_latte(attention=attention, depth=4)
    inputs, embedded = [], []
    for embedding in model.patch_embeddings.values():
        embedding.register_forward_hook(lambda _, __, output: embedded.append(output))
    model.blocks[2].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    model.final_layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    streams = streams_of(model)
    output = model(streams, torch.tensor([10.0, 900.0]), torch.tensor([0, 3]))
    assert all(not x.any() for x in output.values())
    tokens = torch.cat([x + own for x, own in zip(embedded, model.stream_embedding, strict=True)], dim=1)
    tokens = tokens + model.patch_positions + model.frame_positions[:, None]
    torch.testing.assert_close(inputs[0], tokens)
    torch.testing.assert_close(inputs[1], tokens)


@every_variant
def test_every_parameter_gets_a_gradient(options):
    model = tiny_latte(awake=True, **options)
    loss, _ = training_loss(model, random_latents(DECOUPLED, 4), torch.tensor([0, 1, 2, -1]), keyed_draws([1, 2, 3, 4]))
    loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@every_variant
def test_golden_forward(options):
    model = tiny_latte(awake=True, **options)
    with torch.no_grad():
        output = model(streams_of(model), torch.tensor([250.0, 750.0]), torch.tensor([1, 3]))
    words = [f"{key}={value}" if isinstance(value, bool) else value for key, value in options.items()]
    numbers = torch.cat(
        [torch.stack([x.mean(), x.std(), x[0, 0, 0, 1, 2], x[1, -1, -1, 3, 0]]) for x in output.values()]
    )
    check_golden("latte_forward", " ".join(words), numbers)


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


@every_variant
def test_a_time_per_stream_equals_one_time_where_they_agree(options):
    model = tiny_latte(awake=True, **options)
    streams, labels = streams_of(model), torch.tensor([0, 3])
    time = torch.tensor([100.0, 700.0])
    with torch.no_grad():
        shared = model(streams, time, labels)
        own = model(streams, dict.fromkeys(streams, time), labels)
        changed = model(streams, {name: time + 50 * i for i, name in enumerate(streams)}, labels)
    for name in streams:
        torch.testing.assert_close(own[name], shared[name])
        assert len(streams) == 1 or (changed[name] - shared[name]).abs().max() > 1e-4, "every stream sees the others"


def test_each_stream_is_modulated_by_its_own_time():
    """Without attention between the streams a stream's output depends on its own time alone."""
    model = tiny_latte(awake=True, layout="tokens", attention="factorised", depth=1)  # one spatial block
    streams, labels = streams_of(model), torch.tensor([0, 1])
    times = {name: torch.tensor([100.0 * i, 900.0 - i]) for i, name in enumerate(streams)}
    with torch.no_grad():
        own = model(streams, times, labels)
        for name in streams:
            torch.testing.assert_close(own[name], model(streams, times[name], labels)[name])


def test_no_label_is_the_null_class():
    model = tiny_latte(awake=True)
    streams, time = streams_of(model), torch.tensor([10.0, 500.0])
    with torch.no_grad():
        none, null = model(streams, time), model(streams, time, torch.tensor([len(CLASSES)] * 2))
    assert all(torch.equal(none[name], null[name]) for name in streams)


@every_variant
def test_an_image_takes_the_tokens_of_the_first_frame_only(options):
    model = tiny_latte(awake=True, **options)
    clip = random_latents(DECOUPLED, 2)
    image = model.layout.of_image().pack(model.layout.image_parts(clip))
    first_inputs = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: first_inputs.append(args[0]))
    time, labels = torch.tensor([100.0, 700.0]), torch.tensor([0, 3])
    with torch.no_grad():
        alone = model(image, time, labels)
        model(model.layout.pack(clip), time, labels)
    assert first_inputs[0].shape[1] == 1
    torch.testing.assert_close(first_inputs[0], first_inputs[1][:, :1])
    assert {name: x.shape[2] for name, x in alone.items()} == dict.fromkeys(image, 1)
    if options["attention"] == "factorised":  # frames meet in temporal attention only, which one frame passes alone
        model.blocks = model.blocks[:1]
        with torch.no_grad():
            alone, whole = model(image, time, labels), model(model.layout.pack(clip), time, labels)
        for name in alone:
            torch.testing.assert_close(alone[name], whole[name][:, :, :1])


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
    assert loaded.architecture == model.architecture and loaded.training_options == model.training_options
    assert tuple(loaded.architecture.classes) == CLASSES
    streams, time, label = streams_of(model), torch.tensor([100.0, 900.0]), torch.tensor([0, 1])
    with torch.no_grad():
        ours, theirs = model(streams, time, label), loaded(streams, time, label)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
