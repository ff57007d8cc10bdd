"""Ablations: rows and their runs, equal time, the table against numbers worked out by hand, kill and resume."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from pipelines import ablate
from pipelines.prepare_data import run as prepare_data
from pipelines.run.config import load_config
from pipelines.run.folder import write_json
from pipelines.studies.ablation import pool
from pipelines.studies.ablation.options import AblationStudy
from pipelines.studies.ablation.plan import (
    chosen_rows,
    motion_digest,
    plan_jobs,
    row_config,
    settings_digest,
    with_steps,
)
from pipelines.studies.ablation.pool import run_jobs
from pipelines.studies.ablation.scores import METRICS, OF_NETWORKS, group_of
from pipelines.studies.ablation.table import build_table, group_means, to_markdown
from pipelines.studies.ablation.timing import (
    StepClock,
    measure,
    missing_rows,
    moments_of,
    read_timing,
    steps_within_time,
    timing_file,
)

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "tests" / "nano.yaml"
OVERLAYS = {
    "base/plain.yaml": "vae: {name: plain_vae, plain_vae: {encoder: '${vae.deco_vae.decoder}', decoder: "
    "'${vae.deco_vae.decoder}', latent_channels: 6}}",
    "plain.yaml": "vae: {name: nonsense}",
    "wide.yaml": "vae: {deco_vae: {motion_module: {width: 16}}, loop: {lr: 1.0e-3}}",
    "still.yaml": "vae: {deco_vae: {motion: false}}",
    "typo.yaml": "vae: {loop: {stepss: 3}}",
    "other_clips.yaml": "data: {num_frames: 5}",
}
SHORT = (  # as little as a whole ablation can do
    "data.num_frames=5 data.shapes.num_frames=8 data.shapes.train_per_class=1 data.shapes.validation_per_class=1 "
    "motion.loop.steps=2 motion.validation_clips=1 motion.loop.preview_every=0 motion.loop.validate_every=0 "
    "vae.loop.steps=4 vae.validation_clips=1 vae.loop.preview_every=0 vae.loop.validate_every=0 "
    "vae.loop.global_batch_size=2 vae.loop.micro_batch_size=0 ablation.timing_rounds=0 ablation.clips_per_video=1"
)
LONGEST_WAIT_SECONDS = 240


def arguments(folder: Path, *extra: str) -> list[str]:
    for name, text in OVERLAYS.items():
        file = folder / "overlays" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    folders = f"ablation.overlay_folders=[{folder}/overlays/base,{folder}/overlays]"
    return [str(NANO), f"run.root={folder}", folders, *extra]


def experiment(folder: Path, *extra: str) -> AblationStudy:
    return load_config(AblationStudy, arguments(folder, *extra), NANO)


def rows_of(config: AblationStudy) -> dict[str, AblationStudy]:
    return {name: row_config(config, name) for name in chosen_rows(config.ablation)}


# ---------------------------------------------------------------------- rows and runs


def test_a_row_is_the_base_with_its_overlays_and_then_its_options(tmp_path: Path) -> None:
    config = experiment(tmp_path, "ablation.rows={a: {}, b: {overlays: [wide, plain], set: [vae.loop.lr=0.5]}}")
    rows = rows_of(config)
    assert rows["a"] == config
    assert rows["b"].vae.deco_vae.motion_module.width == 16
    assert rows["b"].vae.loop.lr == 0.5  # options come after overlays
    assert rows["b"].vae.name == "plain_vae"  # from the first folder that has the overlay
    assert rows["b"].vae.plain_vae.decoder == config.vae.deco_vae.decoder


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("rows={}", "ablation.rows is empty"),
        ("rows={a: {overlays: [nothing]}}", "no overlay 'nothing'.*choose of .*plain, still"),
        ("rows={a: {overlays: [typo]}}", "ablation.rows.a: .*typo.yaml: .*stepss"),
        ("rows={a: {set: [vae.loop.steps]}}", "ablation.rows.a: argument 'vae.loop.steps'"),
        ("rows={a: {set: [vae.loop.steps=x]}}", "ablation.rows.a: argument 'vae.loop.steps=x'"),
        ("rows={a: {overlays: [other_clips]}}", "ablation.rows.a changes data.num_frames"),
        ("rows={a: {set: [run.seed=3]}}", "ablation.rows.a changes run.seed"),
        ("rows={a: {like: b}}", "a row 'b' that does not exist: choose of a"),
        ("rows={a/b: {}}", "a row 'a/b': use a name of"),
        ("rows={a: {budget: money}}", "ablation.rows.a.budget is 'money'"),
        ("rows={a: {budget: time}}", "gets the time of a, which must have budget steps"),
    ],
)
def test_a_wrong_row_is_answered_in_one_sentence(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        rows_of(experiment(tmp_path, f"ablation.{rows}"))
    assert "\n" not in str(error.value)


def test_rows_that_do_not_exist_cannot_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a row 'c' that does not exist: choose of a, b"):
        chosen_rows(experiment(tmp_path, "ablation.rows={a: {}, b: {}}", "ablation.only=[c]").ablation)


def test_one_motion_module_per_kind_and_seed_and_one_run_per_settings_and_seed(tmp_path: Path) -> None:
    listed = (
        "{a: {}, b: {set: [vae.loop.lr=1]}, wide: {overlays: [wide]}, still: {overlays: [still], seeds: 1}, same: {}}"
    )
    config = experiment(tmp_path, f"ablation.rows={listed}", "ablation.seeds=2", "run.seed=5")
    jobs = {job.name: job for job in plan_jobs(config, rows_of(config), {})}
    motion = [name for name, job in jobs.items() if job.kind == "motion"]
    runs = [name for name, job in jobs.items() if job.kind == "row"]
    assert runs == ["a-seed5", "b-seed5", "wide-seed5", "still-seed5", "a-seed6", "b-seed6", "wide-seed6"]
    assert len(motion) == 4
    assert jobs["a-seed5"].needs == jobs["b-seed5"].needs != jobs["wide-seed5"].needs
    assert jobs["a-seed5"].needs != jobs["a-seed6"].needs
    assert jobs["still-seed5"].needs == ""
    assert jobs["a-seed6"].rows == ("a", "same")
    assert list(jobs).index(jobs["wide-seed5"].needs) < list(jobs).index("wide-seed5")
    for job in jobs.values():
        assert job.config.run.seed == job.seed
        assert job.path == tmp_path / "nano" / job.name
        if job.needs:
            assert Path(job.config.vae.motion_from) == tmp_path / "nano" / job.needs


def test_names_of_settings_do_not_depend_on_where_and_how_a_run_is_watched(tmp_path: Path) -> None:
    config = experiment(tmp_path)
    elsewhere = experiment(tmp_path, "run.root=x", "vae.loop.log_every=7", "motion.loop.log_every=7", "data.root=y")
    longer = experiment(tmp_path, "motion.loop.steps=99")
    assert motion_digest(config) == motion_digest(elsewhere) != motion_digest(longer)
    assert settings_digest(config) == settings_digest(elsewhere) != settings_digest(longer)
    assert motion_digest(config) == motion_digest(experiment(tmp_path, "vae.loop.lr=1"))


# ---------------------------------------------------------------------- equal time


def test_steps_of_equal_time_follow_from_the_measured_ratios(tmp_path: Path) -> None:
    listed = (
        "{a: {}, fast: {overlays: [plain], budget: time}, whole: {overlays: [plain], budget: time, count_motion: true}}"
    )
    config = experiment(tmp_path, f"ablation.rows={listed}", "vae.loop.steps=100", "motion.loop.steps=40")
    rows = rows_of(config)
    timing = {
        "seconds_reference": 2.0,
        "rows": {settings_digest(rows["a"]): {"ratio": 1.0}, settings_digest(rows["fast"]): {"ratio": 0.4}},
        "motion": {motion_digest(rows["a"]): {"ratio": 0.25}},
    }
    # 100 x 1 / 0.4; (100 x 1 + 40 x 0.25) / 0.4
    assert steps_within_time(config, rows, timing) == {"fast": 250, "whole": 275}
    with pytest.raises(ValueError, match="fast has budget time: set ablation.timing_rounds"):
        steps_within_time(config, rows, timing | {"rows": {}})


def test_a_longer_training_keeps_its_phases_at_the_same_fraction(tmp_path: Path) -> None:
    config = experiment(tmp_path, "vae.loop.steps=100", "vae.adaptation.phase_two_step=80", "vae.gan.start_step=50")
    longer = with_steps(config, 250).vae
    assert (longer.loop.steps, longer.adaptation.phase_two_step, longer.gan.start_step) == (250, 200, 125)
    assert moments_of(config) == pytest.approx({0: 0.8, 80: 0.2})
    assert moments_of(experiment(tmp_path, "vae.adaptation.phase_two_step=-1")) == {0: 1.0}


def test_every_row_is_timed_once_against_the_reference(tmp_path: Path) -> None:
    listed = "ablation.rows={plain: {overlays: [plain]}, again: {overlays: [plain]}, a: {}}"
    config = experiment(tmp_path, *SHORT.split(), listed, "ablation.timing_rounds=1", "ablation.timing_steps=1")
    prepare_data(config)
    timing_file(config).parent.mkdir()
    measure(config)
    timing = read_timing(config)
    assert [timed["row"] for timed in timing["rows"].values()] == ["plain", "a"]
    assert timing["rows"][timing["reference"]]["ratio"] == 1
    assert all(len(timed["rounds"]) == 1 for timed in timing["rows"].values())
    assert [timed["row"] for timed in timing["motion"].values()] == ["a"]
    assert timing["seconds_reference"] > 0
    assert missing_rows(config, timing) == []
    more = experiment(tmp_path, *SHORT.split(), listed.replace("a: {}", "a: {}, still: {overlays: [still]}"))
    assert missing_rows(more, read_timing(more)) == ["still"]
    other = replace(config, ablation=replace(config.ablation, reference="a"))
    assert read_timing(other)["rows"] == {}  # ratios to another row


def test_a_gpu_is_waited_for_before_the_clock_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the rest of a step is paid by the next reading, and rows in turns look alike."""
    config = experiment(tmp_path, *SHORT.split())
    prepare_data(config)
    clock, order = StepClock.of_vae(config, config), []
    monkeypatch.setattr(clock, "_train", lambda step: order.append("step"))
    monkeypatch.setattr(clock.state, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append("wait"))
    clock.seconds_per_step(2)
    assert order == ["wait", "step", "step", "wait"] * len(clock.moments)


