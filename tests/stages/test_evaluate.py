"""evaluate: 64 against 64 videos of anybody's, formats and faults of a folder, any autoencoder, a pipeline."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import diffusers
import numpy as np
import pytest
import scipy.linalg
import torch
from nano_run import NANO, nano
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_latte import tiny_latte
from tiny_vae import tiny_vae
from torch import Tensor

from latte.sampler import SamplerConfig
from pipelines import evaluate, export, prepare_data
from pipelines.data.clip_dataset import FixedClips, collate
from pipelines.data.pictures import GAP
from pipelines.data.probe import probe_files
from pipelines.data.shape_drawing import TORUS
from pipelines.data.video_file import read_video, to_uint8, write_gif, write_video
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.inputs.scores import scores_folder
from pipelines.metrics import declared, inception
from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.declared import HELD_OUT_CLIPS, ONE, Metric
from pipelines.metrics.fvd_protocols import PROTOCOLS, real_frame_indices
from pipelines.metrics.i3d_self_check import GOLDEN, Golden
from pipelines.metrics.weight_files import FILES, KNOWN_CONTENT, content_hash
from pipelines.parts.evaluate.autoencoders import DiffusersAutoencoder, open_autoencoder
from pipelines.parts.evaluate.context import Evaluation, SampleSet
from pipelines.parts.evaluate.video_files import check_videos, find_videos
from pipelines.parts.evaluate.video_scores import score_videos

ROOT = Path(__file__).resolve().parents[2]
DATA = "data.shapes={resolution: 32, num_frames: 20, train_per_class: 8, validation_per_class: 2}"
SMALL = ["evaluate.num_videos=-1", "evaluate.i3d_precision=fp32", "evaluate.proxy_clips=0"]
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")


class ToyI3D(torch.nn.Module):
    """The signature of the TorchScript I3D: a fixed linear map of coarse cells, cheap and different for every clip."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(300, 400, generator=generator) / 300**0.5)

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert rescale and resize and return_features
        return torch.nn.functional.adaptive_avg_pool3d(x / 127.5 - 1, [4, 5, 5]).flatten(1) @ self.weight


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prepared clips, and a file of weights whose hash and golden value are known here."""
    root = tmp_path_factory.mktemp("evaluate")
    weights = root / "weights" / "i3d_torchscript.pt"
    weights.parent.mkdir()
    torch.jit.script(ToyI3D()).save(str(weights))
    prepare_data.run(load(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KNOWN_CONTENT, weights.name, ("git-blob", content_hash(weights)))
        patch.setitem(GOLDEN, weights.name, Golden(black_to_white(), 0.01))
        yield root


def black_to_white() -> float:
    """The toy's golden value: its cells are all -1 of a black clip and all 1 of a white one."""
    return (2 * ToyI3D().weight.sum(dim=0)).double().square().sum().item()


def load(root: Path, *arguments: str) -> Experiment:
    return nano(root, f"weights.folder={root / 'weights'}", DATA, *SMALL, *arguments)


def scores_of(config: Experiment) -> dict:
    evaluate.run(config)
    folder = scores_folder(config)
    return json.loads((folder / "scores.json").read_text())


def moving(seed: int, num_frames: int = 16, size: int = 32) -> Tensor:
    """(t, size, size, 3) uint8, a coarse texture that moves."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.integers(0, 256, (1, 3, 4, 5))).float()
    wide = torch.nn.functional.interpolate(coarse, size=(size, size + num_frames), mode="bilinear")[0]
    return torch.stack([wide[:, :, t : t + size] for t in range(num_frames)]).movedim(1, -1).byte().contiguous()


@pytest.fixture(scope="module")
def peers(root: Path) -> Path:
    """64 lossless videos of somebody's, in folders named as the classes."""
    folder = root / "peers"
    for number in range(64):
        path = folder / list(TORUS)[number % 8] / f"{number:03d}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, moving(number).numpy())
    return folder


def toy_features(clips: list[Tensor]) -> np.ndarray:
    with torch.inference_mode():
        video = torch.stack(clips).movedim(-1, 1).float()
        return ToyI3D()(video, True, True, True).double().numpy()


