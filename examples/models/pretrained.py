"""Weights of PyTorch for the nets of this package: their names, their layouts and their files."""

import importlib
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.models.densenet import DenseNet121
from examples.models.resnet import ResNet
from examples.models.vgg import VGG11
from examples.training.errors import UserError

# The names of leaves in Flax and in PyTorch.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

# Everything except the state of dropout. This includes the frozen parameters of a detector's backbone.
_LOADED = nnx.Not(nnx.RngState)


class WeightsError(UserError):
    """Weights cannot be read, or are not those of the net. The message names the file or the keys."""


def load_torch_state(
    model: ResNet | VGG11 | DenseNet121, state: Mapping[str, Any], *, replace_head: bool = False
) -> None:
    """Puts the weights of the same net in PyTorch into a model: either all of them or none.

    The shardings and dtypes of the model stay. Its logits in evaluation are then those of
    PyTorch, up to rounding. In training, PyTorch's next running variances are larger by
    n/(n-1) for n values in a channel, because Flax keeps the biased variances.

    Args:
      model: a net of `examples.models.create`, changed in place.
      state: real floating-point arrays by key, as in PyTorch's ``state_dict``. An ImageNet
        form has the keys of torchvision and timm. A CIFAR form has those of the paper's
        code: the same, except ``shortcut`` for ``downsample``, ``linear`` for ``fc``, and
        other keys for DenseNet. ``num_batches_tracked`` is not needed.
      replace_head: keep the last linear layer of the model, whatever the state has for
        it. This is for fine-tuning on other classes.

    Raises:
      WeightsError: keys are missing, unexpected or of another shape, or values are not
        finite real numbers in the model's dtype. All of them are listed.
    """
    state = {_modern(key): value for key, value in state.items()}
    places = find_places(model)
    if replace_head:
        head = {key for key, place in places.items() if place.path[0] == "fc"}
        places = {key: place for key, place in places.items() if key not in head}
        state = {key: value for key, value in state.items() if key not in head}
    problems = put_state(model, state, places)
    if problems:
        listed = (f"{what}: {', '.join(keys)}" for what, keys in problems.items())
        raise WeightsError(
            f"these are not the weights of this {type(model).__name__} in its {model.stem} form "
            f"(replace_head=True leaves out the last layer): {'; '.join(listed)}"
        )


class Place(NamedTuple):
    """Where an array of PyTorch goes in a model.

    Attributes:
      path: the path of the variable in the model.
      shape: the shape that the array has in PyTorch.
      to_flax: changes PyTorch's layout into that of the variable.
    """

    path: tuple[Any, ...]
    shape: tuple[int, ...]
    to_flax: Callable[[np.ndarray], np.ndarray]


def find_places(model: ResNet | VGG11 | DenseNet121) -> dict[str, Place]:
    """Returns the place of each of PyTorch's keys in a net of `examples.models.create`."""
    return {
        _torch_key(model, path): Place(path, _torch_layout(variable.shape), to_flax_layout)
        for path, variable in nnx.to_flat_state(nnx.state(model, _LOADED))
    }


def put_state(
    model: nnx.Module, state: Mapping[str, Any], places: Mapping[str, Place]
) -> dict[str, list[str]]:
    """Puts arrays of PyTorch into a model if every array has a place and every place has an array.

    Args:
      model: the model, changed in place. Its shardings and dtypes stay.
      state: the arrays by key. Counters of batches are left out.
      places: the place of each key.

    Returns:
      The keys that do not fit, listed by what is wrong with them. If there are any, the model
      was not changed.
    """
    state = {key: value for key, value in state.items() if not _is_counter(key)}
    variables = dict(nnx.to_flat_state(nnx.state(model, _LOADED)))
    loaded, misshaped, wrong = {}, [], []
    for key in places.keys() & state.keys():
        place, value = places[key], np.asarray(state[key])
        if value.shape != place.shape:
            misshaped.append(f"{key} {value.shape}, not {place.shape}")
        elif problem := _find_problem(key, value, variables[place.path].dtype):
            wrong.append(f"{key} {problem}")
        else:
            loaded[place.path] = place.to_flax(value)
    problems = {
        "missing": sorted(places.keys() - state.keys()),
        "unexpected": sorted(state.keys() - places.keys()),
        "of another shape": sorted(misshaped),
        "not weights": sorted(wrong),
    }
    problems = {what: keys for what, keys in problems.items() if keys}
    if not problems:
        for path, value in loaded.items():
            old = variables[path].get_value()
            variables[path].set_value(jax.device_put(value.astype(old.dtype), old.sharding))
        nnx.update(model, nnx.from_flat_state(variables))
    return problems