# ---------------------------------------------------------------------- table


def clip(path: str, stride: int, psnr: float, warp: float | None = None) -> dict:
    others = dict.fromkeys(METRICS, 0.5) | dict.fromkeys(OF_NETWORKS)  # no network was there
    return {"path": path, "stride": stride, "start": 0} | others | {"psnr": psnr, "psnr_warp_only": warp}


def write_run(folder: Path, psnr: float, seconds: float) -> None:
    """Scores of four clips: mean psnr + 2 in group a, psnr + 8 and no warp in group other."""
    clips = [clip("a/x.avi", 1, psnr + 1, 20.0), clip("a/y.avi", 1, psnr + 3, 30.0)]
    clips += [clip("b/x.avi", 1, psnr + 8)]
    model = {"latent_values": 1280, "parameters": {"vae": 10, "motion_module": 2}, "gflops": 1.5}
    (folder / "train_vae").mkdir(parents=True)
    write_json(folder / "scores.json", {"options": {}, "model": model, "clips": clips})
    write_json(folder / "train_vae" / "done.json", {"seconds": seconds, "outputs": {}})


def test_the_table_against_numbers_worked_out_by_hand(tmp_path: Path) -> None:
    listed = (
        "{first: {overlays: [still]}, other: {overlays: [plain]}, later: {overlays: [still], set: [vae.loop.lr=1]}}"
    )
    config = experiment(tmp_path, f"ablation.rows={listed}", "ablation.seeds=2", "ablation.groups=[a]")
    rows = rows_of(config)
    jobs = plan_jobs(config, rows, {"other": 12})
    for name, psnr, seconds in (("first-seed0", 20, 10), ("first-seed1", 22, 14), ("other-seed0", 21, 5)):
        write_run(tmp_path / "nano" / name, psnr, seconds)
    timing = {"seconds_reference": 0.5, "rows": {settings_digest(rows["first"]): {"ratio": 1.0}}, "motion": {}}
    table = build_table(config, rows, jobs, timing, {"later-seed1": "no room"})
    first, other, later = table["rows"]
    # means over groups: (20 + 2 + 20 + 8) / 2 = 25, and 27; standard deviation of (25, 27) is sqrt(2)
    assert first["psnr"] == {"mean": 26.0, "spread": 1.41421, "per_seed": {"0": 25.0, "1": 27.0}}
    assert first["difference"]["per_seed"] == {"0": 0.0, "1": 0.0}
    assert first["psnr_warp_only"]["mean"] == 25.0  # of the only group that has one
    assert first["wall_seconds"] == first["wall_seconds_with_motion"] == 12.0
    assert first["training_seconds"] == first["training_seconds_with_motion"] == 0.5 * config.vae.loop.steps
    assert (first["seconds_per_step"], other["seconds_per_step"]) == (0.5, None)
    assert (first["steps"], other["steps"]) == (config.vae.loop.steps, 12)
    assert other["difference"] == {"mean": 1.0, "spread": None, "per_seed": {"0": 1.0}}
    assert other["groups"]["a"]["psnr"]["mean"] == 23.0
    assert other["groups"]["other"]["difference"]["mean"] == 1.0
    assert (other["seeds"], other["seeds_finished"]) == (2, 1)
    assert later["failed"] == {"later-seed1": "no room"}
    page = to_markdown(table)
    assert "| first | 2 | 26.00 ± 1.41 |" in page
    assert "| other | 1 | 26.00 | +1.00 |" in page
    assert "Not finished: other (1 of 2 runs), later (0 of 2 runs)" in page
    assert "- later-seed1: no room" in page


