"""Prints what ``centralize`` does to a model: ``python -m optax_gc MODULE:FACTORY``."""

import argparse
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import optax_gc
from optax_gc._axes import kernel_axes
from optax_gc._tabulate import tabulate


def main(arguments: list[str] | None = None) -> None:
    """Prints the table, or one line that says what was wrong with the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m optax_gc",
        description="Prints which kernels of a model gradient centralization changes, over which "
        "axes, and why it leaves the other arrays alone. The model is only built as shapes, so "
        "its size does not matter.",
    )
    parser.add_argument(
        "model",
        metavar="MODULE:FACTORY",
        help="a function or class that makes the model: an nnx.Module, a linen.Module, an "
        "eqx.Module, or what hk.transform returns. Its arguments rngs (NNX) and key (Equinox) are "
        "passed if it has them. The module is also looked for in the current folder",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        type=_shape,
        metavar="SHAPE",
        help="the shape of an input such as 1,224,224,3, or 1,128:int32 for a dtype other than "
        "float32. Linen and Haiku models need it. Repeat it for several inputs",
    )
    parser.add_argument(
        "--by-shape",
        action="store_true",
        help="find the axes from names and shapes, as centralize() does, and not from the layers",
    )
    options = parser.parse_args(arguments)
    try:
        params, axes = _inspect(options.model, options.input)
    except (_UsageError, ImportError) as error:
        parser.error(str(error))
    print(tabulate(params, kernel_axes if options.by_shape else axes))


class _UsageError(Exception):
    pass


def _shape(text: str) -> jax.ShapeDtypeStruct:
    sizes, _, dtype = text.partition(":")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
        if min(shape, default=1) < 1:
            raise ValueError
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype or "float32"))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 1,224,224,3") from None


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise _UsageError(f"{name!r} must be MODULE:FACTORY, such as my_models:make_resnet")
    sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise _UsageError(f"the module {module} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise _UsageError(f"{name} is not a function or a class that makes a model")
    return found


def _prepare(name: str) -> Callable[[], Any]:
    """Returns the function that makes the model, with the arguments that it has."""
    factory = _import(name)
    is_class = isinstance(factory, type)
    signature = inspect.signature(factory.__init__ if is_class else factory)
    given = next(({each} for each in ("rngs", "key") if each in signature.parameters), set())
    try:
        signature.bind(*[None] * is_class, **dict.fromkeys(given))
    except TypeError as error:
        raise _UsageError(
            f"{name} needs arguments ({error}); name a function that passes them and makes the model"
        ) from None

    def make():
        if "rngs" in given:
            from flax import nnx

            return factory(rngs=nnx.Rngs(0))
        return factory(key=jax.random.key(0)) if given else factory()

    return make


def _inspect(name: str, inputs: list[jax.ShapeDtypeStruct]) -> tuple[Any, Any]:
    """Returns the parameters as shapes, and the axes that the model's framework reports."""
    make, key = _prepare(name), jax.random.key(0)

    # Which framework it belongs to is seen while it is traced, which computes nothing.
    traced: list[Any] = []
    jax.eval_shape(lambda: traced.append(make()))
    (model,) = traced

    if _is_model(model, "flax.nnx", "Module"):
        from flax import nnx

        _check_inputs(inputs, needed=False)
        model = nnx.eval_shape(make)
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        find = functools.partial(optax_gc.nnx_kernel_axes, model)
    elif _is_model(model, "equinox", "Module"):
        import equinox as eqx

        _check_inputs(inputs, needed=False)
        model = eqx.filter_eval_shape(make)
        params = eqx.filter(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
        find = functools.partial(optax_gc.equinox_kernel_axes, model)
    elif _is_model(model, "flax.linen", "Module"):
        from flax import linen as nn

        _check_inputs(inputs, needed=True)
        model = make()
        variables = jax.eval_shape(lambda: model.lazy_init(key, *inputs))
        params = nn.meta.unbox(variables.get("params", {}))
        find = functools.partial(optax_gc.linen_kernel_axes, model, key, *inputs)
    elif _is_model(model, "haiku", "Transformed", "TransformedWithState"):
        _check_inputs(inputs, needed=True)
        variables = jax.eval_shape(model.init, key, *inputs)
        params = variables[0] if isinstance(variables, tuple) else variables
        find = functools.partial(optax_gc.haiku_kernel_axes, model, key, *inputs)
    else:
        raise _UsageError(
            f"the factory returned a {type(model).__name__}, which is not a model of Flax, Equinox "
            "or Haiku"
        )
    if not jax.tree.leaves(params):
        raise _UsageError(f"the model that {name} makes has no parameters")
    return params, find()


def _is_model(model: Any, module: str, *classes: str) -> bool:
    # Whoever made a model of a framework has imported it.
    framework = sys.modules.get(module)
    return framework is not None and isinstance(
        model, tuple(getattr(framework, name) for name in classes)
    )


def _check_inputs(inputs: list[jax.ShapeDtypeStruct], needed: bool) -> None:
    if needed and not inputs:
        raise _UsageError("this model must be traced: pass --input SHAPE, such as 1,224,224,3")
    if inputs and not needed:
        raise _UsageError("this model is not traced, so its axes need no input: leave out --input")


if __name__ == "__main__":
    main()
