"""What a classifier is to the trainer: its data, its loss, its optimizer and its compiled steps."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from examples import datasets, models
from examples.datasets import transforms
from examples.models import pretrained
from examples.runs import Config
from examples.training import mesh as meshes
from examples.training import optimizers, step
from examples.training.checkpoints import read_variables
from optax_gc.diagnostics import gradient_stats


class Data(NamedTuple):
    """What a run trains and is evaluated on, with a transform for each."""

    train: datasets.Dataset
    test: datasets.Dataset
    train_transform: transforms.Transform
    test_transform: transforms.Transform


class Task(NamedTuple):
    """What is compiled for a config, and serves all configs that `serves` holds to be alike."""

    config: Config
    mesh: Mesh
    steps_per_epoch: int
    schedule: Callable[[float], Callable[[int], Any]]
    graph: Any  # of the net in training mode, for nnx.merge with a state's params and rest
    init: Callable[[Config], step.State]
    train_step: Callable
    eval_step: Callable

    def serves(self, config: Config) -> bool:
        """Says whether a config differs in what a step takes as numbers alone.

        Those are the seed, the rates and the decay. What a run is evaluated on is no part of a
        step either.
        """
        return _compiled_part(config) == _compiled_part(self.config)


def _compiled_part(config: Config) -> Config:
    head = None if config.head_learning_rate is None else 1.0
    return dataclasses.replace(
        config, seed=0, learning_rate=1.0, head_learning_rate=head, weight_decay=0.0, validation=0
    )


def load_data(config: Config, data_dir: Path | None, *, partial: bool = False) -> Data:
    """Finds a config's images; errors are those of `datasets.load`."""
    load = functools.partial(
        datasets.load,
        config.dataset,
        data_dir=data_dir,
        validation=config.validation,
        classes=config.classes,
        partial=partial,
    )
    test = load("validation" if config.validation else "test")
    train = load("train", limit=config.train_images, seed=config.seed)
    first = []
    if config.pad:
        first.append(functools.partial(transforms.pad, padding=config.pad))
    if config.pool > 1:
        first.append(functools.partial(transforms.mean_pool, factor=config.pool))
    recipe = (transforms.compose(*first, last) for last in transforms.recipe(config.dataset))
    return Data(train, test, *recipe)


def make_loss(label_smoothing: float) -> step.Loss:
    """Makes the mean cross entropy of a batch, with the accuracy in %."""

    def loss(model, batch, key):
        del key
        logits = model(batch["image"]).astype(jnp.float32)
        labels = jax.nn.one_hot(batch["label"], logits.shape[-1])
        losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, label_smoothing))
        return losses.mean(), {"accuracy": 100 * (logits.argmax(-1) == batch["label"]).mean()}

    return loss


def count_correct(model: Any, batch: Any) -> dict[str, jax.Array]:
    """Sums cross entropy, accuracy in % and images over the images that the mask holds."""
    logits = model(batch["image"]).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    correct = 100.0 * (logits.argmax(-1) == batch["label"])
    mask = batch["mask"]
    return {"loss": mask @ losses, "accuracy": mask @ correct, "images": mask.sum()}


def measure_gc(grads: Any) -> step.Metrics:
    """Measures what GC takes, or would take, from the gradient of each kernel and of all together.

    The L2 norm and the largest absolute value of Figure 4, and the share of the squared norm.
    """
    stats = gradient_stats(grads)
    before, after = (
        jnp.stack([getattr(kernel, norm) ** 2 for kernel in stats.values()]).sum()
        for norm in ("norm_before", "norm_after")
    )
    measured = {
        f"gc/{path}/{name}": value
        for path, kernel in stats.items()
        for name, value in kernel._asdict().items()
    }
    return {**measured, "gc/share_removed": 1 - after / before}


def read_weights(path: Path) -> Callable[[Any], None]:
    """Reads pretrained weights and gives the function that puts all but the head's into a net.

    Args:
      path: a file of PyTorch's, or the folder of a run of this program with the same net.
    """
    if not path.is_dir():
        state = pretrained.read_file(path)
        return functools.partial(pretrained.load_torch_state, state=state, replace_head=True)
    stored = {k: v for k, v in read_variables(path).items() if not k.startswith("fc/")}

    def load(model):
        kinds = nnx.Any(nnx.Param, nnx.BatchStat)
        leaves, treedef = jax.tree_util.tree_flatten_with_path(nnx.state(model, kinds))
        own = {step.path_name(path): leaf for path, leaf in leaves}
        wrong = stored.keys() ^ {name for name in own if not name.startswith("fc/")}
        wrong |= {name for name in stored.keys() & own if stored[name].shape != own[name].shape}
        if wrong:
            raise ValueError(f"{path} holds another net: it differs in {', '.join(sorted(wrong))}")
        values = [jnp.asarray(stored.get(name, leaf)) for name, leaf in own.items()]
        nnx.update(model, treedef.unflatten(values))

    return load


