"""Which models a run trains itself, and which it takes from elsewhere."""

from pathlib import Path

from pipelines.inputs.experiment import Experiment


def training_stages(config: Experiment) -> tuple[str, ...]:
    """The training stages that this run needs: what is taken from elsewhere is not trained here."""
    vae, own = config.vae, (Path(config.run.root) / config.run.name).resolve()
    is_given = {
        name: bool(reference) and not Path(reference).resolve().is_relative_to(own)
        for name, reference in (("vae", config.cache.vae), ("latte", config.sample.latte))
    }
    needs_motion = vae.has_motion_module and not (vae.motion_from or vae.init_from)
    needed = {
        "train_motion": needs_motion and not is_given["vae"],
        "train_vae": not is_given["vae"],
        "train_latte": not is_given["latte"],
    }
    return tuple(stage for stage, is_needed in needed.items() if is_needed)
