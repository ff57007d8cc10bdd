"""The only training loop. Both networks are trained here; what differs between them is a `TrainingTask`.

The same command resumes: weights, EMA and optimisers come from the newest checkpoint, everything random is keyed by the
step, so that an interrupted run equals an unbroken one, bit for bit on a CPU.
"""

import sys

import torch

from pipelines.run.folder import StageFolder
from pipelines.run.interruption import Interruption
from pipelines.run.learning_rate import learning_rate
from pipelines.run.progress import Progress
from pipelines.run.random_keys import Draws, key
from pipelines.run.ranks import connect, largest, wait
from pipelines.run.task import LoopConfig, TrainingTask
from pipelines.run.training_state import TrainingState
from pipelines.run.update import accumulate_gradient, take_step


def train(
    task: TrainingTask,
    config: LoopConfig,
    folder: StageFolder,
    seed: int,
    device: str = "auto",
    shard_blocks: type[torch.nn.Module] | None = None,
) -> None:
    """Train until `config.steps`, resuming from what stands in `folder`; returns at once when that many are done.

    Writes metrics.jsonl, tensorboard/, previews/, checkpoints/, and last/, best/ (averaged weights, save_pretrained).
    Raises ValueError for a loss or gradient that is not finite, before it reaches the weights, and for lack of memory.
    Exits with 130 / 143 / 138 on Ctrl-C / SIGTERM / SIGUSR1, after all processes have finished, and saved, one step.
    shard_blocks: see TrainingState.
    """
    ranks = connect(device)
    is_main = ranks.process_index == 0
    if config.global_batch_size % ranks.num_processes:
        raise ValueError(
            f"global_batch_size is {config.global_batch_size}, but must be a multiple of the number of processes, "
            f"{ranks.num_processes}"
        )
    state = TrainingState(task, config, folder.path, ranks.device, shard_blocks)
    first_step = state.resume()
    if first_step >= config.steps:
        if first_step:
            state.publish_again()
        if is_main:
            print(f"{task.stage}: all {config.steps} steps are done already, nothing to train", file=sys.stderr)
        return
    state.require_space()
    folder.reopen()
    folder.cut_log(first_step)
    if is_main and first_step:
        print(f"{task.stage}: going on from step {first_step} of {config.steps}", file=sys.stderr, flush=True)

    batches = task.batches(first_step)
    with (
        torch.random.fork_rng([ranks.device] if ranks.device.type == "cuda" else []),
        Interruption() as interruption,
        Progress(folder, task.stage, first_step, config.steps, is_main, task.best_metric[0]) as progress,
    ):
        progress.restore_sums(state.running)
        for step in range(first_step, config.steps):
            # Dropout and the like use torch's global generator: it starts anew from the step.
            torch.manual_seed(key(seed, task.stage, "global generator", step, ranks.process_index))

            # Update the players in turn, each with its own loss; then average the weights.
            batch = next(batches)
            draws = Draws(seed, task.stage, step, batch["index"])
            lr = learning_rate(config, step)
            state.set_learning_rate(lr)
            updated = task.prepare_step(step)
            for player in updated:
                gradient = accumulate_gradient(state, player, batch, draws, step)
                progress.add(take_step(state, gradient))
            num_done = step + 1
            state.average(num_done, task.ema_player in updated)

            # Report. A GPU still computes this step: what is read is the one before, unless all is wanted.
            is_last = num_done == config.steps
            is_looked_at = any(_is_due(num_done, every) for every in (config.validate_every, config.preview_every))
            progress.read(but_last=0 if is_looked_at else len(updated))
            if num_done % config.log_every == 0 or is_last:
                progress.report(num_done, lr)
            progress.advance()

            # Validate and draw pictures, on the averaged weights.
            if is_last or _is_due(num_done, config.validate_every):
                if is_main or state.is_split:
                    with state.averaged_weights() as model:
                        scores = task.validate(model, num_done)
                    progress.report_validation(num_done, scores)
                    state.publish_if_best(scores)
                wait()
            if _is_due(num_done, config.preview_every):
                if is_main or state.is_split:
                    (folder.path / "previews").mkdir(exist_ok=True)
                    with state.averaged_weights() as model:
                        task.preview(model, folder.path / "previews", num_done)
                wait()

            # Save.
            signal_number = int(largest(interruption.signal_number))
            if is_last or signal_number or _is_due(num_done, config.checkpoint_every):
                state.running = progress.sums()
                state.save(num_done)
                wait()

            # Stop when asked to.
            if signal_number and not is_last:
                if is_main:
                    progress.say(f"saved step {num_done} of {config.steps}; to go on: {interruption.command}")
                raise SystemExit(128 + signal_number)


def _is_due(num_done: int, every: int) -> bool:
    return every > 0 and num_done % every == 0