def test_groups_are_leading_folders_and_strides() -> None:
    assert [group_of(path, ["a", "b/c"]) for path in ("a/x", "ab/x", "b/c/x", "b/x")] == ["a", "other", "b/c", "other"]
    assert group_of("a/x", []) == "all"
    groups = group_means([clip("a/x", 1, 10), clip("a/x", 3, 20), clip("b/x", 3, 40)], ["a"])
    assert {name: values["psnr"] for name, values in groups.items()} == {"a/1": 10, "a/3": 20, "other/3": 40}


# ---------------------------------------------------------------------- whole ablations

LISTED = "ablation.rows={a: {}, plain: {overlays: [plain]}}"
MEASURED = ("wall_seconds", "wall_seconds_with_motion", "git_commits")


def without_times(table: dict) -> dict:
    return table | {"rows": [{k: v for k, v in row.items() if k not in MEASURED} for row in table["rows"]]}


def when(exists: Path, do: Callable[[], None]) -> None:
    """Call `do` from another thread as soon as there is a file or folder."""

    def wait() -> None:
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while not exists.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        do()

    threading.Thread(target=wait, daemon=True).start()


def kill_everything() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    os.kill(os.getpid(), signal.SIGTERM)  # or else the next runs would start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation of two rows and two seeds whose runs were killed in the middle, then started again."""
    folder = tmp_path_factory.mktemp("ablation")
    config = experiment(folder, *SHORT.split(), LISTED, "ablation.seeds=2")
    when(folder / "nano" / "a-seed0" / "train_vae" / "checkpoints" / "step-00000001", kill_everything)
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        ablate.run(config)
    assert not (folder / "nano" / "a-seed0" / "train_vae" / "done.json").exists(), "killed too late to test anything"
    ablate.run(config)
    assert "going on from step" in (folder / "nano" / "a-seed0" / "log.txt").read_text()
    return folder


