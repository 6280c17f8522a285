"""Tiny data sets in the formats of the real ones. Image k is of one colour, `grey(k)`."""

import gzip
import io
import json
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.io
from PIL import Image

from examples import datasets
from examples.datasets.outlines import encode_mask

WNIDS = ("n01440764", "n01443537", "n02085620")


def grey(k: int) -> int:
    return 10 + 7 * k


def published(monkeypatch, name: str, train: int, test: int, classes: int) -> None:
    """Sets the published sizes of a data set to those of the one that is built."""
    reader, _ = datasets._SETS[name]
    monkeypatch.setitem(datasets._SETS, name, (reader, (train, test, classes)))


def write_image(path: Path, k: int, size: tuple[int, int] = (40, 30), **options) -> None:
    """Writes an image of `size` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # ImageNet's files are named .JPEG, but some of them contain PNG, CMYK or grey images.
    Image.new("RGB", size, (grey(k),) * 3).save(path, **({"format": "JPEG"} | options))


_Pickler: Any = pickle._Pickler  # the one in Python, whose methods can be replaced


class Python2Pickler(_Pickler):
    """Writes strings, bytes and dtypes as Python 2 did with protocol 2."""

    dispatch: ClassVar = dict(_Pickler.dispatch)

    def save_string(self, obj):
        raw = obj.encode("latin1") if isinstance(obj, str) else obj
        if len(raw) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = save_string

    def reducer_override(self, obj):
        if isinstance(obj, np.dtype):
            return np.dtype, (obj.str[1:], 0, 1), (3, obj.str[0], None, None, None, -1, -1, 0)
        return NotImplemented


def python2_pickle(value) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def cifar100(folder: Path, dump=python2_pickle, train: int = 12, test: int = 6) -> Path:
    """Image k has class k % 3 and, at channel c, row y, column x, the value (k + c + y + 2x) % 256."""
    folder = folder / "cifar-100-python"
    folder.mkdir(parents=True)
    (folder / "meta").write_bytes(
        dump({"fine_label_names": ["apple", "bear", "cloud"], "coarse_label_names": ["thing"]})
    )
    c, y, x = np.ogrid[:3, :32, :32]
    for split, size in {"train": train, "test": test}.items():
        k = np.arange(size).reshape(-1, 1, 1, 1)
        batch = {
            "filenames": [f"{i}.png" for i in range(size)],
            "batch_label": f"{split} batch",
            "fine_labels": [i % 3 for i in range(size)],
            "coarse_labels": [0] * size,
            "data": ((k + c + y + 2 * x) % 256).astype(np.uint8).reshape(size, 3072),
        }
        (folder / split).write_bytes(dump(batch))
    return folder


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    content += array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def fashion_mnist(folder: Path, end: str = ".gz", train: int = 20, test: int = 10) -> Path:
    """Image k is all k, of class k % 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, size in {"train": train, "t10k": test}.items():
        k = np.arange(size, dtype=np.uint8)
        images = np.broadcast_to(k[:, None, None], (size, 28, 28))
        write_idx(folder / f"{stem}-images-idx3-ubyte{end}", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte{end}", k % 10)
    return folder


def class_folders(folder: Path, per_class: int, size: tuple[int, int] = (40, 30)) -> Path:
    """Image k in sorted order is number k % per_class of class k // per_class."""
    for label, wnid in enumerate(WNIDS):
        for i in range(per_class):
            write_image(folder / wnid / f"{wnid}_{i}.JPEG", label * per_class + i, size)
    return folder


def imagenet(folder: Path, flat: bool) -> Path:
    """Three classes of four training images; six validation images of classes 2, 0, 1, 2, 0, 1."""
    class_folders(folder / "train", 4)
    if not flat:
        class_folders(folder / "val", 2)
        return folder
    for k in range(6):
        write_image(folder / "val" / f"ILSVRC2012_val_{k + 1:08}.JPEG", k)
    kit = folder / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    # In the kit, the sorted classes have the numbers 3, 1 and 2, and an inner node comes last.
    wnids = [WNIDS[2], WNIDS[0], WNIDS[1], "n00001740"]
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    synsets = np.empty((4, 1), kinds)
    for i, wnid in enumerate(wnids):
        synsets[i, 0] = (float(i + 1), wnid, 3.0 if i == 3 else 0.0)
    scipy.io.savemat(kit / "meta.mat", {"synsets": synsets})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n1\n2\n3\n")
    return folder


def mini_imagenet_csv(folder: Path) -> Path:
    """Each list has one class with six images. Image k is number k % 6 of class k // 6."""
    for label, (part, wnid) in enumerate(zip(("train", "val", "test"), WNIDS, strict=True)):
        rows = ["filename,label"]
        for i in range(6):
            name = f"{wnid}{i:08}.jpg"
            write_image(folder / "images" / name, label * 6 + i, (84, 84))
            rows.append(f"{name},{wnid}")
        (folder / f"{part}.csv").write_text("\n".join(rows) + "\n")
    return folder


def aircraft(folder: Path) -> Path:
    """Four training and two test images, 40 x 60, with a white banner of 20 rows."""
    data = folder / "fgvc-aircraft-2013b" / "data"
    lists = {"trainval": ("707-320", "BAE 146-200", "707-320", "DHC-8-100"), "test": ("DHC-8-100",)}
    k = 0
    for split, variants in lists.items():
        lines = []
        for variant in variants:
            image = np.full((60, 40, 3), grey(k), np.uint8)
            image[40:] = 255
            path = data / "images" / f"{1000 + k:07}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=100, subsampling=0)
            lines.append(f"{path.stem} {variant}\n")
            k += 1
        (data / f"images_variant_{split}.txt").write_text("".join(lines))
    (data / "variants.txt").write_text("707-320\nBAE 146-200\nDHC-8-100\n")
    return folder


def cars(folder: Path) -> Path:
    folder = folder / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array(["AM General Hummer", "Acura RL", "Acura TL"], object).reshape(1, -1)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    kinds = [("bbox_x1", object), ("class", object), ("fname", object)]
    k = 0
    for split, classes, path in (
        ("train", (3, 1, 2, 1), folder / "devkit" / "cars_train_annos.mat"),
        ("test", (2, 3), folder / "cars_test_annos_withlabels.mat"),
    ):
        annotations = np.empty((1, len(classes)), kinds)
        for i, number in enumerate(classes):
            annotations[0, i] = (np.uint8(1), np.uint8(number), f"{i + 1:05}.jpg")
            write_image(folder / f"cars_{split}" / f"{i + 1:05}.jpg", k)
            k += 1
        scipy.io.savemat(path, {"annotations": annotations})
    return folder


def dogs(folder: Path) -> Path:
    folder = folder / "stanford_dogs"
    breeds = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
    k = 0
    for split, labels in {"train": (1, 1, 2), "test": (1, 2)}.items():
        files = []
        for label in labels:
            files.append(f"{breeds[label - 1]}/{breeds[label - 1][:9]}_{k}.jpg")
            write_image(folder / "Images" / files[-1], k)
            k += 1
        cells = np.array(files, object).reshape(-1, 1)
        labels = np.array(labels, np.uint8).reshape(-1, 1)
        scipy.io.savemat(folder / f"{split}_list.mat", {"file_list": cells, "labels": labels})
    return folder


def cub(folder: Path) -> Path:
    folder = folder / "CUB_200_2011"
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    images, labels, splits = [], [], []
    for k, (label, in_train) in enumerate([(1, 0), (1, 1), (2, 1), (2, 0), (2, 1)]):
        name = f"{names[label - 1]}/{names[label - 1][4:]}_{k}.jpg"
        write_image(folder / "images" / name, k)
        images.append(f"{k + 1} {name}\n")
        labels.append(f"{k + 1} {label}\n")
        splits.append(f"{k + 1} {in_train}\n")
    (folder / "images.txt").write_text("".join(images))
    (folder / "image_class_labels.txt").write_text("".join(labels))
    (folder / "train_test_split.txt").write_text("".join(splits))
    (folder / "classes.txt").write_text("".join(f"{i + 1} {n}\n" for i, n in enumerate(names)))
    return folder


def coco(folder: Path) -> Path:
    """Writes two splits of three images, with polygons, runs of both kinds, and a crowd."""
    mask = np.zeros((30, 40), bool)
    mask[5:15, 8:20] = True
    runs = encode_mask(mask)
    flat = {"size": [30, 40], "counts": [8 * 30 + 5, *[10, 20] * 11, 10, 20 * 30 + 15]}
    outlines = [[[8, 5, 20, 5, 20, 15, 8, 15]], runs, flat, runs]
    for split in ("train", "test"):
        for k in range(3):
            write_image(folder / split / f"{k}.jpg", k)
        images = [{"id": k, "file_name": f"{k}.jpg", "height": 30, "width": 40} for k in range(3)]
        annotations = [
            {
                "id": number,
                "image_id": number % 2,
                "category_id": 1 + number % 2,
                "bbox": [8, 5, 12, 10],
                "area": 120,
                "iscrowd": int(number == 3),
                "segmentation": outline,
            }
            for number, outline in enumerate(outlines)
        ]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = folder / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder
