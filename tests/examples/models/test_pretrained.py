"""PyTorch's weights are loaded if they fit, and are refused otherwise."""

import functools
import sys
import types
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import save_file

from examples import models
from examples.models import pretrained
from examples.models.pretrained import WeightsError

make = functools.partial(models.create, "resnet8", num_classes=10, stem="cifar", width=8)
loadable = (nnx.Param, nnx.BatchStat)


def state_of(model, value=0.5) -> dict[str, Any]:
    """Returns constant weights for every key of a net."""
    return {
        pretrained._torch_key(model, path): np.full(
            pretrained._torch_layout(x.shape), value, np.float32
        )
        for path, x in nnx.to_flat_state(nnx.state(model, loadable))
    }


@pytest.fixture
def model():
    return make(rngs=nnx.Rngs(0))


def leaves(model):
    return [np.array(x) for x in jax.tree.leaves(nnx.state(model, loadable))]


def test_weights_get_the_layouts_and_dtypes_of_the_model(model):
    state = state_of(model)
    state["conv1.weight"] = np.arange(8 * 3 * 9, dtype=np.float64).reshape(8, 3, 3, 3)
    state["linear.weight"] = np.arange(320, dtype=np.float16).reshape(10, 32)
    state["conv1.num_batches_tracked"] = np.array(7)
    pretrained.load_torch_state(model, state)
    np.testing.assert_array_equal(
        model.conv1.kernel[...], state["conv1.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(model.fc.kernel[...], state["linear.weight"].T)
    assert {x.dtype for x in leaves(model)} == {np.dtype("float32")}


def test_model_without_arrays_gets_them():
    model = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    pretrained.load_torch_state(model, state_of(model))
    assert all((x == 0.5).all() for x in leaves(model))


@pytest.mark.eight_devices
def test_sharding_is_kept(model):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P(None, None, None, "fsdp"))
    model.conv1.kernel.set_value(jax.device_put(model.conv1.kernel[...], sharding))
    pretrained.load_torch_state(model, state_of(model))
    assert model.conv1.kernel[...].sharding == sharding
    assert (model.conv1.kernel[...] == 0.5).all()


def test_all_that_does_not_fit_is_in_one_error_and_nothing_is_loaded(model):
    before = leaves(model)
    state = state_of(model)
    del state["bn1.weight"], state["layer2.0.shortcut.1.running_var"]
    state["conv9.weight"] = np.ones(3)
    state["conv1.weight"] = np.ones((64, 3, 7, 7))
    with pytest.raises(WeightsError, match="ResNet") as error:
        pretrained.load_torch_state(model, state)
    message = str(error.value)
    assert "\n" not in message
    assert "missing: bn1.weight, layer2.0.shortcut.1.running_var;" in message
    assert "unexpected: conv9.weight;" in message
    assert message.endswith("of another shape: conv1.weight (64, 3, 7, 7), not (8, 3, 3, 3)")
    for a, b in zip(before, leaves(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_weights_of_another_net_are_refused(model):
    other = models.create("resnet20", num_classes=10, stem="cifar", width=8, rngs=nnx.Rngs(0))
    with pytest.raises(WeightsError, match=r"unexpected: layer1\.1\.bn1\.bias, "):
        pretrained.load_torch_state(model, state_of(other))


def test_other_classes_need_a_new_head(model):
    state = state_of(make(num_classes=100, rngs=nnx.Rngs(1)))
    with pytest.raises(WeightsError, match=r"replace_head=True.*linear\.bias \(100,\), not"):
        pretrained.load_torch_state(model, state)
    head = np.array(model.fc.kernel[...])
    pretrained.load_torch_state(model, state, replace_head=True)
    np.testing.assert_array_equal(model.fc.kernel[...], head)
    assert (model.conv1.kernel[...] == 0.5).all()
    with pytest.raises(WeightsError, match=r"missing: bn1\.bias$"):
        pretrained.load_torch_state(
            model, {k: v for k, v in state.items() if k != "bn1.bias"}, replace_head=True
        )


def test_old_densenet_files_put_a_dot_before_the_number():
    key = "features.denseblock1.denselayer12.norm.1.weight"
    assert pretrained._modern(key) == "features.denseblock1.denselayer12.norm1.weight"
    for key in (
        "features.transition1.norm.weight",
        "features.denseblock1.denselayer2.conv2.weight",
    ):
        assert pretrained._modern(key) == key


def test_a_safetensors_file_is_loaded(model, tmp_path):
    save_file(state_of(model), tmp_path / "net.safetensors")
    pretrained.load_file(model, tmp_path / "net.safetensors")
    assert all((x == 0.5).all() for x in leaves(model))


def test_a_safetensors_file_cut_short_is_named(model, tmp_path):
    file = tmp_path / "net.safetensors"
    save_file(state_of(model), file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        WeightsError, match=r"net\.safetensors: the \.safetensors file cannot be read"
    ):
        pretrained.load_file(model, file)
    assert not any((x == 0.5).all() for x in leaves(model))


class Tensor:
    """The part of a PyTorch tensor that the reader uses."""

    layout, dtype, is_quantized = "strided", "float32", False

    def detach(self):
        return self

    def numpy(self):
        return np.ones(2, np.float32)


@pytest.fixture
def torch_file(monkeypatch):
    """Replaces PyTorch, records how it is called, and returns what it should load."""
    torch = types.ModuleType("torch")
    torch.__dict__.update(Tensor=Tensor, calls=[], strided="strided", bfloat16="bfloat16")

    def load(path, **options):
        torch.__dict__["calls"].append(options)
        return torch.__dict__["content"]

    torch.__dict__["load"] = load
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch.__dict__


@pytest.fixture
def path(tmp_path):
    (tmp_path / "net.pth").touch()
    return tmp_path / "net.pth"


def test_pth_file_is_read_as_weights_only(torch_file, path):
    torch_file["content"] = {"bn1.weight": Tensor()}
    state = pretrained.read_file(path)
    assert torch_file["calls"] == [{"map_location": "cpu", "weights_only": True}]
    np.testing.assert_array_equal(state["bn1.weight"], [1, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "bn1.weight": Tensor()}, "found a int under 'epoch'"),
        ({3: Tensor()}, "found a Tensor under 3"),
        ([1], "expected tensors by name, found a list"),
    ],
)
def test_a_pth_file_of_something_else_is_refused(torch_file, path, content, message):
    torch_file["content"] = content
    with pytest.raises(WeightsError, match=message):
        pretrained.read_file(path)


def test_a_damaged_pth_file_is_named_without_advice_to_turn_safety_off(torch_file, path):
    def load(path, **options):
        raise RuntimeError("Re-running torch.load with weights_only=False will likely succeed")

    torch_file["load"] = load
    with pytest.raises(WeightsError, match=r"net\.pth: the file is damaged") as error:
        pretrained.read_file(path)
    assert "weights_only" not in str(error.value)


def test_a_changed_byte_in_a_pth_file_is_found_by_its_checksum(torch_file, path):
    # PyTorch's files are ZIP archives, whose checksums it does not check.
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data/0", bytes(1000))
    torch_file["content"] = {"bn1.weight": Tensor()}
    pretrained.read_file(path)
    content = bytearray(path.read_bytes())
    content[500] ^= 255
    path.write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"net\.pth: the file is damaged, at net/data/0: copy or save it again$"
    ):
        pretrained.read_file(path)


def test_pth_file_needs_pytorch(monkeypatch, path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WeightsError, match=r"Install torch, or use \.safetensors"):
        pretrained.read_file(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"net\.bin: expected a \.safetensors or a \.pth file"):
        pretrained.read_file("net.bin")
    with pytest.raises(WeightsError, match=r"gone\.safetensors: no such file"):
        pretrained.read_file(tmp_path / "gone.safetensors")


def test_evaluation_uses_the_loaded_statistics(model):
    pretrained.load_torch_state(model, state_of(model, value=1.0))
    model.eval()
    # Every norm maps x to (x - 1) / sqrt(1 + 1e-5) + 1.
    np.testing.assert_allclose(model.norm1(jnp.full((1, 2, 2, 8), 3.0)), 3.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones(8, np.int8), "bn1.weight holds int8 and not floating-point numbers"),
        (np.ones(8, bool), "holds bool and not"),
        (np.ones(8, np.complex64), "holds complex64 and not"),
        (np.full(8, np.nan, np.float32), "numbers that are not finite as float32"),
        (np.full(8, 1e39), "numbers that are not finite as float32"),
    ],
)
def test_values_that_are_not_weights_are_refused_and_nothing_is_loaded(model, value, message):
    before = leaves(model)
    with pytest.raises(WeightsError, match=message):
        pretrained.load_torch_state(model, state_of(model) | {"bn1.weight": value})
    for a, b in zip(before, leaves(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_negative_variances_are_refused(model):
    state = state_of(model) | {"bn1.running_var": np.full(8, -1.0, np.float32)}
    with pytest.raises(WeightsError, match=r"bn1\.running_var holds negative variances"):
        pretrained.load_torch_state(model, state)


def test_weights_in_bfloat16_are_accepted(model, tmp_path):
    half = {k: v.astype(jnp.bfloat16) for k, v in state_of(model).items()}
    save_file(half, tmp_path / "net.safetensors")
    pretrained.load_file(model, tmp_path / "net.safetensors")
    assert all((x == 0.5).all() for x in leaves(model))
