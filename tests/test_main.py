"""python -m optax_gc prints the table of a model named by import path."""

import sys

import pytest

from optax_gc.__main__ import main

MODELS = """
import equinox as eqx, haiku as hk
from flax import linen as nn, nnx

class Net(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(10**6, 10**6, rngs=rngs)  # 4 TB, if it were made

def nnx_without_arguments():
    return nnx.Linear(3, 4, rngs=nnx.Rngs(0))

def large_without_arguments():
    return nnx.Linear(10**6, 10**6, rngs=nnx.Rngs(0))

def linen():
    return nn.Sequential([nn.Conv(8, (3, 3)), nn.Dense(2)])

def embedded():
    return nn.Embed(9, 4)

def equinox(key):
    return eqx.nn.MLP(3, 2, 10**5, 2, key=key)

def haiku():
    return hk.transform(lambda x: hk.Linear(5)(x))

def stateful():
    return hk.transform_with_state(lambda x: hk.Linear(5)(hk.BatchNorm(True, True, 0.9)(x, True)))

def flatten():
    return nn.Sequential([lambda x: x.reshape(-1)])

def dropout():
    return nnx.Dropout(0.5)

def with_size(size):
    return nnx.Linear(size, size, rngs=nnx.Rngs(0))

def nothing():
    return 3

constant = 3
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    (tmp_path / "models_of_a_user.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "models_of_a_user", raising=False)


@pytest.mark.parametrize(
    ("arguments", "row"),
    [
        (["Net"], "layer/kernel  1000000x1000000  0     1,000,000  1,000,000"),
        (["nnx_without_arguments"], "kernel  3x4    0          3        4"),
        (["large_without_arguments"], "kernel  1000000x1000000  0     1,000,000  1,000,000"),
        (["linen", "--input", "1,8,8,3"], "layers_0/kernel  3x3x3x8  0,1,2      27        8"),
        (["embedded", "--input", "2,5:int32"], "left alone, embedding: 1 leaf, 36 weights"),
        (["equinox"], "layers/1/weight  100000x100000  1     100,000  100,000"),
        (["haiku", "--input", "2,7"], "linear/w  7x5    0          7        5"),
        (["haiku", "--input", "2,7", "--by-shape"], "linear/w  7x5    0          7        5"),
        (["equinox", "--by-shape"], "layers/1/weight  100000x100000  0     100,000  100,000"),
        (["stateful", "--input", "2,7"], "linear/w  7x5    0          7        5"),
    ],
)
def test_the_table_is_printed_for_every_framework(arguments, row, capsys):
    name, *rest = arguments
    main([f"models_of_a_user:{name}", *rest])
    assert row in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models_of_a_user"], "must be MODULE:FACTORY"),
        (["models_of_a_user:"], "must be MODULE:FACTORY"),
        (["missing_module:f"], "No module named 'missing_module'"),
        (["models_of_a_user:f"], "models_of_a_user has no f"),
        (["models_of_a_user:constant"], "is not a function or a class"),
        (["models_of_a_user:nothing"], "returned a int, which is not a model"),
        (["models_of_a_user:linen"], "pass --input SHAPE"),
        (["models_of_a_user:linen", "--input", "1,x"], "'1,x' is not a shape"),
        (["models_of_a_user:linen", "--input", "1:int99"], "'1:int99' is not a shape"),
        (["models_of_a_user:linen", "--input=-1,3"], "'-1,3' is not a shape"),
        (["models_of_a_user:linen", "--input", "1,,3"], "'1,,3' is not a shape"),
        (["models_of_a_user:flatten", "--input", "1,3"], "flatten makes has no parameters"),
        (["models_of_a_user:dropout"], "dropout makes has no parameters"),
        (["models_of_a_user:Net", "--input", "1,3"], "leave out --input"),
        (["models_of_a_user:equinox", "--input", "1,3"], "leave out --input"),
        (
            ["models_of_a_user:with_size"],
            "with_size needs arguments (missing a required argument: 'size')",
        ),
        (
            ["flax.nnx:Linear"],
            "flax.nnx:Linear needs arguments (missing a required argument: 'in_fea",
        ),
        (["flax.linen:Dense", "--input", "1,3"], "flax.linen:Dense needs arguments"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