def restated_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The trace of the root from the eigenvalues of the product."""
    covariances = [np.cov(side, rowvar=False, ddof=0) for side in (a, b)]
    eigenvalues = scipy.linalg.eigvals(covariances[0] @ covariances[1])
    between = np.sqrt(np.clip(eigenvalues.real, 0, None)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * between)


def test_64_against_64_videos_of_anybody(root: Path, peers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(root, f"evaluate.samples={peers}")
    scores = scores_of(config)
    record = scores["generation"]["fvd16_record"]
    assert (
        record["id"] == "fvd16-strict-i3d_torchscript-n64-sets1-other-weights"
        and record["name"] == "fvd16"
        and not record["complete"]
    )
    assert (record["num_videos"], record["num_sets"], record["floor"]["num_videos"]) == (64, 1, 32)
    assert record["class_prior"] == "as in the real split" and record["codec"]["samples"] == "lossless"
    assert (record["split"], record["stride"], record["resize"]) == ("train", {"real": 1, "fake": 1}, "antialiased")
    assert record["weights_hash"] == content_hash(root / "weights" / "i3d_torchscript.pt")
    assert {"seeds", "code_version", "samples", "data", "kernel_distance", "inception_score_i3d"} <= record.keys()
    table = capsys.readouterr().out
    assert re.search(rf"fvd16 +\S+ +{record['id']}\n", table) and "real against real, 32 clips" in table

    index = open_index(config)
    entries = sorted(index.split("train"), key=lambda entry: entry.path)
    frames = [real_frame_indices(PROTOCOLS["fvd16-strict"], e.num_frames, 1, i, 0) for i, e in enumerate(entries)]
    real = [read_video(index.root / e.path, chosen) for e, chosen in zip(entries, frames, strict=True)]
    fake = [torch.from_numpy(np.load(file)["arr_0"]) for file in sorted(peers.rglob("*.npz"))]
    expected = restated_distance(toy_features(real), toy_features(fake))
    assert record["value"] == pytest.approx(expected, rel=1e-4)
    assert scores["generation"]["class_accuracy"] is not None and scores["reconstruction"] == {}
    folder = scores_folder(config)
    with Image.open(folder / "samples.webp") as shown:
        assert (shown.n_frames, shown.height, shown.width) == (16, 64, 8 * 64 + 7 * GAP), "one of each class, enlarged"

    before = {file: file.stat().st_mtime_ns for file in (root / ".real_features").rglob("*.safetensors")}
    assert sum(len(load_file(file)["features"]) for file in before) == 64
    shutil.rmtree(folder)
    assert scores_of(config)["generation"]["fvd16"] == record["value"]
    assert {file: file.stat().st_mtime_ns for file in before} == before, "real features are computed once"
    evaluate.run(config)
    assert "scored already" in capsys.readouterr().out


def test_weights_that_were_fetched_since_are_used(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And those that are gone again take no score away."""
    (tmp_path / "videos").mkdir()
    for number in range(3):
        np.save(tmp_path / "videos" / f"{number}.npy", moving(number).numpy())
    weights = tmp_path / "weights"
    options = [f"evaluate.samples={tmp_path / 'videos'}", "evaluate.classifier_seeds=0", f"weights.folder={weights}"]
    config = load(root, *options)
    assert "proxy_fvd16" in scores_of(config)["generation"]
    evaluate.run(config)
    assert "scored already" in capsys.readouterr().out
    shutil.copytree(root / "weights", weights)
    generation = scores_of(config)["generation"]
    assert "fvd16" in generation and "proxy_fvd16" not in generation
    assert "scored before without i3d_torchscript.pt: scoring again" in capsys.readouterr().out
    assert scores_of(config)["generation"] == generation
    shutil.rmtree(weights)
    assert scores_of(config)["generation"] == generation
    assert capsys.readouterr().out.count("scored already") == 2


