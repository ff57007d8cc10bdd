"""A stage's folder: one process at a time, freed by any death; other settings or inputs are refused in one sentence."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import train_latte, train_motion, train_vae
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.models import resolve_model
from pipelines.run.folder import StageFolder, read_jsonl
from pipelines.run.stage import select
from pipelines.run.task import may_change

SETTINGS = {"vae": {"width": 8, "shape": (1, 2), "loop": {"steps": 10}}, "run": {"name": "demo", "device": "cpu"}}
HOLDER = """
import os, sys, time
from pipelines.run.folder import StageFolder
folder = StageFolder(sys.argv[1], "demo", "train_vae").open({})
child = os.fork()  # like a data worker, it outlives its parent
if child == 0:
    print(os.getpid(), flush=True)  # it runs: being forked is behind it
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def make(root: Path) -> StageFolder:
    return StageFolder(str(root), "demo", "train_vae")


def test_lock_is_freed_by_kill_even_when_a_forked_worker_survives(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    worker = int(owner.stdout.readline())
    try:
        with pytest.raises(ValueError, match="in use.*run.name="):
            make(tmp_path).open({})
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        os.kill(worker, 0)  # still alive
        with make(tmp_path).open({}):
            pass
    finally:
        owner.kill()
        owner.stdout.close()
        os.kill(worker, signal.SIGKILL)


def test_lock_within_one_process_is_released_at_the_end(tmp_path: Path) -> None:
    with make(tmp_path).open(SETTINGS), pytest.raises(ValueError, match="in use"):
        make(tmp_path).open(SETTINGS)
    with make(tmp_path).open(SETTINGS):
        pass


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    with make(tmp_path).open(SETTINGS):
        pass
    other = {"vae": {"width": 9, "shape": [1, 2], "loop": {"steps": 20}}, "run": SETTINGS["run"]}
    with pytest.raises(
        ValueError, match=r"vae\.loop\.steps \(was 10, now 20\), vae\.width \(was 8, now 9\).*run\.name="
    ):
        make(tmp_path).open(other)
    with pytest.raises(ValueError, match=r"settings: vae\.width \(was 8, now 9\);"):
        make(tmp_path).open(other, may_change=("vae.loop.*",))
    with make(tmp_path).open(SETTINGS):
        pass  # a refusal changes nothing and frees the lock


def test_what_may_change_goes_on(tmp_path: Path) -> None:
    with make(tmp_path).open(SETTINGS):
        pass
    changed = {"vae": {**SETTINGS["vae"], "loop": {"steps": 20}}, "run": {"name": "demo", "device": "cuda"}}
    with make(tmp_path).open(changed, may_change=("vae.loop.steps",)) as folder:
        assert "steps: 20" in (folder.path / "config.yaml").read_text()
        assert json.loads((folder.path / "provenance.json").read_text())["git_commit"]


def test_the_calls_before_a_resume_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(command: str, steps: int) -> dict:
        monkeypatch.setattr(sys, "argv", [command])
        settings = {"vae": {"loop": {"steps": steps}}}
        with make(tmp_path).open(settings, may_change=("vae.loop.steps",)) as folder:
            return json.loads((folder.path / "provenance.json").read_text())

    assert call("first", 1)["earlier_calls"] == []
    second, third, again = call("second", 2), call("third", 3), call("third", 3)
    assert [other["command"] for other in second["earlier_calls"]] == [["first"]]
    assert [other["command"] for other in third["earlier_calls"]] == [["first"], ["second"]]
    assert again == third and third["command"] == ["third"]
    assert third["earlier_calls"][0]["git_commit"] == third["git_commit"]


@pytest.mark.parametrize("stage", [train_motion, train_vae, train_latte], ids=lambda stage: stage.STAGE)
def test_a_folder_of_an_older_version_goes_on(tmp_path: Path, stage) -> None:
    """Its record has no earlier calls, and options of every loop that only some read now."""
    section = stage.STAGE.removeprefix("train_")
    now = select(Experiment(), (section, "run"))
    then = json.loads(json.dumps(now))
    then[section]["loop"] |= {"num_workers": 8}
    then[section]["loop"].setdefault("ema_snapshot_every", 0)
    record = {"settings": then, "inputs": {}, "git_commit": "0e99938", "command": ["pipelines/old.py", "a=b"]}
    folder = make(tmp_path)
    folder.path.mkdir(parents=True)
    (folder.path / "provenance.json").write_text(json.dumps(record, indent=2))
    with folder.open(now, may_change=(*may_change(f"{section}.loop"), *stage.MAY_CHANGE)):
        made = json.loads((folder.path / "provenance.json").read_text())
    assert made["settings"] == now
    assert made["earlier_calls"] == [{"git_commit": "0e99938", "command": ["pipelines/old.py", "a=b"]}]


def test_a_lone_process_writes_whatever_rank_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "1")
    with make(tmp_path).open(SETTINGS) as folder:
        folder.log({"step": 1})
    assert folder.read_log() == [{"step": 1}]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not make(tmp_path).is_main