def prepare(config: Config, data: Data, mesh: Mesh, *, diagnose: bool = False) -> Task:
    """Builds net, optimizer and steps for a config; compilation comes with the first step.

    Raises:
      ValueError: a batch that does not divide among the devices or is larger than the data set.
    """
    if config.batch_size % mesh.size:
        raise ValueError(
            f"--batch-size {config.batch_size} does not divide among {mesh.size} devices"
        )
    steps_per_epoch = len(data.train) // config.batch_size
    if not steps_per_epoch:
        raise ValueError(
            f"--batch-size {config.batch_size}: there are {len(data.train)} training images"
        )
    if config.head_learning_rate is not None and not config.pretrained:
        raise ValueError(
            "a rate of its own for the last layer is for fine-tuning: --pretrained FILE"
        )
    schedule = functools.partial(
        optimizers.make_schedule,
        config.schedule,
        steps=config.epochs * steps_per_epoch,
        milestones=[epoch * steps_per_epoch for epoch in config.milestones],
        warmup=config.warmup_epochs * steps_per_epoch,
    )

    # The peak rates and the decay are part of the state, so that one compiled step serves all.
    @optax.inject_hyperparams
    def make_tx(learning_rate, head_learning_rate, weight_decay):
        def make_optimizer(rate):
            return optimizers.make_optimizer(
                config.optimizer,
                schedule(rate),
                momentum=config.momentum,
                weight_decay=weight_decay,
                gc=optimizers.make_gc(config.gc),
            )

        if head_learning_rate is None:
            return make_optimizer(learning_rate)
        return optimizers.with_head_rate(make_optimizer, learning_rate, head_learning_rate, "fc")

    def tx_of(config):
        return make_tx(config.learning_rate, config.head_learning_rate, config.weight_decay)

    tx = tx_of(config)

    def make_model(seed):
        return models.create(
            config.model,
            num_classes=data.train.num_classes,
            stem=config.stem,
            norm=config.norm,
            weight_standardization=config.weight_standardization,
            width=config.width,
            in_channels=data.train.image_shape[2] if data.train.image_shape else 3,
            dtype=jnp.bfloat16 if config.dtype == "bfloat16" else None,
            rngs=nnx.Rngs(seed),
        )

    model = nnx.eval_shape(lambda: make_model(0))
    load = read_weights(Path(config.pretrained)) if config.pretrained else None
    if load:
        load(make_model(0))  # weights of another net are an error now, not after other work
    abstract = jax.eval_shape(lambda: step.init_state(make_model(0), tx, jax.random.key(0)))
    shardings = meshes.state_shardings(abstract, mesh)

    def init(config):
        model = make_model(config.seed)
        if load:
            load(model)
        state = step.init_state(model, tx_of(config), jax.random.key(config.seed))
        return meshes.put_state(state, shardings)

    return Task(
        config,
        mesh,
        steps_per_epoch,
        schedule,
        nnx.graphdef(model),
        init,
        step.make_train_step(
            model,
            make_loss(config.label_smoothing),
            tx,
            measure=measure_gc if diagnose else None,
            shardings=shardings,
        ),
        step.make_eval_step(model, count_correct, mesh=mesh),
    )


def evaluate(task: Task, state: step.State, batches: Iterable[Any]) -> dict[str, float]:
    """Gives the mean loss and accuracy over all images of one pass."""
    totals, pending = {"loss": 0.0, "accuracy": 0.0, "images": 0.0}, None

    def add(sums):
        for key, value in jax.device_get(sums).items():
            totals[key] += float(value)

    for batch in batches:
        sums = task.eval_step(state, meshes.put_batch(batch, task.mesh))
        if pending is not None:
            add(pending)
        pending = sums
    add(pending)
    images = totals.pop("images")
    return {key: value / images for key, value in totals.items()}