def test_a_compressed_folder_has_an_id_of_its_own(root: Path, tmp_path: Path) -> None:
    for number in range(6):
        write_video(tmp_path / f"{number}.mp4", moving(number), fps=8)
    options = [f"evaluate.samples={tmp_path}", "evaluate.classifier_seeds=0"]
    record = scores_of(load(root, *options))["generation"]["fvd16_record"]
    assert (
        record["id"] == "fvd16-strict-i3d_torchscript-lossy-n6-sets1-other-weights"
        and record["codec"]["samples"] == "h264"
    )
    assert record["class_prior"].startswith("unknown")
    latte = scores_of(load(root, *options, "evaluate.protocol=fvd16-stylegan-v"))["generation"]["fvd16_record"]
    assert (
        latte["id"] == "fvd16-stylegan-v-h264-n6"
        and latte["codec"]["then_fake"] == ["jpeg75"]
        and latte["floor"] is None
    )
    with pytest.raises(ValueError, match="2048 .*64 .*train"):
        evaluate.run(load(root, *options, "evaluate.num_videos=0"))
    with pytest.raises(ValueError, match="50 generated .*6"):
        evaluate.run(load(root, *options, "evaluate.num_videos=50"))


def test_motions_of_embedded_shapes_are_read(tmp_path: Path) -> None:
    """Held-out clips as somebody's samples: every motion is right, and every picture one of their world."""
    plain = ("look=plain", "resolution=64", "num_frames=17", "train_per_class=1", "validation_per_class=2")
    shapes = [f"data.shapes.{word}" for word in plain]
    options = ("data.resolution=64", "evaluate.judged_videos=8", f"evaluate.samples={tmp_path / 'samples'}")
    config = nano(tmp_path, *shapes, *options)
    prepare_data.run(config)
    index = open_index(config)
    for number, entry in enumerate(sorted(index.split("validation"), key=lambda entry: entry.path)):
        path = tmp_path / "samples" / Path(entry.path).parent.name / f"{number}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, read_video(index.root / entry.path).numpy())
    scores = scores_of(config)["generation"]
    assert scores["class_accuracy"] == scores["class_accuracy_real"] == scores["accepted"] == 1
    assert scores["fidelity"] > 30 and "class_accuracy_first_frame" not in scores
    assert scores["class_accuracy_record"]["id"] == "class-accuracy-plain-n8-f17-files"


def test_every_kind_of_file_is_read(root: Path, tmp_path: Path) -> None:
    video, data = moving(3), load(root).data
    np.save(tmp_path / "a.npy", video.numpy())
    np.savez_compressed(tmp_path / "b.npz", video=video.numpy())
    save_file({"video": video}, tmp_path / "c.safetensors")
    write_video(tmp_path / "d.mkv", video, fps=8)
    write_gif(tmp_path / "e.gif", video, fps=8)
    for kind in ("png", "jpg", "jpeg"):
        (tmp_path / f"frames_{kind}").mkdir()
        for number, frame in enumerate(video.numpy()):
            file = tmp_path / f"frames_{kind}" / f"frame{number}.{kind}"  # frame10 after frame9
            Image.fromarray(frame).save(file, **({"quality": 95} if kind == "jpeg" else {}))
    (tmp_path / "notes.txt").write_text("text is passed over")
    cache = tmp_path / ".cache.jsonl"
    facts = {video.name: video for video in check_videos(tmp_path, find_videos(tmp_path), data, cache)}
    assert {name: entry.codec for name, entry in facts.items()} == {
        **dict.fromkeys(("a.npy", "b.npz", "c.safetensors", "frames_png"), ""),
        "d.mkv": "h264",
        "e.gif": "gif",
        "frames_jpg": "jpeg75",
        "frames_jpeg": "jpeg",
    }
    for name, entry in facts.items():
        assert (entry.num_frames, entry.height, entry.width) == (16, 32, 32), name
        difference = (entry.read(tmp_path, 16).int() - video.int()).abs()
        assert difference.max() == 0 if not entry.codec else difference.float().mean() < 12, name
    again = check_videos(tmp_path, list(facts), data, cache)
    assert again == list(facts.values()), "remembered"


