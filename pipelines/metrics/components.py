"""Scores of a reconstruction and of its components: one function and one vocabulary for all who score them."""

from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from pipelines.metrics.declared import ALWAYS, COUNT, HIGHER, RECONSTRUCTION, Metric, declare
from pipelines.metrics.frame_quality import SSIM_WINDOW, psnr, ssim

FIRST_FRAME = "first_frame"  # beside a model's components: every frame a copy of the true keyframe
KEYFRAME, OTHERS, COUNTED = "the keyframe", "all other frames", "the frames that the caller counts"
# Score -> (component, by its name in VideoAutoencoder.components; frames on which it is compared with the original).
COMPONENT_SCORES = {
    "psnr": ("reconstruction", COUNTED),
    "ssim": ("reconstruction", COUNTED),
    "psnr_first_frame": ("reconstruction", KEYFRAME),
    "psnr_copy_first_frame": (FIRST_FRAME, OTHERS),
    "psnr_warp_only": ("warped", OTHERS),
    "psnr_warp_decoded": ("decoded_warped", OTHERS),
    "psnr_keyframe": ("decoded_keyframe", KEYFRAME),
}
SCORED_COMPONENTS = frozenset(component for component, _ in COMPONENT_SCORES.values())

declare(
    Metric(
        "psnr",
        "PSNR of the reconstruction in dB: frames 1 to T - 1 of held-out clips, on uint8, from the error of the whole "
        "clip, then the mean over clips. Higher is better.",
        HIGHER,
        compared_by="{clips} held-out clips",
        table=RECONSTRUCTION,
        summary=ALWAYS,
    )
)
declare(
    Metric(
        "ssim",
        "Structural similarity of the same frames, 1 = equal.",
        HIGHER,
        compared_by="{clips} held-out clips",
        table=RECONSTRUCTION,
        summary=ALWAYS,
    )
)
for name, meaning in {
    "psnr_copy_first_frame": "The same PSNR when every frame is a copy of the true first one.",
    "psnr_warp_only": "The same PSNR of W(x₀, m): the true keyframe warped by the uncoded motion.",
    "psnr_warp_decoded": "The same PSNR of W(x̂₀, m̂): the decoded keyframe warped by the decoded motion.",
}.items():
    declare(Metric(name, meaning, HIGHER, "{clips} held-out clips", RECONSTRUCTION, is_detail=True, summary=ALWAYS))
declare(
    Metric(
        "psnr_keyframe",
        "PSNR of the decoded keyframe against the first frame, in dB.",
        HIGHER,
        compared_by="{clips} held-out clips",
        table=RECONSTRUCTION,
        is_detail=True,
    )
)
declare(
    Metric(
        "clips",
        "Held-out clips behind the scores above.",
        COUNT,
        compared_by="",
        table=RECONSTRUCTION,
        is_detail=True,
    )
)


def score_components(
    shown: Mapping[str, Tensor],
    original: Tensor,
    names: Collection[str],
    counted: slice = slice(None),
    has_keyframe: bool = True,
    decibel: Callable[[Tensor, Tensor], Tensor] = psnr,
) -> dict[str, Tensor]:
    """Those of COMPONENT_SCORES that are called `names`; what a model does not show has no score.

    psnr and ssim are of the frames `counted`; psnr_first_frame and psnr_keyframe of frame 0, where has_keyframe says
    that it is one; all others of the frames that are none. ssim needs frames of 11 x 11.

    shown: {component: (b, t, h, w, 3) uint8}, those of SCORED_COMPONENTS; original: of the same shape. decibel: `psnr`
    gives (b,), from the error of a whole clip, `frame_psnr` (b, t).
    """
    frames = {COUNTED: counted, KEYFRAME: slice(int(has_keyframe)), OTHERS: slice(int(has_keyframe), None)}
    scores = {}
    for name in names:
        component, which = COMPONENT_SCORES[name]
        true = original[:, frames[which]]
        fits = name != "ssim" or min(original.shape[2:4]) >= SSIM_WINDOW
        if component in shown and true.shape[1] and fits:
            scores[name] = (ssim if name == "ssim" else decibel)(shown[component][:, frames[which]], true)
    return scores
