"""The archives in which the authors of the data sets publish them, with their MD5 sums."""

# By the name of the folder that holds the unpacked files.
ARCHIVES = {
    "cifar-100-python": {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
    "imagenet": {
        "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
        "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    },
    "fgvc-aircraft-2013b": {"fgvc-aircraft-2013b.tar.gz": "d4acdd33327262359767eeaa97a4f732"},
    "stanford_cars": {
        "cars_train.tgz": "065e5b463ae28d29e77c1b4b166cfe61",
        "cars_test.tgz": "4ce7ebf6a94d07f1952d94dd34c4d501",
        "car_devkit.tgz": "c3b158d763b6e2245038c8ad08e45376",
        "cars_test_annos_withlabels.mat": "b0a2b23655a3edd16d84508592a98d10",
    },
    "stanford_dogs": {
        "images.tar": "1bb1f2a596ae7057f99d7d75860002ef",
        "lists.tar": "edbb9f16854ec66506b5f09b583e0656",
    },
    "CUB_200_2011": {"CUB_200_2011.tgz": "97eceeb196236b17998738112f37df78"},
    "coco": {
        "train2017.zip": "cced6f7f71b7629ddf16f17bbcfab6b2",
        "val2017.zip": "442b8da7639aecaf257c1dceb8ba8c80",
        "annotations_trainval2017.zip": "f4bbac642086de4f52a3fdda2de5fa2c",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}


def describe_archives(folder: str) -> str:
    """Returns the archives of a data set with their MD5 sums, or "its files" if there are none."""
    archives = [f"{name} (MD5 {md5})" for name, md5 in ARCHIVES.get(folder, {}).items()]
    return ", ".join(archives) or "its files"
