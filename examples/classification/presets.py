"""The classification runs of the paper by name, with the paper's settings, and small ones."""

import dataclasses

from examples.classification.config import Config

_CIFAR = Config(
    dataset="cifar100",
    model="resnet18",
    stem="cifar",
    epochs=200,
    batch_size=128,
    learning_rate=0.1,
    weight_decay=5e-4,
    milestones=(60, 120, 180),
    gc="conv",
)
_IMAGENET = Config(
    dataset="imagenet",
    model="resnet50",
    epochs=100,
    batch_size=256,
    learning_rate=0.1,
    weight_decay=1e-4,
    milestones=(30, 60, 90),
    gc="conv",
)
_FINE_GRAINED = Config(
    dataset="aircraft",
    model="resnet50",
    epochs=100,
    batch_size=256,
    learning_rate=0.01,
    head_learning_rate=0.1,
    weight_decay=1e-4,
    milestones=(50, 80),
)
_MINI_IMAGENET = dataclasses.replace(
    _IMAGENET, dataset="mini_imagenet", batch_size=128, gc="conv+fc"
)
# Chosen to take seconds to minutes on a laptop. Nothing is tuned, with GC or without.
_SMALL = Config(
    dataset="digits",
    model="resnet8",
    stem="cifar",
    norm="gn",
    width=8,
    epochs=15,
    batch_size=50,
    learning_rate=0.1,
    weight_decay=5e-4,
    schedule="cosine",
)


def _presets() -> dict[str, tuple[str, Config]]:
    replace = dataclasses.replace
    presets = {}
    for model, title in {
        "resnet18": "ResNet-18",
        "resnet101": "ResNet-101",
        "resnext29_4x64d": "ResNeXt-29 (4x64d)",
        "vgg11": "VGG-11",
        "densenet121": "DenseNet-121",
    }.items():
        presets[f"table1-{model}"] = f"Table 1, {title} on CIFAR-100", replace(_CIFAR, model=model)
    for optimizer, rate, decay in (
        ("sgd", 0.1, 5e-4),
        ("adam", 0.001, 5e-4),
        ("adagrad", 0.01, 5e-4),
        ("sgdw", 0.1, 1e-3),
        ("adamw", 0.001, 1e-3),
    ):
        presets[f"table2-{optimizer}"] = (
            f"Table 2, ResNet-50 on CIFAR-100 by {optimizer}",
            replace(
                _CIFAR,
                model="resnet50",
                optimizer=optimizer,
                learning_rate=rate,
                weight_decay=decay,
            ),
        )
    for model in ("resnet50", "resnet101"):
        for norm in ("bn", "gn"):
            figure = " and Figure 6" if (model, norm) == ("resnet50", "gn") else ""
            presets[f"table3-{model}-{norm}"] = (
                f"Table 3{figure}, {model} with {norm.upper()} on ImageNet",
                replace(_IMAGENET, model=model, norm=norm),
            )
    for name in ("aircraft", "cars", "dogs", "cub"):
        presets[f"table4-{name}"] = (
            f"Table 4 and Figure 7, fine-tuning ResNet-50 on {name}; needs --pretrained",
            replace(_FINE_GRAINED, dataset=name),
        )
    presets["figure5-bn"] = "Figure 5, ResNet-50 on Mini-ImageNet", _MINI_IMAGENET
    presets["figure5-bn-ws"] = (
        "Figure 5, ResNet-50 with weight standardization on Mini-ImageNet",
        replace(_MINI_IMAGENET, weight_standardization=True),
    )
    presets["digits"] = "small: ResNet-8 on 8x8 digits", _SMALL
    presets["mnist5k"] = (
        "small: ResNet-8 on 300 images of MNIST at 14x14",
        replace(_SMALL, dataset="mnist5k", epochs=25, train_images=300, pool=2),
    )
    presets["fashion-mnist"] = (
        "small: ResNet-8 on 1000 images of Fashion-MNIST at 14x14",
        replace(
            _SMALL,
            dataset="fashion_mnist",
            epochs=25,
            train_images=1000,
            pool=2,
            evaluate_every=5,
        ),
    )
    presets["fashion-mnist-resnet20"] = (
        "ResNet-20 on all of Fashion-MNIST",
        replace(
            _SMALL,
            dataset="fashion_mnist",
            model="resnet20",
            norm="bn",
            width=None,
            batch_size=128,
        ),
    )
    return presets


# The name of each run, with a title and its settings.
PRESETS = _presets()
