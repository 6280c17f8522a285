"""PyTorch weights in the nets of this package: their names, their layouts, their files."""

import importlib
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from examples.models.densenet import DenseNet121
from examples.models.resnet import ResNet
from examples.models.vgg import VGG11
from examples.training.errors import SettingError

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def load_torch_state(
    model: ResNet | VGG11 | DenseNet121, state: Mapping[str, Any], *, replace_head: bool = False
) -> None:
    """Puts the weights of the same net in PyTorch into a model, all of them or none.

    Shardings and dtypes stay those of the model. In evaluation it then gives PyTorch's
    logits, up to rounding; in training PyTorch's next running variances will be
    n/(n-1) larger, for n values a channel, as Flax keeps the biased ones.

    Args:
      model: a net of `examples.models.create`, changed in place.
      state: arrays by key, as in PyTorch's ``state_dict``: torchvision's and timm's keys
        for an ImageNet form, the paper's code's for a CIFAR form (the same, but
        ``shortcut`` for ``downsample``, ``linear`` for ``fc`` and its own DenseNet).
        ``num_batches_tracked`` is not needed.
      replace_head: leave the last linear layer as it is, whatever the state has for
        it: for fine-tuning on other classes.

    Raises:
      ValueError: keys are missing, unexpected or of another shape; all are listed.
    """
    state = {_modern(key): value for key, value in state.items() if not _is_counter(key)}
    variables = dict(nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))))
    paths = {_torch_key(model, path): path for path in variables}
    if replace_head:
        head = {key for key, path in paths.items() if path[0] == "fc"}
        paths = {key: path for key, path in paths.items() if key not in head}
        state = {key: value for key, value in state.items() if key not in head}

    loaded, misshaped = {}, []
    for key in paths.keys() & state.keys():
        variable = variables[paths[key]]
        value = _flax_layout(np.asarray(state[key]))
        if value.shape == variable.shape:
            loaded[paths[key]] = value
        else:
            expected = _torch_layout(variable.shape)
            misshaped.append(f"{key} {np.shape(state[key])}, not {expected}")
    problems = {
        "missing": sorted(paths.keys() - state.keys()),
        "unexpected": sorted(state.keys() - paths.keys()),
        "of another shape": sorted(misshaped),
    }
    if any(problems.values()):
        lines = [f"  {what}: {'; '.join(keys)}" for what, keys in problems.items() if keys]
        raise SettingError(
            f"this state is not one of this {type(model).__name__} "
            f"({model.stem} form; replace_head=True leaves its last layer out):\n"
            + "\n".join(lines)
        )

    for path, value in loaded.items():
        old = variables[path].get_value()
        variables[path].set_value(jax.device_put(value.astype(old.dtype), old.sharding))
    nnx.update(model, nnx.from_flat_state(variables))


def load_file(
    model: ResNet | VGG11 | DenseNet121, path: str | Path, *, replace_head: bool = False
) -> None:
    """Reads a file by `read_file` and loads it by `load_torch_state`."""
    load_torch_state(model, read_file(path), replace_head=replace_head)


def read_file(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict from a ``.safetensors`` or a ``.pth`` file.

    Raises:
      ValueError: another suffix, or a file that is damaged.
      TypeError: a ``.pth`` file that holds anything but tensors by name.
      ImportError: a ``.pth`` file, and PyTorch is not installed.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        import safetensors.numpy

        try:
            return safetensors.numpy.load_file(path)
        except safetensors.SafetensorError as error:
            raise SettingError(f"{path} is no whole .safetensors file: {error}") from error
    if path.suffix != ".pth":
        raise SettingError(f"{path} is neither a .safetensors nor a .pth file")
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(
            f"{path} needs PyTorch to be read: install torch, or take the .safetensors file"
        ) from error
    # A pickle can run any code; this reads tensors and nothing else.
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise SettingError(f"{path} is no whole .pth file of tensors: {error}") from error
    if not isinstance(state, Mapping):
        raise TypeError(f"{path} holds no state dict but a {type(state).__name__}")
    others = [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise TypeError(f"{path} holds no state dict: {', '.join(others)} are no tensors")
    return {key: value.numpy() for key, value in state.items()}


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == "num_batches_tracked"


def _modern(key: str) -> str:
    # torchvision's DenseNet files say norm.1 for the layer it calls norm1 today.
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=\d\.)", r"\1", key)


def _flax_layout(value: np.ndarray) -> np.ndarray:
    """(O, I, H, W) to (H, W, I, O) and (O, I) to (I, O); vectors stay."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _torch_layout(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _torch_key(model: ResNet | VGG11 | DenseNet121, path: tuple[Any, ...]) -> str:
    *modules, leaf = path
    return f"{_MODULES[type(model)](modules, model.stem == 'cifar')}.{_LEAVES[leaf]}"


def _resnet_module(path: list[Any], cifar: bool) -> str:
    match path:
        case ["fc"]:
            return "linear" if cifar else "fc"
        case ["stages", stage, block, "downsample", i]:
            return f"layer{stage + 1}.{block}.{'shortcut' if cifar else 'downsample'}.{i}"
        case ["stages", stage, block, layer]:
            return f"layer{stage + 1}.{block}.{layer.replace('norm', 'bn')}"
        case _:
            return path[0].replace("norm", "bn")


def _vgg_module(path: list[Any], cifar: bool) -> str:
    match path:
        case ["fc"]:
            return "classifier" if cifar else "classifier.6"
        case ["hidden", i]:
            return f"classifier.{3 * i}"
        case _:
            # One flat list: convolution, norm and ReLU of every unit, a pool a stage.
            _, stage, unit, i = path
            return f"features.{(0, 4, 8, 15, 22)[stage] + 3 * unit + i}"


def _densenet_module(path: list[Any], cifar: bool) -> str:
    if cifar:
        match path:
            case ["fc"]:
                return "linear"
            case ["conv0"]:
                return "conv1"
            case ["blocks", block, i, layer]:
                return f"dense{block + 1}.{i}.{layer.replace('norm', 'bn')}"
            case ["transitions", i, layer]:
                return f"trans{i + 1}.{layer.replace('norm', 'bn')}"
            case _:
                return "bn"
    match path:
        case ["fc"]:
            return "classifier"
        case ["norm"]:
            return "features.norm5"
        case ["blocks", block, i, layer]:
            return f"features.denseblock{block + 1}.denselayer{i + 1}.{layer}"
        case ["transitions", i, layer]:
            return f"features.transition{i + 1}.{layer}"
        case _:
            return f"features.{path[0]}"


_MODULES: dict[type, Callable[[list[Any], bool], str]] = {
    ResNet: _resnet_module,
    VGG11: _vgg_module,
    DenseNet121: _densenet_module,
}
