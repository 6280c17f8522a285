"""The unpickler builds arrays and plain containers, and refuses anything else before it runs."""

import os
import pickle
import subprocess

import numpy as np
import pytest

from examples.datasets.types import DatasetError
from examples.datasets.unpickle import load_arrays
from tests.examples.datasets.builders import python2_pickle

VALUE = {
    "bytes": np.arange(300, dtype=np.uint8).reshape(3, 100),
    "floats": np.linspace(0, 1, 5),
    "transposed": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    "nothing": np.empty((0, 3), np.float16),
    "nested": [("a", 1), {"b": 2.5, "c": None}, [True, "ü"]],
}


@pytest.mark.parametrize("protocol", [3, 4, "Python 2"])
def test_arrays_and_containers_come_back(tmp_path, protocol):
    if protocol == "Python 2":
        content = python2_pickle(VALUE)
        assert b"numpy.core.multiarray" in content
        assert b"U\x05bytes" in content  # a byte string, as Python 2's str was
    else:
        content = pickle.dumps(VALUE, protocol)
    (tmp_path / "file").write_bytes(content)
    back = load_arrays(tmp_path / "file", "a test's file")
    assert back.keys() == VALUE.keys()
    for key in ("bytes", "floats", "transposed", "nothing"):
        np.testing.assert_array_equal(back[key], VALUE[key])
        assert back[key].dtype == VALUE[key].dtype
    assert back["nested"] == VALUE["nested"]


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


ATTACKS = {
    "mkdir": lambda marker: Call(os.mkdir, marker),
    "system": lambda marker: Call(os.system, f"mkdir {marker}"),
    "exec": lambda marker: Call(exec, f"import os; os.mkdir({marker!r})"),
    "subprocess": lambda marker: Call(subprocess.getoutput, f"mkdir {marker}"),
    "numpy": lambda marker: Call(np.save, marker, 1),
    "in an array": lambda marker: {"data": np.array([Call(os.mkdir, marker)], object)},
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path, attack, protocol):
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(attack(str(tmp_path / "made")), protocol))
    with pytest.raises(DatasetError, match=rf"{path}: .*it names [\w.]+"):
        load_arrays(path, "a test's file")
    assert os.listdir(tmp_path) == ["file"]
    pickle.loads(path.read_bytes())
    assert len(os.listdir(tmp_path)) == 2  # an ordinary unpickler runs it: the attack is one


class AsBuilt:
    """An object whose pickle calls a function, and gives a state to the result."""

    def __init__(self, function, arguments, state):
        self.built = function, arguments, state

    def __reduce__(self):
        return self.built


RECONSTRUCT = np.empty(0).__reduce__()[0]
BYTES = np.dtype("u1")
# A dtype of one-byte numbers that becomes one of objects by its state.
DISGUISED = AsBuilt(
    np.dtype, ("u1", False, True), (3, "|", None, ("a",), {"a": (BYTES, 0)}, 8, 1, 63)
)
FORGERIES = {
    "called as a class": Call(np.ndarray, (1,), "O", b"address!"),
    "objects": AsBuilt(
        RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, b"address!")
    ),
    "disguised": AsBuilt(
        RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), DISGUISED, False, b"8" * 8)
    ),
    "a record": AsBuilt(
        RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("u1,O"), False, b"address!!")
    ),
    "without contents": AsBuilt(
        RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1 << 20,), BYTES, False, None)
    ),
    "too short": AsBuilt(
        RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (9,), BYTES, False, b"address!")
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
def test_an_array_that_would_read_foreign_memory_is_refused(tmp_path, forgery):
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(forgery, 4))
    with pytest.raises(DatasetError, match=rf"{path}: expected a test's file.*reading it failed"):
        load_arrays(path, "a test's file")
