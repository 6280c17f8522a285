"""The four fine-grained data sets of the paper's Table 4, in the folders of their authors' archives.

- FGVC-Aircraft, www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft: fgvc-aircraft-2013b/data/. The
  training images are those of "trainval", and the classes are the 100 variants.
- Stanford Cars, ai.stanford.edu/~jkrause/cars: devkit/, cars_train/, cars_test/ and
  cars_test_annos_withlabels.mat.
- Stanford Dogs, vision.stanford.edu/aditya86/ImageNetDogs: Images/ and {train,test}_list.mat.
- CUB-200-2011, www.vision.caltech.edu/datasets/cub_200_2011: CUB_200_2011/.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.datasets.files import (
    ImageFiles,
    check_images,
    check_names,
    expect,
    find_folder,
    read_lines,
    read_pairs,
    whole_numbers,
)
from examples.datasets.matlab import read_mat
from examples.datasets.types import DatasetError

# The rows at the bottom of every aircraft image that hold a credit. The authors of the data set ask
# for their removal. (The paper's centre crop removes more than that.)
_AIRCRAFT_BANNER = 20


def aircraft(split: str, data_dir: Path | None) -> tuple[ImageFiles, tuple[str, ...]]:
    origin = "FGVC-Aircraft, www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft"
    folder = find_folder(find_folder(data_dir, "fgvc-aircraft-2013b", origin), "data", origin)
    variants = folder / "variants.txt"
    classes = tuple(read_lines(variants, f"the list of classes of {origin}"))
    listed = folder / f"images_variant_{'trainval' if split == 'train' else 'test'}.txt"
    variant_of = read_pairs(listed, f"lines of an image and its variant of {origin}")
    number_of = {name: number for number, name in enumerate(classes)}
    for number, variant in enumerate(variant_of.values(), 1):
        if variant not in number_of:
            raise DatasetError(
                f"{listed}, line {number}: expected a class of {variants}, found {variant[:80]!r}"
            )
    labels = [number_of[variant] for variant in variant_of.values()]
    names = [f"{image}.jpg" for image in variant_of]
    return _source(listed, folder / "images", names, labels, _AIRCRAFT_BANNER), classes


def cars(split: str, data_dir: Path | None) -> tuple[ImageFiles, tuple[str, ...]]:
    origin = "Stanford Cars, ai.stanford.edu/~jkrause/cars"
    folder = find_folder(data_dir, "stanford_cars", origin)
    devkit = folder / "devkit"
    names = read_mat(devkit / "cars_meta.mat", "class_names", f"the class names of {origin}")
    if split == "train":
        path = devkit / "cars_train_annos.mat"
    else:
        path = folder / "cars_test_annos_withlabels.mat"
        # The test file in the kit has no labels. This one is a separate download, which some people
        # put into the kit.
        path = path if path.is_file() else devkit / path.name
    annotations = read_mat(path, "annotations", f"the labelled images of {origin}")
    with expect(path, "a class and a file name for each image"):
        files = [str(name) for name in annotations["fname"]]
        numbers = annotations["class"]
    labels = [number - 1 for number in whole_numbers(path, numbers)]
    return _source(path, folder / f"cars_{split}", files, labels), tuple(
        str(name) for name in names
    )


def dogs(split: str, data_dir: Path | None) -> tuple[ImageFiles, tuple[str, ...]]:
    origin = "Stanford Dogs, vision.stanford.edu/aditya86/ImageNetDogs"
    folder = find_folder(data_dir, "stanford_dogs", origin)
    path = folder / f"{split}_list.mat"
    files = [str(name) for name in read_mat(path, "file_list", f"a list of {origin}")]
    numbers = whole_numbers(path, read_mat(path, "labels", f"a list of {origin}"))
    labels = [number - 1 for number in numbers]
    with expect(path, "a label for each file, and a folder for each label"):
        # The name of a class is in that of its folder, such as n02085620-Chihuahua.
        name_of = {
            label: file.split("/")[0].split("-", 1)[1]
            for label, file in zip(labels, files, strict=True)
        }
        classes = tuple(name_of[label] for label in range(len(name_of)))
    return _source(path, folder / "Images", files, labels), classes


def cub(split: str, data_dir: Path | None) -> tuple[ImageFiles, tuple[str, ...]]:
    origin = "CUB-200-2011, www.vision.caltech.edu/datasets/cub_200_2011"
    folder = find_folder(data_dir, "CUB_200_2011", origin)
    images, classes, class_of, in_train = (
        read_pairs(folder / name, f"a list of {origin}")
        for name in ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    with expect(folder, "lists that name the same images and classes"):
        wanted = "1" if split == "train" else "0"
        chosen = [number for number in images if in_train[number] == wanted]
        numbers = [class_of[number] for number in chosen]
        # The classes are called 001.Black_footed_Albatross and so on, and are numbered from 1.
        names = tuple(classes[str(i + 1)].split(".", 1)[1] for i in range(len(classes)))
    labels = [number - 1 for number in whole_numbers(folder / "image_class_labels.txt", numbers)]
    files = [images[number] for number in chosen]
    return _source(folder / "images.txt", folder / "images", files, labels), names


def _source(
    listed: Path, root: Path, names: Sequence[str], labels: Sequence[int], cut_bottom: int = 0
) -> ImageFiles:
    check_names(listed, names)
    check_images(root, names)
    return ImageFiles(str(root), names, np.array(labels), cut_bottom)
