"""The stage `sample`: shared among processes, first frames, interpolation, previews, a guiding model."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from nano_run import nano
from PIL import Image
from safetensors.torch import load_file
from tiny_latte import tiny_latte, tiny_records
from tiny_vae import tiny_vae
from torch import Tensor

from latte.latte import Latte
from pipelines import sample
from pipelines.data.video_file import read_video, to_float, to_uint8, write_video
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.first_frame import choose_first_frames, hash_first_frames, read_first_frame
from pipelines.inputs.models import load_latte, model_paths
from pipelines.inputs.samples import sample_folder, set_name
from pipelines.parts.sample.plan import plan_samples
from pipelines.run.ema_snapshots import PowerAverages
from pipelines.run.ranks import disconnect

ROOT = Path(__file__).resolve().parents[2]
CLIP = (9, 32, 32)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A tiny autoencoder, a Latte that knows clean keyframes, a weaker one, and one with a probe for previews."""
    folder = tmp_path_factory.mktemp("models")
    autoencoder = tiny_vae("default")
    shapes = autoencoder.latent_shapes(CLIP)
    autoencoder.save_pretrained(folder / "vae")
    model = tiny_latte(shapes, awake=True, clean_keyframe_share=0.3)
    for parameter in model.parameters():
        parameter.data.mul_(0.5)
    model.save_pretrained(folder / "latte")
    probed = tiny_records(shapes, clean_keyframe_share=0.3)
    for part, entry in probed["architecture"]["parts"].items():
        c, t, _, _ = entry["shape"]
        probe = {"weight": np.full((3, c), 0.1).tolist(), "bias": [0.0, 0.0, 0.0]}
        entry["rgb"] = {"times": 3, ("first" if part == "keyframe" else "rest"): probe}
    Latte(**probed).save_pretrained(folder / "probed")
    for parameter in model.parameters():
        parameter.data.mul_(0.9)
    model.save_pretrained(folder / "weaker")
    return folder


@pytest.fixture(scope="module")
def base(models: Path) -> Experiment:
    own = ["save=[lossless]", "steps=3", "classes=[up,0]", f"vae={models / 'vae'}", f"latte={models / 'latte'}"]
    return nano(models, *(f"sample.{argument}" for argument in own))


@pytest.fixture
def configure(base: Experiment, tmp_path: Path):
    def change(run: str = "run", **options) -> Experiment:
        own = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        return replace(base, run=replace(base.run, root=str(tmp_path), name=run), sample=replace(base.sample, **own))

    return change


def videos(config: Experiment) -> dict[str, Tensor]:
    folder = sample_folder(config)
    plan = json.loads((folder / "samples.json").read_text())
    return {entry["name"]: load_file(folder / "lossless" / f"{entry['name']}.safetensors")["video"] for entry in plan}


def generated(config: Experiment, weak_model: Latte | None = None) -> dict[str, Tensor]:
    """The same videos without any file."""
    latte, vae = model_paths(config)
    model, cpu = load_latte(latte, torch.device("cpu")), torch.device("cpu")
    plan = plan_samples(config, model)
    made = sample.generate_videos(model, sample.load_autoencoder(vae), plan, config, cpu, weak_model)
    return {entry["name"]: video for entry, video in zip(plan, made, strict=True)}


