"""The scoring of components: which frames count for which score, whoever asks."""

import torch

from pipelines.metrics.components import (
    COMPONENT_SCORES,
    FIRST_FRAME,
    SCORED_COMPONENTS,
    score_components,
)
from pipelines.metrics.frame_quality import frame_psnr, psnr, ssim

CLIPS, FRAMES, SIDE = 2, 5, 12


def noise(seed: int, side: int = SIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (CLIPS, FRAMES, side, side, 3), generator=generator, dtype=torch.uint8)


ORIGINAL = noise(0)
SHOWN = {name: noise(seed) for seed, name in enumerate(sorted(SCORED_COMPONENTS), start=1)}


def test_every_score_is_of_its_frames() -> None:
    scores = score_components(SHOWN, ORIGINAL, COMPONENT_SCORES)
    first, others = slice(0, 1), slice(1, None)
    expected = {
        "psnr": psnr(SHOWN["reconstruction"], ORIGINAL),
        "ssim": ssim(SHOWN["reconstruction"], ORIGINAL),
        "psnr_first_frame": psnr(SHOWN["reconstruction"][:, first], ORIGINAL[:, first]),
        "psnr_keyframe": psnr(SHOWN["decoded_keyframe"][:, first], ORIGINAL[:, first]),
        "psnr_copy_first_frame": psnr(SHOWN[FIRST_FRAME][:, others], ORIGINAL[:, others]),
        "psnr_warp_only": psnr(SHOWN["warped"][:, others], ORIGINAL[:, others]),
        "psnr_warp_decoded": psnr(SHOWN["decoded_warped"][:, others], ORIGINAL[:, others]),
    }
    assert scores.keys() == expected.keys() == COMPONENT_SCORES.keys()
    assert all(torch.equal(scores[name], expected[name]) for name in expected)


def test_a_piece_without_a_keyframe_scores_all_frames_as_others() -> None:
    names = ("psnr_keyframe", "psnr_warp_only")
    scores = score_components(SHOWN, ORIGINAL, names, has_keyframe=False, decibel=frame_psnr)
    assert scores.keys() == {"psnr_warp_only"} and scores["psnr_warp_only"].shape == (CLIPS, FRAMES)


def test_what_a_model_or_a_small_frame_does_not_have_is_left_out() -> None:
    small, shown = noise(0, side=8), {"reconstruction": noise(1, side=8)}
    assert score_components(shown, small, COMPONENT_SCORES).keys() == {"psnr", "psnr_first_frame"}
