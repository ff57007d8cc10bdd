"""Scores of a reconstruction and of its components: one function and one vocabulary for all who score them."""

from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from pipelines.metrics.declared import ALWAYS, COUNT, HIGHER, RECONSTRUCTION, Metric, declare
from pipelines.metrics.frame_quality import SSIM_WINDOW, psnr, ssim

FIRST_FRAME = "first_frame"  # beside a model's components: every frame a copy of the true keyframe
KEYFRAME, OTHERS, ALL = "the keyframe", "all other frames", "all frames"
# Score -> (component, by its name in VideoAutoencoder.components; frames on which it is compared with the original).
COMPONENT_SCORES = {
    "psnr": ("reconstruction", ALL),
    "ssim": ("reconstruction", ALL),
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
        "PSNR of the reconstruction in dB, on uint8: mean over all frames of held-out clips, frame 0 included, as "
        "papers print it. Higher is better.",
        HIGHER,
        compared_by="all frames of {clips} held-out clips",
        table=RECONSTRUCTION,
        summary=ALWAYS,
    )
)
declare(
    Metric(
        "ssim",
        "Structural similarity (Wang et al. 2004) of the same frames, 1 = equal.",
        HIGHER,
        compared_by="all frames of {clips} held-out clips",
        table=RECONSTRUCTION,
        summary=ALWAYS,
    )
)
for name, meaning in {
    "psnr_copy_first_frame": "PSNR of the frames after the first when each is a copy of the true first one.",
    "psnr_warp_only": "PSNR, after the first frame, of W(x₀, m): the true keyframe warped by the uncoded motion.",
    "psnr_warp_decoded": "PSNR, after the first frame, of W(x̂₀, m̂): the decoded keyframe warped by the decoded motion.",
}.items():
    compared = "frames after the first of {clips} held-out clips"
    declare(Metric(name, meaning, HIGHER, compared, RECONSTRUCTION, is_detail=True, summary=ALWAYS))
declare(
    Metric(
        "psnr_keyframe",
        "PSNR of the decoded keyframe against the first frame, in dB.",
        HIGHER,
        compared_by="the first frame of {clips} held-out clips",
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
    has_keyframe: bool = True,
    decibel: Callable[[Tensor, Tensor], Tensor] = psnr,
) -> dict[str, Tensor]:
    """Those of COMPONENT_SCORES that are called `names`; what a model does not show has no score.

    psnr and ssim are of all frames; psnr_first_frame and psnr_keyframe of frame 0, where has_keyframe says that it is
    one; all others of the frames that are none. ssim needs frames of 11 x 11.

    shown: {component: (b, t, h, w, 3) uint8}, those of SCORED_COMPONENTS; original: of the same shape. decibel: `psnr`
    gives (b,), the mean over frames, `frame_psnr` (b, t).
    """
    frames = {ALL: slice(None), KEYFRAME: slice(int(has_keyframe)), OTHERS: slice(int(has_keyframe), None)}
    scores = {}
    for name in names:
        component, which = COMPONENT_SCORES[name]
        true = original[:, frames[which]]
        fits = name != "ssim" or min(original.shape[2:4]) >= SSIM_WINDOW
        if component in shown and true.shape[1] and fits:
            scores[name] = (ssim if name == "ssim" else decibel)(shown[component][:, frames[which]], true)
    return scores
