"""Pictures during the training of the motion module."""

from pathlib import Path

import torch

from pipelines.data.pictures import NUM_PREVIEW_CLIPS, film_strip, flow_to_rgb, write_png
from pipelines.data.video_file import to_uint8
from vae.decoupling import split_keyframe
from vae.motion_module import MotionModule
from vae.scale_space_flow import enlarge_motion, warp


@torch.no_grad()
def write_preview(model: MotionModule, video: torch.Tensor, folder: Path, step: int) -> None:
    """One picture: film strips of clip, flow and warp below each other. video: (b, 3, t, h, w) in [-1, 1]."""
    video = video[:NUM_PREVIEW_CLIPS].to(model.device)
    keyframe, _ = split_keyframe(video)
    motion = enlarge_motion(model(video, keyframe), (video.shape[-2], video.shape[-1]))
    warped = warp(keyframe, motion)
    strips = [
        film_strip(pixels, 9)
        for clip in range(len(video))
        for pixels in (to_uint8(video[clip].cpu()), flow_to_rgb(motion[clip]), to_uint8(warped[clip].cpu()))
    ]
    write_png(folder / f"step-{step:08d}.png", torch.cat(strips))
