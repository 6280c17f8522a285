"""Every form computes Φ, up to the error that the table shows."""

import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from examples.benchmarks import alternative_forms, alternatives, measure
from optax_gc import centralize
from tests.examples.programs import ENVIRONMENT
from tests.helpers import apply


@pytest.mark.parametrize("shape", [(3, 3, 16, 8), (96, 40), (7, 5), (1, 1)])
@pytest.mark.parametrize("form", alternative_forms.FORMS.values(), ids=alternative_forms.FORMS)
def test_every_form_computes_the_projection(form, shape):
    g = jnp.asarray(np.random.default_rng(0).normal(1, 1, shape), jnp.float32)
    expected = g - np.asarray(g, np.float64).mean(tuple(range(len(shape) - 1)), keepdims=True)
    np.testing.assert_allclose(form(g), expected, atol=1e-5)


def test_the_plain_form_is_that_of_the_library():
    g = jnp.asarray(np.random.default_rng(0).normal(1, 1, (3, 3, 16, 8)), jnp.float32)
    plain, *_ = alternative_forms.FORMS.values()
    np.testing.assert_array_equal(plain(g), apply(centralize(), g))


def test_the_error_is_counted_in_ulp_of_the_largest_gradient():
    """A constant column that keeps one ulp has an error of one ulp, and a whole mean has far more."""
    plain, *_ = alternative_forms.FORMS.values()
    # If n numbers are added one by one, the error is at most n/2 ulp.
    assert 0 < max(alternative_forms.error(plain, (3, 3, 16, 8)).values()) < 72
    one_ulp = alternative_forms.error(lambda g: 0 * g + jnp.spacing(g[:1, :1]), (16, 8))
    assert one_ulp["constant"] == 1
    # The mean of numbers in [1, 2) is at least 2**23 of their ulp.
    assert alternative_forms.error(lambda g: g, (16, 8))["constant"] >= 2**23


def test_the_whole_program_prints_a_row_for_every_form(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "examples.benchmarks.alternatives"]
    flags = [
        "--shapes",
        "3x3x8x8",
        "64x16",
        "--rounds",
        "6",
        "--seconds",
        "0",
        "--optimizer",
        "adam",
    ]
    done = subprocess.run(
        command + flags,
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (3x3x8x8|64x16) ", done.stdout, re.MULTILINE)
    assert len(rows) == 2 * (len(alternative_forms.FORMS) + 1)
    assert done.stdout.count("| control ") == 2
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_noticed_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr(measure, "available_bytes", lambda: 1000)
    monkeypatch.setattr(measure, "time_chained", None)
    with pytest.raises(MemoryError, match=r"shape \(1000, 100\): 0.00\d+ GB are needed, 1e-06 GB"):
        alternative_forms.time_forms((1000, 100), "sgdm", 6, 0.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"shapes": ("3",)}, "--shapes 3: pass at least two sizes"),
        ({"shapes": ("3x0",)}, "--shapes 3x0: pass at least two sizes"),
        ({"shapes": ("axb",)}, "--shapes axb: pass at least two sizes"),
        ({"optimizer": "lion"}, "no optimizer is called 'lion'; there are"),
        ({"rounds": 5}, "--rounds 5: an interval needs at least 6 rounds"),
        ({"seconds": float("nan")}, "--seconds nan: it must be 0 or more"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        alternatives.Config(**flags)