def test_a_killed_ablation_goes_on_to_the_same_table(folder: Path, tmp_path: Path) -> None:
    unbroken = experiment(tmp_path, *SHORT.split(), LISTED, "ablation.seeds=2", "ablation.processes=1")
    ablate.run(unbroken)
    ours, theirs = (json.loads((root / "nano" / "ablation.json").read_text()) for root in (folder, tmp_path))
    assert without_times(ours) == without_times(theirs)
    assert (folder / "nano" / "ablation.md").read_text().count("| plain | 2 |") == 1
    a, plain = ours["rows"]
    clips = json.loads((folder / "nano" / "plain-seed1" / "scores.json").read_text())["clips"]
    assert len(clips) == len(ours["data"]["validation"])
    assert plain["psnr"]["per_seed"]["1"] == pytest.approx(fmean(clip["psnr"] for clip in clips), abs=1e-4)
    assert plain["psnr_keyframe"] is None and a["psnr_keyframe"]["mean"] > 0
    assert a["latent_values"] == (8 + 2 + 4) * 16  # a keyframe and one group of four frames, on 4 x 4
    assert a["wall_seconds_with_motion"] > a["wall_seconds"]
    assert plain["wall_seconds_with_motion"] == plain["wall_seconds"]
    assert a["parameters"]["motion_module"] > plain["parameters"]["motion_module"] == 0
    assert a["gflops"] > 0


