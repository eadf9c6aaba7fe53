"""How long training takes, by stated rates: one formula for pages, claims and dry runs.

Training passes every image forward once and backward at twice that cost, so it counts three times
a network's MACs for each image. Imports neither torch nor zoo.
"""

__all__ = ["MACS_PER_SECOND", "hours", "training_macs"]

MACS_PER_SECOND = {"cuda": 2e12, "cpu": 25e9}
"""Of one device: what small and mobile networks leave of a data-centre GPU when enough of them
share it, and what a ResNet-20 leaves of one busy core of a virtual machine. On a quiet one it
reaches 40e9, the parent of
results/reference/records/20261121-uniform-resnet20_cifar-cluttered_digits-macs0.5-s0-b2d6c034.json.
Networks that are bound by overhead stay below: timm's smallest, in the same folder, at a fifth.
"""


def training_macs(macs_per_image: int, images: int) -> int:
    """MACs of training on so many images, forward and backward."""
    return 3 * macs_per_image * images


def hours(macs: float, device: str, workers: int = 1) -> float:
    """Hours that so many MACs take.

    Args:
        macs: multiply-adds, forward and backward.
        device: "cpu", "cuda" or "cuda:N".
        workers: processes; on a CPU each has a core of its own, on a GPU they share one device.
    """
    kind = device.partition(":")[0]
    return macs / MACS_PER_SECOND[kind] / 3600 / (workers if kind == "cpu" else 1)
