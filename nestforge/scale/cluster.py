"""Parts over the workers of a Ray cluster: Ray Data, with actors that open the artifact once."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import signal
import socket
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nestforge.data.parts import Part
from nestforge.data.storage import EXTRA, describe_error
from nestforge.engines.machine import count_available_cores
from nestforge.errors import ConfigError, DataError, NestForgeError
from nestforge.scale.arrow import table_from_rows
from nestforge.scale.rows import Row
from nestforge.scale.worker import PartClassifier

if TYPE_CHECKING:
    import pyarrow as pa

# Ray would report its use over the network. It reads both when it is imported.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong comes as an exception
try:
    import ray
    import ray.data
except ImportError as error:
    raise NestForgeError(f"--ray needs Ray; run {EXTRA}") from error

LOCAL = "local"
OBJECT_STORE_BYTES = 256 << 20  # only descriptions and rows pass through it
REACH_SECONDS = 5.0
FAILED = -1  # the position of a row that says why a part could not be done


class Worker:
    """The actor: opens the artifact with the first part it gets."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    @functools.cached_property
    def classifier(self) -> PartClassifier:
        return PartClassifier(**self._settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        (number,), (part,) = batch["number"].to_pylist(), batch["part"].to_pylist()
        try:
            return self.classifier.classify(number, pickle.loads(part))  # pickled by `classify_on_ray`, nobody else
        except NestForgeError as error:  # sent as a row: Ray would turn it into a page of text
            return table_from_rows([Row(part=number, position=FAILED, key="", error=str(error))])


@contextmanager
def connect(address: str, *, cpus: int) -> Iterator[int]:
    """Join the cluster at `address`, or start one of `cpus` CPUs for ``local``; give the number of its CPUs.

    A connection that exists is used and left open. One that was made here is closed in any case, and a local
    cluster stops with it.

    Raises:
        NestForgeError: no cluster answers there.
    """
    if ray.is_initialized():
        yield int(ray.cluster_resources().get("CPU", 0))
        return
    _check_reachable(address)
    own: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": OBJECT_STORE_BYTES} if address == LOCAL else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **own)
        except Exception as error:  # ConnectionError, RuntimeError, ValueError, its own: all mean the same here
            raise NestForgeError(
                f"cannot reach Ray at {address} ({describe_error(error)}); "
                "start a cluster with 'ray start --head', or use --ray local"
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own does not unwind
        yield int(ray.cluster_resources().get("CPU", 0))
    finally:
        ray.shutdown()


def classify_on_ray(
    parts: Sequence[Part], settings: dict[str, Any], *, workers: int, threads: int
) -> Generator[pa.Table, None, None]:
    """Yield the rows of all parts, in their order; a part whose worker is lost is done again by another.

    `settings` are those of `PartClassifier`.

    Raises:
        DataError: what went wrong in a worker.
        NestForgeError: Ray gave up.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised as well
    items = [{"number": number, "part": pickle.dumps(part)} for number, part in enumerate(parts)]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Worker,
        fn_constructor_args=(settings,),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=threads,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    try:
        for table in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for position, error in zip(table["position"].to_pylist(), table["error"].to_pylist(), strict=True):
                if position == FAILED:
                    raise DataError(error)
            yield table
    except ray.exceptions.RayError as error:
        raise NestForgeError(f"Ray gave up ({describe_error(error)})") from error


def choose_workers(workers: int | None, threads: int, cpus: int) -> int:
    """Return `workers`, by default one for every `threads` CPUs of the cluster.

    Raises:
        ConfigError: the cluster has not so many CPUs.
    """
    if workers is None:
        workers = cpus // threads
    if not 1 <= workers * threads <= cpus:
        raise ConfigError(
            f"{workers} workers of {threads} threads do not fit the cluster's {cpus} CPUs; "
            "change --workers or --threads"
        )
    return workers


def count_local_cpus(workers: int | None, threads: int) -> int:
    """Return the CPUs a local cluster should claim: the cores to use, or more where more is asked for."""
    return max(count_available_cores(), (workers or 1) * threads)


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address in (LOCAL, "auto"):
        return
    if not colon or not port.isdecimal():
        raise NestForgeError(f"--ray {address!r} is neither local, nor auto, nor HOST:PORT, nor ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise NestForgeError(
            f"nothing answers at {host}:{port} ({describe_error(error)}); "
            "start a cluster with 'ray start --head', or use --ray local"
        ) from error