def load_file(
    model: ResNet | VGG11 | DenseNet121, path: str | Path, *, replace_head: bool = False
) -> None:
    """Reads a file with `read_file` and loads it with `load_torch_state`."""
    load_torch_state(model, read_file(path), replace_head=replace_head)


def read_file(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict from a ``.safetensors`` or a ``.pth`` file.

    Raises:
      WeightsError: the suffix is another one, the file is missing or damaged, it holds
        anything but tensors by name, or it is a ``.pth`` file and PyTorch is not installed.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth"):
        raise WeightsError(
            f"{path}: expected a .safetensors or a .pth file, or the folder of a run"
        )
    if not path.is_file():
        what = "this is a folder and not a file" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {what}")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401  NumPy then knows bfloat16
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: the .safetensors file cannot be read: {error}") from error


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise WeightsError(
            f"{path}: a .pth file needs PyTorch to be read. Install torch, or use .safetensors"
        ) from error
    # A pickle can run any code. This reads only tensors. It does not compare them with the checksums
    # in the file, so changed bytes would be taken for weights.
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise WeightsError(
                        f"{path}: the file is damaged, at {damaged}: copy or save it again"
                    )
        with warnings.catch_warnings():
            # Of a file with other contents, PyTorch also warns. The error below is enough.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # many kinds of errors, which advise to turn this safety off
        raise WeightsError(
            f"{path}: the file is damaged, or holds more than tensors by name. Save the state dict "
            "again, best as .safetensors"
        ) from error
    if not isinstance(state, Mapping):
        raise WeightsError(
            f"{path}: expected tensors by name, found a {type(state).__name__}: save what "
            "state_dict() returns"
        )
    arrays = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"{path}: expected tensors by name, found a {type(value).__name__} under {key!r}: "
                "save only what state_dict() returns"
            )
        if value.layout != torch.strided or value.is_quantized:
            raise WeightsError(f"{path}: the tensor {key} is sparse or quantized; save it dense")
        value = value.detach()
        # PyTorch cannot convert bfloat16 to NumPy, and float32 can hold all of its numbers.
        arrays[key] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return arrays


def _find_problem(key: str, value: np.ndarray, dtype: Any) -> str | None:
    """Returns what is wrong with an array of weights, or None."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return f"holds {value.dtype} and not floating-point numbers"
    with np.errstate(over="ignore"):
        cast = value.astype(dtype)
    if not np.isfinite(cast.astype(np.float64)).all():
        return f"holds numbers that are not finite as {jnp.dtype(dtype).name}"
    if key.endswith("running_var") and (value < 0).any():
        return "holds negative variances"
    return None


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == "num_batches_tracked"


def _modern(key: str) -> str:
    # The files of torchvision's DenseNet have norm.1 where its code today has norm1.
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=\d\.)", r"\1", key)


def to_flax_layout(value: np.ndarray) -> np.ndarray:
    """Turns (O, I, H, W) into (H, W, I, O) and (O, I) into (I, O). Vectors are unchanged."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _torch_layout(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _torch_key(model: ResNet | VGG11 | DenseNet121, path: tuple[Any, ...]) -> str:
    *modules, leaf = path
    return f"{_MODULES[type(model)](modules, model.stem == 'cifar')}.{LEAVES[leaf]}"


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
            # In PyTorch this is one flat list: convolution, norm and ReLU of every unit, and a pool
            # after each stage.
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
