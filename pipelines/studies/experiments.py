"""The experiments that several studies begin with: their options, made tiny where asked, and their autoencoder."""

from collections.abc import Sequence
from pathlib import Path

from pipelines import prepare_data, train_motion, train_vae
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.training_stages import training_stages
from pipelines.run.config import is_yaml, load_config
from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.study import StudySection

SMALL, DEMO = "configs/small_64.yaml", "configs/demo.yaml"
# What training an autoencoder, and what the whole chain, depend on besides their files of options.
AUTOENCODER_CODE = (
    "configs/backbones",
    "vae",
    "pipelines.data",
    "pipelines.run",
    "pipelines.train_motion",
    "pipelines.train_vae",
)
CHAIN_CODE = (
    *(*AUTOENCODER_CODE, "latte", "pipelines.metrics", "pipelines.inputs", "pipelines.parts.evaluate"),
    *("pipelines.parts.sample", "pipelines.cache_latents", "pipelines.train_latte", "pipelines.sample"),
    "pipelines.evaluate",
)
TINY = (
    *("run.threads=1", "run.device=cpu", "data.resolution=32", "data.num_frames=17", "data.probe_workers=1"),
    *("data.shapes.resolution=32", "data.shapes.num_frames=17"),
    *("data.shapes.train_per_class=1", "data.shapes.validation_per_class=2"),
    *("motion.loop.steps=2", "motion.loop.preview_every=0", "motion.validation_clips=1"),
    *("vae.loop.steps=3", "vae.loop.preview_every=0", "vae.validation_clips=1", "vae.adaptation.phase_two_step=2"),
    *("cache.clips_per_video=1", "latte.depth=3", "latte.width=32", "latte.heads=2", "latte.validation_clips=2"),
    *("latte.preview_per_class=1", "latte.preview_classes=1", "latte.loop.steps=2", "latte.loop.preview_every=0"),
    *("latte.loop.global_batch_size=2", "sample.per_class=2", "sample.steps=1"),
    *("motion.loop.log_every=1", "vae.loop.log_every=1", "latte.loop.log_every=1"),
    *("evaluate.num_videos=2", "evaluate.classifier_seeds=1", "evaluate.classifier_steps=2", "evaluate.proxy_clips=4"),
    *("evaluate.judged_videos=4", "evaluate.two_sample_seeds=1", "evaluate.two_sample_steps=2"),
    *("evaluate.reconstruction_clips=2", "evaluate.classifier_clips=8", "weights.folder=no-weights-here"),
)


def load_experiment(options: StudySection, work: Path, name: str, words: Sequence[str]) -> Experiment:
    """The experiment of some YAML files and `key=value` words, as run `name` below `work`, tiny where asked."""
    files = [str(REPOSITORY / word) for word in words if is_yaml(word)]
    own = [word for word in words if not is_yaml(word)]
    tiny = TINY if options.tiny else ()
    return load_config(Experiment, [*files, *own, f"run.root={work}", f"run.name={name}", *tiny], Path(files[0]))


def actions64(options: StudySection) -> list[str]:
    """The words that name the four classes of simple actions; ValueError where the folder of clips lacks them."""
    clips = Path(options.clips)
    for folder in ("actions64", "actions64_splits"):
        if not (clips / folder).is_dir():
            raise ValueError(f"{clips} has no {folder}: set study.clips to such a folder (docs/results/README.md)")
    return [f"data.root={clips / 'actions64'}", f"data.splits={clips / 'actions64_splits'}"]


def train_autoencoder(config: Experiment) -> None:
    """Prepare the clips and train the autoencoder of a run, with a motion module where it needs one."""
    prepare_data.run(config)
    if train_motion.STAGE in training_stages(config):
        train_motion.run(config)
    train_vae.run(config)