FAULTS = {
    "broken.mp4": ("broken.mp4", lambda p: p.write_bytes(b"\0" * 500)),
    "short.npy .*9 .*fvd16-strict.*16": ("short.npy", lambda p: np.save(p, moving(1, 9).numpy())),
    "odd.npy .*24 x 24.*32 x 32": ("odd.npy", lambda p: np.save(p, moving(1, 16, 24).numpy())),
    "float.npy .*float32.*uint8": (
        "float.npy",
        lambda p: np.save(p, np.zeros((16, 4, 4, 3), "f4")),
    ),
    "cut.npz": ("cut.npz", lambda p: p.write_bytes(b"PK\x03\x04")),
    "pickled.npy": ("pickled.npy", lambda p: np.save(p, np.array([print], dtype=object))),
    "codecs.*lossless, gif": ("other.gif", lambda p: write_gif(p, moving(1), 8)),
    "7.png": ("7.png", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n")),
    "preview.png .*8, 8": (
        "preview.png",
        lambda p: [Image.new("RGB", (s, s)).save(p.with_name(n)) for n, s in (("000.png", 32), ("preview.png", 8))],
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_video_that_cannot_be_scored_is_named(root: Path, tmp_path: Path, message: str) -> None:
    np.save(tmp_path / "fine.npy", moving(0).numpy())
    name, write = FAULTS[message]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        evaluate.run(load(root, f"evaluate.samples={tmp_path}"))


def test_every_broken_file_is_scored_or_named(root: Path, tmp_path: Path, real_clips: Path) -> None:
    """One after the other, as the only video of a folder: facts to be scored by, or a sentence with its name."""
    folder = real_clips / "broken"
    names = sorted(path.name for path in folder.iterdir())
    probe_files(folder, names, load(root).data, tmp_path / "cache.jsonl")  # all at once: the checks below remember
    scored = {}
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / name).symlink_to(folder / name)
        try:
            (facts,) = check_videos(
                tmp_path / name, find_videos(tmp_path / name), load(root).data, tmp_path / "c.jsonl"
            )
        except ValueError as error:
            assert name in str(error) and "\n" not in str(error), name
        else:
            scored[name] = facts
    assert 12 <= len(scored) <= len(names) - 12
    for name, facts in scored.items():
        assert facts.read(tmp_path / name, 1).shape == (1, facts.height, facts.width, 3), name


def test_two_processes_share_the_work(root: Path, peers: Path, tmp_path: Path) -> None:
    """As a user calls it, with more clips than one file of features holds. The distance is that of one process."""
    config = load(root, f"evaluate.samples={peers}", "evaluate.classifier_seeds=0", "evaluate.num_videos=40")
    weights = root / "weights" / "i3d_torchscript.pt"
    script = tmp_path / "evaluate.py"  # the stage, which takes the toy network for the known one
    script.write_text(
        "import runpy\nfrom pipelines.metrics.i3d_self_check import GOLDEN, Golden\n"
        "from pipelines.metrics.weight_files import KNOWN_CONTENT\n"
        f"KNOWN_CONTENT[{weights.name!r}] = {KNOWN_CONTENT[weights.name]!r}\n"
        f"GOLDEN[{weights.name!r}] = Golden({black_to_white()!r}, 0.01)\n"
        f"runpy.run_path({str(ROOT / 'pipelines' / 'evaluate.py')!r}, run_name='__main__')\n"
    )
    options = [f"evaluate.samples={peers}", "evaluate.classifier_seeds=0", "evaluate.num_videos=40"]
    arguments = [f"run.root={root}", f"weights.folder={weights.parent}", DATA, *SMALL, *options]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(script), str(NANO), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = scores_folder(config)
    shared = json.loads((folder / "scores.json").read_text())["generation"]
    assert shared["fvd16_record"]["num_videos"] == 40
    shutil.rmtree(folder)
    shutil.rmtree(root / ".real_features")
    assert scores_of(config)["generation"]["fvd16"] == pytest.approx(shared["fvd16"], rel=1e-10)


def test_no_folder_and_an_empty_one_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        evaluate.run(load(root, "evaluate.samples=nowhere"))
    with pytest.raises(ValueError, match="holds no video"):
        evaluate.run(load(root, f"evaluate.samples={tmp_path}"))


PUBLISHED = {
    "AutoencoderKLWan": {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    "AutoencoderKLCogVideoX": {
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "latent_channels": 4,
    },
    "AutoencoderKLHunyuanVideo": {
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "latent_channels": 4,
    },
    "AutoencoderKLAllegro": {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    "AutoencoderKLTemporalDecoder": {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "layers_per_block": 1,
    },
    "AutoencoderKL": {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 2,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_any_autoencoder_of_diffusers_is_scored(root: Path, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network = getattr(diffusers, name)(**PUBLISHED[name]).eval()
    network.save_pretrained(tmp_path / "vae")  # as in a pipeline's folder
    config = load(root, f"evaluate.vae={tmp_path}", "evaluate.reconstruction_clips=2", "evaluate.rfvd_clips=2")
    scores = scores_of(config)
    assert scores["generation"] == {} and scores["reconstruction"]["clips"] == 2
    clips = FixedClips(open_index(config), config.data, "validation")
    values = []
    for position in (0, len(clips) - 1):
        video = collate([clips[position]])["video"]
        with torch.inference_mode():
            if name in ("AutoencoderKL", "AutoencoderKLTemporalDecoder"):
                frames = video[0].movedim(1, 0)
                length = {"num_frames": len(frames)} if name != "AutoencoderKL" else {}
                latents = network.encode(frames).latent_dist.mode()
                decoded = network.decode(latents, **length).sample.movedim(0, 1)[None]
            elif name == "AutoencoderKLAllegro":  # tiles of its own size, here of the clip's and three frames more
                network.enable_tiling()
                longer = torch.cat([video, video[:, :, -1:].expand(-1, -1, -video.shape[2] % 4, -1, -1)], dim=2)
                network.kernel = network.stride = longer.shape[2:]
                decoded = network.decode(network.encode(longer).latent_dist.mode()).sample.movedim(1, 2)
                decoded = decoded[:, :, : video.shape[2]]
            else:
                decoded = network.decode(network.encode(video).latent_dist.mode()).sample
        differences = (to_uint8(decoded.clamp(-1, 1)).double() - to_uint8(video).double()) / 255
        of_frames = differences.square().mean(dim=(0, 2, 3, 4))  # papers print the mean of the frames' PSNR
        values.append(-10 * torch.log10(of_frames).mean().item())
    assert scores["reconstruction"]["psnr"] == pytest.approx(sum(values) / 2, abs=0.02)
    record = scores["reconstruction"]["rfvd_per_clip_record"]
    assert record["id"] == "rfvd-per-clip-t16-n2-i3d_torchscript" and record["model"] == name
    assert "fvd16" not in json.dumps(scores)


def test_an_autoencoder_pads_what_it_cannot_code_and_refuses_what_is_none(root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = diffusers.AutoencoderKLCogVideoX(**PUBLISHED["AutoencoderKLCogVideoX"])
    video = torch.rand(1, 3, 6, 20, 28) * 2 - 1
    assert DiffusersAutoencoder(network.eval()).components(video)["reconstruction"].shape == video.shape
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match="UNet2DModel"):
        open_autoencoder(tmp_path, torch.device("cpu"))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan"}))
    with pytest.raises(ValueError, match="AutoencoderKLWan .*safetensors"):
        open_autoencoder(tmp_path, torch.device("cpu"))


def test_our_own_autoencoders_are_scored_by_name_alone(root: Path, tmp_path: Path) -> None:
    tiny_vae("default").save_pretrained(tmp_path)
    options = [f"evaluate.vae={tmp_path}", "evaluate.reconstruction_clips=2"]
    scores = scores_of(load(root, *options))["reconstruction"]
    assert scores["psnr_warp_only"] is not None and scores["rfvd_record"]["num_videos"] == 2
    assert "rfvd" not in scores_of(load(root, *options, "evaluate.rfvd_clips=0"))["reconstruction"]


def test_a_pipeline_is_sampled_and_scored(root: Path, tmp_path: Path) -> None:
    """Latents of 9 frames of 32 x 32; fvd-videogpt's 16 frames would be refused, so the protocol is cut."""
    vae = tiny_vae("default")
    vae.save_pretrained(tmp_path / "vae")
    shapes = vae.latent_shapes((17, 32, 32))
    model = tiny_latte(shapes, tuple(TORUS))
    pipeline = export.build_pipeline(model, tmp_path / "vae", SamplerConfig(steps=1))
    pipeline.save_pretrained(tmp_path / "package")
    options = [f"evaluate.samples={tmp_path / 'package'}", "evaluate.num_videos=8", "evaluate.classifier_seeds=0"]
    config = load(root, *options)
    record = scores_of(config)["generation"]["fvd16_record"]
    assert (
        record["id"] == "fvd16-strict-i3d_torchscript-n8-sets1-other-weights"
        and record["codec"]["samples"] == "lossless"
    )
    assert record["class_prior"] == "as in the real split" and len(record["seeds"]["samples"]) == 8
    folder = next((root / "nano" / "evaluate").glob("samples-of-package-*"))
    plan = json.loads((folder / "samples.json").read_text())
    assert [entry["class"] for entry in plan] == list(TORUS)
    videos = {file.name: load_file(file)["video"] for file in (folder / "lossless").iterdir()}
    assert {video.shape for video in videos.values()} == {(17, 32, 32, 3)}

    lost = folder / "lossless" / "00003-MoveDown.safetensors"
    lost.unlink()
    shutil.rmtree(scores_folder(config))
    assert scores_of(config)["generation"]["fvd16_record"]["samples"] == record["samples"], "made again, the same"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "LattePipeline"}')
    with pytest.raises(ValueError, match="LattePipeline.*DecoLattePipeline"):
        evaluate.run(load(root, f"evaluate.samples={tmp_path / 'other'}"))


def test_frame_scores_where_inception_is_there(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights that are taken for the known ones."""
    torch.manual_seed(0)
    network = inception.build_inception()
    shutil.copytree(root / "weights", tmp_path / "weights")
    file = tmp_path / "weights" / FILES["inception"][0]
    torch.save(network.state_dict(), file)
    monkeypatch.setitem(KNOWN_CONTENT, file.name, ("sha256", content_hash(file)[:8]))
    (tmp_path / "videos").mkdir()
    for number in range(3):
        np.save(tmp_path / "videos" / f"{number}.npy", moving(number).numpy())
    options = [f"evaluate.samples={tmp_path / 'videos'}", f"weights.folder={tmp_path / 'weights'}"]
    generation = scores_of(load(root, *options, "evaluate.classifier_seeds=0", "evaluate.frames_per_video=1"))[
        "generation"
    ]
    record = generation["fid_torchvision_record"]
    assert record["id"] == "fid-torchvision-fvd16-strict-f1-n3-sets1" and record["num_videos"] == 3
    assert (record["weights_file"], record["weights_hash"]) == (file.name, content_hash(file))
    logits = inception.split_frames(inception.frame_features(torch.stack([moving(i) for i in range(3)]), network, 1))[1]
    p = torch.softmax(logits.double(), dim=1)
    expected = (p * (p / p.mean(dim=0)).log()).sum(dim=1).mean().exp().item()
    assert generation["inception_score_torchvision"] == pytest.approx(expected, rel=1e-4)
    assert generation["fid_torchvision"] > 0


def test_the_folder_is_named_after_what_decides_about_scores(root: Path, tmp_path: Path) -> None:
    def name(*arguments: str) -> str:
        return scores_folder(load(root, f"evaluate.samples={tmp_path}", *arguments)).name

    assert name("evaluate.i3d_batch_size=9") == name() != name("evaluate.num_sets=2")
    assert name().startswith(f"{tmp_path.name}-")


def test_a_metric_of_videos_is_declared_and_nothing_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def longer(generated: ClipSet, real: ClipSet) -> float:
        return len(generated[0]) / len(real[0])

    metric = Metric("longer", "Frames of a video over those of a real clip.", ONE, HELD_OUT_CLIPS, score=longer)
    monkeypatch.setattr(declared, "_declared", {**declared.declared_metrics(), "longer": metric})
    config = load(root)
    videos = torch.stack([moving(seed, num_frames=34) for seed in range(2)])
    samples = SampleSet(ClipSet.of(videos), ("a", "b"), "", "", 34)
    evaluation = Evaluation(config, open_index(config), torch.device("cpu"), root, samples, None, False)
    scores = score_videos(evaluation)
    assert scores["longer"] == 34 / config.data.num_frames and scores["diversity"] > 0
    table = evaluate.printed_table({"generation": scores}, {"classifier_clips": 7})
    assert re.search(r"longer +2 +7 held-out clips at most", table)