def difference(one: Tensor, other: Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


def run_as(rank: int, port: int, config: Experiment) -> None:
    """One of two processes, as torchrun would start it."""
    PartialState._reset_state()
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in places.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    sample.run(config)
    disconnect()


def test_processes_share_the_videos_and_change_none(configure) -> None:
    alone, shared = configure("alone"), configure("shared", batch_size=1)
    sample.run(alone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    processes = [context.Process(target=run_as, args=(rank, port, shared)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    ours, theirs = videos(alone), videos(shared)
    assert list(ours) == list(theirs) == ["00000-up", "00001-up", "00002-left", "00003-left"]
    assert max(difference(ours[name], theirs[name]) for name in ours) <= 1
    assert (sample_folder(shared) / "grid.gif").exists()


def test_a_video_depends_on_class_and_seed_and_not_on_order(configure) -> None:
    first, second = configure(), configure(classes=("left",), seed=3, per_class=1)
    assert set_name(first) != set_name(second)
    assert difference(generated(first)["00003-left"], generated(second)["00000-left"]) <= 1


def test_only_one_batch_is_in_memory(configure, models: Path) -> None:
    """Thousands of videos: the generator has read no further than the batch that it gives."""
    config = configure(batch_size=2, per_class=1000, steps=1)
    model, vae = (load_latte(models / "latte", torch.device("cpu")), tiny_vae("default").eval())
    plan = plan_samples(config, model)
    assert len(plan) == 2000 and len({entry["name"] for entry in plan}) == 2000
    steps: list[int] = []
    generated = sample.generate_videos(
        model, vae, plan, config, torch.device("cpu"), callback=lambda step, num_steps, clean: steps.append(step)
    )
    for taken, batches in ((1, 1), (2, 1), (3, 2)):
        assert next(generated).shape == (9, 32, 32, 3)
        assert len(steps) == batches, f"{taken} videos taken"


def test_a_given_first_frame_is_the_reconstruction_of_the_picture(configure, models: Path, tmp_path: Path, make_video):
    frames = make_video(3, 40, 56)
    write_video(tmp_path / "clip.mp4", frames, 8)
    config = configure(first_frame=tmp_path / "clip.mp4", per_class=1)
    sample.run(config)
    frame = read_first_frame(tmp_path / "clip.mp4", 32)
    assert frame.shape == (32, 32, 3)
    vae = sample.load_autoencoder(models / "vae")
    with torch.no_grad():
        expected = to_uint8(vae.reconstruct(to_float(frame[None])[None])[0])[0]
    made = videos(config)
    for video in made.values():
        assert difference(video[0], expected) <= 1
    assert difference(*[video[1:] for video in made.values()]) > 1, "another class moves in another way"
    with pytest.raises(ValueError, match="no image or video"):
        sample.run(configure(first_frame="nowhere"))


def test_first_frames_of_a_folder_go_to_the_videos_of_their_class(tmp_path: Path, make_video) -> None:
    for place, name in enumerate(["left/b.png", "left/a.png", "up/c.png", "notes.txt"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith("png"):
            Image.fromarray(make_video(1, 20, 30, seed=place)[0].numpy()).save(tmp_path / name)
        else:
            (tmp_path / name).write_text("none")
    chosen = choose_first_frames(str(tmp_path), ["left", "up", "left", "left", "right", "up"])
    names = [str(file.relative_to(tmp_path)) for file in chosen]
    assert names == ["left/a.png", "up/c.png", "left/b.png", "left/a.png", "left/a.png", "up/c.png"]
    frame = read_first_frame(tmp_path / "left/a.png", 20)
    torch.testing.assert_close(frame, make_video(1, 20, 30, seed=1)[0][:, 5:25])
    known = hash_first_frames(str(tmp_path))
    content = bytearray((tmp_path / "up/c.png").read_bytes())
    content[-1] ^= 1
    (tmp_path / "up/c.png").write_bytes(content)
    assert hash_first_frames(str(tmp_path)) != known, "another picture of the same name and size makes other videos"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken.png"):
        read_first_frame(tmp_path / "broken.png", 20)


def test_an_interpolation_begins_at_one_seed_and_ends_at_the_other(configure) -> None:
    arc = configure(interpolate=(7, 8), per_class=3, classes=("up",), batch_size=2)
    ends = configure(seed=7, per_class=2, classes=("up",))
    first, middle, last = generated(arc).values()
    start, end = generated(ends).values()
    assert difference(first, start) <= 1 and difference(last, end) <= 1
    assert min(difference(middle, first), difference(middle, last)) > 1
    assert set_name(arc).startswith("interpolation-")
    with pytest.raises(ValueError, match="sample.interpolate .*1 .*two"):
        configure(interpolate=(7,))


def test_previews_are_drawn_without_decoding(configure, models: Path) -> None:
    config = configure(preview_every=2, latte=models / "probed", batch_size=3)
    sample.run(config)
    folder = sample_folder(config) / "previews"
    assert sorted(file.name for file in folder.iterdir()) == ["step-00002.gif", "step-00003.gif"]
    with Image.open(folder / "step-00003.gif") as picture:
        assert picture.n_frames == 3 and picture.size[0] > 3 * 16
    without = configure(preview_every=2)
    with pytest.raises(ValueError, match="probe.*cache_latents"):
        sample.run(without)
    assert set_name(without) == set_name(configure()), "previews change no video"


def test_a_weaker_model_guides(configure, models: Path) -> None:
    plain = configure(per_class=1)
    guided = configure(per_class=1, guide=models / "weaker")
    itself = configure(per_class=1, guide=models / "latte")
    unguided = configure(per_class=1, guidance_scale=1.0)
    assert len({set_name(config) for config in (plain, guided, itself)}) == 3
    sample.run(guided)
    same = generated(itself, load_latte(models / "latte", torch.device("cpu")))
    for name, video in generated(unguided).items():
        assert difference(same[name], video) <= 1, "away from itself is nowhere"
        assert difference(videos(guided)[name], video) > 1


def test_a_set_is_completed_and_formats_are_added(configure) -> None:
    config = configure(per_class=1)
    sample.run(config)
    kept = videos(config)
    (sample_folder(config) / "lossless" / "00001-left.safetensors").unlink()
    more = replace(config, sample=replace(config.sample, save=("mp4", "lossless")))
    sample.run(more)
    assert all(torch.equal(video, kept[name]) for name, video in videos(config).items())
    mp4 = read_video(sample_folder(config) / "mp4" / "00001-left.mp4")
    assert mp4.shape == kept["00001-left"].shape


def test_averaged_weights_of_another_length_are_taken_from_snapshots(configure, models: Path, tmp_path: Path) -> None:
    stage = tmp_path / "other" / "train_latte"
    model = load_latte(models / "latte", torch.device("cpu"))
    model.save_pretrained(stage / "last")
    with pytest.raises(ValueError, match="no snapshots of averaged weights"):
        load_latte(stage / "last", torch.device("cpu"), 0.15)
    names = [name for name, _ in model.named_parameters()]
    averages = PowerAverages(list(model.parameters()))
    averages.save(stage, names, 10)
    still = load_latte(stage / "last", torch.device("cpu"), 0.15)
    for name, parameter in still.named_parameters():  # nothing moved; snapshots are stored in fp16
        torch.testing.assert_close(parameter, model.get_parameter(name), rtol=1e-3, atol=1e-5)
    short, long = (configure(ema_length=length) for length in (0.05, 0.1))
    assert set_name(short) != set_name(long)