def test_another_input_is_refused(tmp_path: Path) -> None:
    with make(tmp_path).open(SETTINGS, inputs={"vae": {"path": "runs/a", "hash": "1"}}):
        pass
    with make(tmp_path).open(SETTINGS, inputs={"vae": {"path": "moved/a", "hash": "1"}}):
        pass
    with pytest.raises(ValueError, match="another vae .*content.*moved/a"):
        make(tmp_path).open(SETTINGS, inputs={"vae": {"path": "moved/a", "hash": "2"}})
    with pytest.raises(ValueError, match="another vae .*was moved/a, now runs/b"):
        make(tmp_path).open(SETTINGS, inputs={"vae": {"path": "runs/b", "hash": "2"}})


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="written .*run.root="):
        StageFolder(str(tmp_path / "file"), "demo", "train_vae").open({})


def test_seconds_add_up_and_done_is_marked(tmp_path: Path) -> None:
    with make(tmp_path).open({}) as folder:
        assert folder.done is None
    first = json.loads((folder.path / "time.json").read_text())["seconds"]
    with make(tmp_path).open({}) as folder:
        folder.finish({"index": "index.json"})
        done = folder.done
    assert done is not None
    assert done["outputs"] == {"index": "index.json"}
    assert done["seconds"] >= first
    assert 0.01 < done["peak_rss_gb"] < 50
    folder.reopen()
    assert folder.done is None


def test_log_survives_a_cut_line_and_is_shortened_to_a_step(tmp_path: Path) -> None:
    with make(tmp_path).open({}) as folder:
        for step in range(1, 6):
            folder.log({"step": step})
        with open(folder.path / "metrics.jsonl", "a") as file:
            file.write('{"step": 6, "los')
        assert [line["step"] for line in folder.read_log()] == [1, 2, 3, 4, 5]
        folder.cut_log(3)
        folder.log({"step": 4})
    assert read_jsonl(folder.path / "metrics.jsonl") == [{"step": step} for step in range(1, 5)]
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_models_are_found_in_runs_and_folders(tmp_path: Path) -> None:
    def model(path: str) -> Path:
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "config.json").write_text("{}")
        return tmp_path / path

    here = tmp_path / "here"
    last, best = model("here/train_vae/last"), model("here/train_vae/best")
    other, saved, exported = model("other/train_vae/last"), model("saved"), model("export/vae")
    assert resolve_model("", here, "train_vae") == best
    assert resolve_model("", here, "train_vae", "last") == last
    assert resolve_model(str(tmp_path / "other"), here, "train_vae") == other, "never scored: last stands for both"
    assert resolve_model(str(saved), here, "train_vae") == saved
    assert resolve_model(str(exported.parent), here, "train_vae") == exported
    with pytest.raises(ValueError, match=r"train_latte .*pipelines/train_latte\.py"):
        resolve_model("", here, "train_latte")