def test_a_finished_ablation_keeps_its_runs_and_takes_in_new_rows_only(folder: Path) -> None:
    options = [*SHORT.split(), "ablation.seeds=2", "ablation.rows={a: {}, still: {overlays: [still], seeds: 1}}"]
    done = folder / "nano" / "a-seed0" / "train_vae" / "done.json"
    before = done.read_text()
    ablate.run(experiment(folder, *options))
    assert done.read_text() == before
    rows = json.loads((folder / "nano" / "ablation.json").read_text())["rows"]
    assert [(row["name"], row["seeds_finished"]) for row in rows] == [("a", 2), ("still", 1)]
    with pytest.raises(ValueError, match=r"/a-seed0 was made with other settings: vae.loop.lr \(was 0.0001, now 0.5\)"):
        ablate.run(experiment(folder, *options, "vae.loop.lr=0.5"))


def test_a_row_that_fails_is_named_and_the_others_end(folder: Path) -> None:
    options = [*SHORT.split(), "ablation.rows={bad: {set: [vae.losses.perceptual=1]}, still: {overlays: [still]}}"]
    with pytest.raises(ValueError, match="1 of 3 runs failed, such as bad-seed0 .*vgg16"):
        ablate.run(experiment(folder, *options))
    bad, still = json.loads((folder / "nano" / "ablation.json").read_text())["rows"]
    assert "vgg16" in bad["failed"]["bad-seed0"]
    assert still["seeds_finished"] == 1


def test_ctrl_c_lets_the_runs_save(tmp_path: Path) -> None:
    config = experiment(tmp_path, *SHORT.split(), "ablation.rows={still: {overlays: [still]}}", "vae.loop.steps=100000")
    prepare_data(config)
    (job,) = plan_jobs(config, rows_of(config), {})
    ablate.share_index(job, config)
    when(job.path / "train_vae" / "metrics.jsonl", lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as stopped:
        run_jobs([job], 1, lambda failed: None)
    assert stopped.value.code == 128 + signal.SIGINT
    assert "saved step" in (job.path / "log.txt").read_text()
    assert list((job.path / "train_vae" / "checkpoints").iterdir())


def test_a_run_that_ended_before_its_log_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment(tmp_path, *SHORT.split(), "ablation.rows={still: {overlays: [still]}}")
    (job,) = plan_jobs(config, rows_of(config), {})
    monkeypatch.setattr(pool, "work", ended_at_once)
    assert run_jobs([job], 1, lambda failed: None) == {"still-seed0": "ended with 3"}
    assert not (job.path / "log.txt").exists()


def ended_at_once(kind: str, experiment: str, log: str) -> None:
    os._exit(3)


def test_a_child_ends_when_its_parent_is_killed() -> None:
    script = (
        "import multiprocessing, time\n"
        "from pipelines.run.interruption import end_with_parent\n"
        "def work():\n    end_with_parent()\n    print('works', flush=True)\n    time.sleep(120)\n"
        "multiprocessing.get_context('fork').Process(target=work).start()\n"
        "time.sleep(120)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"works\n"
    started = time.monotonic()
    process.kill()
    assert process.stdout.read() == b""  # the child's end of the pipe is closed too
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert time.monotonic() - started < 60
