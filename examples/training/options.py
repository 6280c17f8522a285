"""The options that every trainer has. They decide how and where a run is made."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from examples.training.errors import SettingError

if TYPE_CHECKING:
    from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Options:
    """Options that do not change the results of a run, up to rounding."""

    data_dir: Path | None = None
    """The folder of the data set. Data sets that a package brings need none."""
    partial: bool = False
    """Accept a data set that is smaller than the published one."""
    out: Path | None = None
    """The folder of the run. By default it is runs/RUN-GC-SEED."""
    workers: int = 0
    """The number of processes that read and augment images. With 0, a thread does it."""
    checkpoint_every: int | None = None
    """The number of steps between checkpoints, by default one epoch. The end always has one."""
    log_every: int = 50
    """The number of steps between logged lines."""
    diagnose: bool = False
    """Log the gradient of each kernel before and after centralization, and the share removed."""
    data_parallel: int | None = None
    """The number of devices that share a batch. By default, all that --fsdp leaves."""
    fsdp: int = 1
    """The number of devices that share each kernel and its momentum."""
    distributed: bool = False
    """Run as one of several processes. Where JAX does not know the cluster, set the next three flags too."""
    coordinator: str | None = None
    """The address of process 0, as host:port."""
    processes: int | None = None
    """The number of processes."""
    process: int | None = None
    """The number of this process, counted from 0."""

    def __post_init__(self):
        for name, least in (
            ("workers", 0),
            ("checkpoint_every", 1),
            ("log_every", 1),
            ("data_parallel", 1),
            ("fsdp", 1),
            ("processes", 1),
            ("process", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise SettingError(f"--{flag} {value}: it must be at least {least}")
        most = 8 * (os.cpu_count() or 1)
        if self.workers > most:
            raise SettingError(
                f"--workers {self.workers}: it must be at most {most}, which is 8 for each processor"
            )
        for name in ("coordinator", "processes", "process"):
            if getattr(self, name) is not None and not self.distributed:
                raise SettingError(f"--{name} needs --distributed, without which it has no effect")
        host, colon, port = (self.coordinator or "localhost:1").rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
            raise SettingError(f"--coordinator {self.coordinator}: it must be HOST:PORT")
        if (self.process or 0) >= (self.processes or float("inf")):
            raise SettingError(
                f"--process {self.process}: it must be below --processes {self.processes}"
            )

    def start(self) -> "Mesh":
        """Joins the other processes, if there are any, and makes the mesh of all devices.

        Raises:
          SettingError: the devices do not allow the mesh, or the other processes are not found.
        """
        import jax

        from examples.training.sharding import make_mesh

        if self.distributed:
            # It reports Ctrl-C in one process to the others.
            jax.config.update("jax_enable_preemption_service", True)
            try:
                jax.distributed.initialize(self.coordinator, self.processes, self.process)
            except (IndexError, RuntimeError, ValueError) as error:
                raise SettingError(
                    f"--distributed: the processes cannot be joined: {error}. Set --coordinator "
                    "HOST:PORT, --processes and --process alike in all of them"
                ) from error
        return make_mesh(self.data_parallel, self.fsdp)
