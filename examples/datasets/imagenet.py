"""ImageNet (ILSVRC 2012) and Mini-ImageNet: folders of JPEG files. Classes are sorted WordNet ids.

ImageNet, from www.image-net.org, has train/<wnid>/*.JPEG, and val/ either in the same folders or
flat, as its archive unpacks. A flat val/ needs ILSVRC2012_devkit_t12/ beside it. The "test" split is
val/, because the labels of ImageNet's own test images are not public.

Mini-ImageNet is read from miniimagenet/{train,test}/<wnid>/*, with 500 + 100 images a class: the
split that the paper uses. Without these folders it is read from the files of Ravi and Larochelle
(github.com/twitter-research/meta-learning-lstm), {train,val,test}.csv and images/. The classes of
those three parts differ, so they are joined, and the first 5 of 6 images of each class are for
training.
"""

import csv
from pathlib import Path

import numpy as np

from examples.datasets.files import (
    ImageFiles,
    check_images,
    check_names,
    expect,
    find_folder,
    list_image_folders,
    list_images,
    read_lines,
    whole_numbers,
)
from examples.datasets.matlab import read_mat
from examples.datasets.types import DatasetError

_DEVKIT = Path("ILSVRC2012_devkit_t12", "data")


def imagenet(split: str, data_dir: Path | None) -> tuple[ImageFiles, tuple[str, ...]]:
    """Lists one split, and looks at the first file of each class. The others are checked when decoded."""
    folder = find_folder(data_dir, "imagenet", "ILSVRC 2012, www.image-net.org")
    if split == "train":
        return _from_folders(folder / "train")
    val = folder / "val"
    with expect(val, "ImageNet's validation images"):
        flat = list_images(val)
    source, classes = _from_flat(folder, flat) if flat else _from_folders(val)
    _same_classes(folder / "train", val, classes)
    return source, classes


def _from_folders(folder: Path) -> tuple[ImageFiles, tuple[str, ...]]:
    found = list_image_folders(folder)
    for wnid, names in found.items():
        if not names:
            raise DatasetError(f"{folder / wnid}: expected image files, found none")
        check_images(folder / wnid, names[:1])
    names = [f"{wnid}/{name}" for wnid, names in found.items() for name in names]
    labels = np.repeat(np.arange(len(found), dtype=np.int32), [len(x) for x in found.values()])
    return ImageFiles(str(folder), names, labels), tuple(found)


def _from_flat(folder: Path, names: list[str]) -> tuple[ImageFiles, tuple[str, ...]]:
    meta = folder / _DEVKIT / "meta.mat"
    truth = folder / _DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
    what = "ImageNet's development kit (tasks 1 and 2), which a val/ without folders by class needs"
    synsets = read_mat(meta, "synsets", what)
    ids = np.array(whole_numbers(truth, read_lines(truth, what)))
    if len(ids) != len(names):
        raise DatasetError(
            f"{truth}: expected a line for each of the {len(names)} images in {folder / 'val'}, found "
            f"{len(ids)}"
        )
    with expect(meta, what):
        # The kit numbers the classes from 1 in its own order, and the inner nodes after them.
        wnids = dict(zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True))
        leaves = sorted(wnids[number] for number in np.unique(ids))
        label = {number: leaves.index(wnids[number]) for number in np.unique(ids)}
    labels = np.array([label[number] for number in ids])
    _, firsts = np.unique(labels, return_index=True)
    check_images(folder / "val", [names[first] for first in firsts])
    return ImageFiles(str(folder / "val"), names, labels), tuple(leaves)


def _same_classes(train: Path, other: Path, classes: tuple[str, ...]) -> None:
    # A class that one side lacks would shift the labels of all classes after it.
    if train.is_dir():
        ours = {path.name for path in train.iterdir() if path.is_dir()}
        if odd := sorted(ours.symmetric_difference(classes)):
            raise DatasetError(
                f"{other}: expected the classes of {train}; they differ in {odd[:5]}"
            )


def mini_imagenet(split: str, data_dir: Path | None) -> tuple[ImageFiles, tuple[str, ...]]:
    """Lists one split, from its folders or from the CSV files, and looks at each file."""
    folder = find_folder(
        data_dir,
        "miniimagenet",
        "{train,test}/<wnid>/, or {train,val,test}.csv and images/ of "
        "github.com/twitter-research/meta-learning-lstm",
    )
    if (folder / "train").is_dir():
        source, classes = _from_folders(folder / split)
        _same_classes(folder / "train", folder / split, classes)
    else:
        source, classes = _from_csv(split, folder)
    check_images(Path(source.root), source.names)
    return source, classes


def _from_csv(split: str, folder: Path) -> tuple[ImageFiles, tuple[str, ...]]:
    members: dict[str, list[str]] = {}
    for part in ("train", "val", "test"):
        path = folder / f"{part}.csv"
        with expect(path, "Mini-ImageNet's list filename,label, or a folder train/"):
            for row in csv.DictReader(path.read_text("utf-8").splitlines(), strict=True):
                label, name = row["label"], row["filename"]
                if not label or not name:
                    raise ValueError(f"the row of {name or label!r} lacks a file name or a label")
                members.setdefault(label, []).append(name)
    check_names(
        folder / "{train,val,test}.csv", [name for each in members.values() for name in each]
    )
    names, labels = [], []
    for label, wnid in enumerate(sorted(members)):
        cut = len(members[wnid]) * 5 // 6
        mine = members[wnid][:cut] if split == "train" else members[wnid][cut:]
        names += mine
        labels += [label] * len(mine)
    source = ImageFiles(str(folder / "images"), names, np.array(labels))
    return source, tuple(sorted(members))
