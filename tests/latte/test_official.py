"""Checkpoints of the published Latte: loaded by name, and equal to an independent forward of that architecture."""

import math
import pickle

import pytest
import torch
from tiny_latte import tiny_records
from torch.nn.functional import conv2d, embedding, gelu, layer_norm, linear, silu

from latte.latte import Latte
from latte.official_checkpoint import load_official_latte, read_state
from pipelines.train_latte import take_initial_weights

DEPTH, WIDTH, HEADS, PATCH, SIDE, CLASSES = 4, 32, 2, 2, 8, 5


def sincos_table(positions, width):
    angles = torch.tensor(
        [[p / 10000 ** (2 * i / width) for i in range(width // 2)] for p in positions], dtype=torch.float64
    )
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def official_state(channels, frames, classes=CLASSES, seed=0):
    """Random tensors under the names and shapes of the published model with learned variance, and its two tables."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def add(name, outputs, *inputs, bias=True):
        state[f"{name}.weight"] = torch.randn(outputs, *inputs, generator=generator) * 0.7 / math.prod(inputs) ** 0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.2

    add("x_embedder.proj", WIDTH, channels, PATCH, PATCH)
    add("t_embedder.mlp.0", WIDTH, 256)
    add("t_embedder.mlp.2", WIDTH, WIDTH)
    if classes:
        add("y_embedder.embedding_table", classes + 1, WIDTH, bias=False)
    for i in range(DEPTH):
        add(f"blocks.{i}.attn.qkv", 3 * WIDTH, WIDTH)
        add(f"blocks.{i}.attn.proj", WIDTH, WIDTH)
        add(f"blocks.{i}.mlp.fc1", 4 * WIDTH, WIDTH)
        add(f"blocks.{i}.mlp.fc2", WIDTH, 4 * WIDTH)
        add(f"blocks.{i}.adaLN_modulation.1", 6 * WIDTH, WIDTH)
    add("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    add("final_layer.linear", PATCH * PATCH * 2 * channels, WIDTH)
    grid = SIDE // PATCH
    columns = [column for _ in range(grid) for column in range(grid)]
    rows = [row for row in range(grid) for _ in range(grid)]
    spatial = torch.cat([sincos_table(columns, WIDTH // 2), sincos_table(rows, WIDTH // 2)], dim=1)  # w goes first
    state["pos_embed"] = spatial.float()[None]
    state["temp_embed"] = sincos_table(range(frames), WIDTH).float()[None]
    return state


def official_forward(state, x, timestep, labels):
    """The published model in evaluation mode: x (b, f, c, h, w) -> (b, f, 2 c, h, w), its condition on every row."""
    batch, frames, _, height, _ = x.shape

    def apply(name, value):
        return linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    def normal(value):
        return layer_norm(value, (WIDTH,), eps=1e-6)

    def attention(name, value):
        rows, tokens, _ = value.shape
        query, key, content = apply(f"{name}.qkv", value).reshape(rows, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) / math.sqrt(WIDTH / HEADS)).softmax(dim=3)
        return apply(f"{name}.proj", (weights @ content).transpose(1, 2).reshape(rows, tokens, WIDTH))

    def block(i, value, condition):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
            vector[:, None] for vector in apply(f"blocks.{i}.adaLN_modulation.1", silu(condition)).chunk(6, dim=1)
        )
        value = value + gate_a * attention(f"blocks.{i}.attn", normal(value) * (1 + scale_a) + shift_a)
        hidden = gelu(apply(f"blocks.{i}.mlp.fc1", normal(value) * (1 + scale_m) + shift_m), approximate="tanh")
        return value + gate_m * apply(f"blocks.{i}.mlp.fc2", hidden)

    frequencies = torch.tensor([math.exp(-math.log(10000) * i / 128) for i in range(128)])
    angles = timestep[:, None] * frequencies
    hidden = silu(apply("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1)))
    condition = apply("t_embedder.mlp.2", hidden)
    if labels is not None:
        condition = condition + embedding(labels, state["y_embedder.embedding_table.weight"])
    patches = conv2d(x.flatten(0, 1), state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=PATCH)
    tokens = patches.flatten(2).transpose(1, 2) + state["pos_embed"]  # (b f, t, d)
    num_patches = tokens.shape[1]
    for i in range(0, DEPTH, 2):
        tokens = block(i, tokens, condition.repeat_interleave(frames, dim=0))
        tokens = tokens.reshape(batch, frames, num_patches, WIDTH).transpose(1, 2).flatten(0, 1)  # (b t, f, d)
        tokens = tokens + state["temp_embed"] if i == 0 else tokens
        tokens = block(i + 1, tokens, condition.repeat_interleave(num_patches, dim=0))
        tokens = tokens.reshape(batch, num_patches, frames, WIDTH).transpose(1, 2).flatten(0, 1)
    rows = condition.repeat_interleave(frames, dim=0)
    shift, scale = apply("final_layer.adaLN_modulation.1", silu(rows)).chunk(2, dim=1)
    values = apply("final_layer.linear", normal(tokens) * (1 + scale[:, None]) + shift[:, None])
    grid = height // PATCH
    values = values.reshape(batch, frames, grid, grid, PATCH, PATCH, -1)  # rows, columns, then row, column and channel
    return values.permute(0, 1, 6, 2, 4, 3, 5).reshape(batch, frames, -1, height, height)


def model_for(channels, frames, classes=CLASSES, **options):
    own = {"depth": DEPTH, "width": WIDTH, "heads": HEADS, "patch": PATCH, "layout": "channel"}
    own |= {"attention": "factorised", "objective": "epsilon", **options}
    torch.manual_seed(1)
    return Latte(
        **tiny_records({"video": (channels, frames, SIDE, SIDE)}, tuple(f"class {i}" for i in range(classes)), **own)
    )


@pytest.mark.parametrize("classes", [CLASSES, 0])
@pytest.mark.parametrize(("channels", "frames"), [(4, 16), (16, 5)])
def test_a_loaded_model_computes_what_the_published_one_does(tmp_path, channels, frames, classes):
    state = official_state(channels, frames, classes)
    torch.save({"model": official_state(channels, frames, classes, seed=1), "ema": state}, tmp_path / "latte.pt")
    model = model_for(channels, frames, classes)
    load_official_latte(tmp_path / "latte.pt", model)
    x = torch.randn(3, frames, channels, SIDE, SIDE)
    timestep, labels = torch.tensor([0.0, 250.0, 999.0]), torch.tensor([0, 3, 5]) if classes else None
    with torch.no_grad():
        theirs = official_forward(state, x, timestep, labels)
        ours = model({"video": x.transpose(1, 2)}, timestep, labels)["video"].transpose(1, 2)
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-5
    noise, variance = ours.split([channels, channels], dim=2)
    assert noise.shape == variance.shape == x.shape


def test_decoupled_parts_share_the_channels_of_one_stream(tmp_path):
    """keyframe, motion and residual of 5 frames on 16 channels are to the published model what 16 channels are."""
    state = official_state(16, 5)
    torch.save(state, tmp_path / "latte.pt")
    shapes = {"keyframe": (6, 5, SIDE, SIDE), "motion": (4, 5, SIDE, SIDE), "residual": (6, 5, SIDE, SIDE)}
    own = {"depth": DEPTH, "width": WIDTH, "heads": HEADS, "layout": "channel"}
    names = tuple(f"class {i}" for i in range(CLASSES))
    model = Latte(**tiny_records(shapes, names, attention="factorised", objective="epsilon", **own))
    load_official_latte(tmp_path / "latte.pt", model)
    whole = model_for(16, 5)
    load_official_latte(tmp_path / "latte.pt", whole)
    x, time, label = torch.randn(1, 16, 5, SIDE, SIDE), torch.tensor([40.0]), torch.tensor([2])
    with torch.no_grad():
        parts = model({"keyframe_motion_residual": x}, time, label)["keyframe_motion_residual"]
        assert torch.equal(parts, whole({"video": x}, time, label)["video"])


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"ema": s, "step": 3}])
def test_where_the_state_dict_may_stand(tmp_path, wrap):
    state = official_state(4, 2)
    torch.save(wrap(state), tmp_path / "latte.pt")
    assert read_state(tmp_path / "latte.pt").keys() == state.keys()


def test_training_starts_from_a_checkpoint_file_or_a_folder(tmp_path):
    torch.save(official_state(4, 2), tmp_path / "latte.pt")
    filled, again = model_for(4, 2), model_for(4, 2)
    source = take_initial_weights(filled, str(tmp_path / "latte.pt"), tmp_path)
    assert source["path"].endswith("latte.pt") and len(source["hash"]) >= 32
    filled.save_pretrained(tmp_path / "folder")
    take_initial_weights(again, str(tmp_path / "folder"), tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in filled.state_dict().items())


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "blocks.3.mlp.fc1.bias"), "missing: blocks.3.mlp.fc1.bias"),
        (lambda s: without(s, "temp_embed"), "missing: temp_embed"),
        (
            lambda s: s | {"text_embedding_projection.1.bias": torch.zeros(3)},
            "unknown: text_embedding_projection.1.bias",
        ),
        (lambda s: official_state(8, 2), r"x_embedder.proj.weight of \(32, 8, 2, 2\) for \(32, 16\)"),
        (lambda s: official_state(4, 3), r"temp_embed of \(1, 3, 32\) for \(1, 2, 32\)"),
        (lambda s: official_state(4, 2, classes=7), "y_embedder.embedding_table.weight"),
        (lambda s: s | {"pos_embed": s["pos_embed"].flip(1)}, "pos_embed with other values"),
        (
            lambda s: s | {"final_layer.linear.bias": s["final_layer.linear.bias"] / 0},
            "final_layer.linear.bias with values",
        ),
        (lambda s: [s], "no state dict"),
        (lambda s: {"args": {"lr": 1}}, "no state dict"),
    ],
)
def test_other_content_is_refused_in_one_sentence(tmp_path, change, message):
    torch.save(change(official_state(4, 2)), tmp_path / "latte.pt")
    model = model_for(4, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_official_latte(tmp_path / "latte.pt", model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "full"}, "set latte.attention=factorised"),
        ({"objective": "flow", "qk_norm": True}, "set latte.objective=epsilon, latte.qk_norm=false"),
    ],
)
def test_another_architecture_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_official_latte(tmp_path / "latte.pt", model_for(4, 2, **options))


def test_files_that_are_no_checkpoint_are_refused_and_code_does_not_run(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_state(tmp_path / "absent.pt")
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="cannot be read"):
        read_state(tmp_path / "half.pt")

    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("sentinel").write_text, ("ran",))

    (tmp_path / "payload.pt").write_bytes(pickle.dumps({"ema": Payload()}))
    with pytest.raises(ValueError, match="cannot be read"):
        read_state(tmp_path / "payload.pt")
    assert not (tmp_path / "sentinel").exists()
