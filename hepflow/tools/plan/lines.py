"""The command of each stage, with the options of the plan, as one would type it."""

import math
import shlex
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hepflow.config.engines import ClusterConfig, JobsConfig, SparkConfig
from hepflow.config.options import shown, spelt
from hepflow.config.plan import PlanConfig
from hepflow.config.score import ScoreConfig
from hepflow.config.shipped import shipped
from hepflow.config.stages import EvaluateConfig, FeaturesConfig, IngestConfig, ReadingConfig
from hepflow.data.runs import ONNX
from hepflow.engines.batch import walltime_seconds
from hepflow.tools.plan.cluster import Estimate

_MARGIN, _ROUND_S = 2, 600  # of a time limit


def line(config: PlanConfig, stage: str, on: Estimate) -> str:
    """Return the command line of a stage."""
    return shlex.join(
        {"ingest": _ingest, "train": _train, "evaluate": _evaluate}.get(stage, _dask)(
            config, stage, on
        )
    )


def _ingest(config: PlanConfig, _: str, on: Estimate) -> list[str]:
    nested = {"spark", "cluster"}
    own = [*_options(config, IngestConfig(), leave_out=nested)]
    if on.cluster.kind == "slurm":
        return [*_sbatch(config, on, f"--cpus-per-task={on.per_node}"), "slurm/ingest.sbatch", *own]
    if on.cluster.kind == "spark":
        return ["hepflow", "ingest", *_spark(config, on), *own]
    return ["hepflow", "ingest", *own, "--spark.master", f"local[{on.workers}]"]


def _dask(config: PlanConfig, stage: str, on: Estimate) -> list[str]:
    if stage == "features":
        places: Any = {
            "input": config.output,
            "output": config.store,
            "overwrite": config.overwrite,
        }
        own = [*_options(replace(config, **places), FeaturesConfig(), leave_out={"cluster"})]
    else:
        model = config.runs / net_name(config) / ONNX
        default, shared = ScoreConfig(), ("physics", "target_partition_mb", "retry_quarantined")
        names = [field.name for field in fields(ReadingConfig)]
        reading = {name: getattr(config, name) for name in (*names, *shared)}
        chosen = ScoreConfig(**{**reading, "model": model, "output": config.scores})
        own = [*_options(chosen, default, leave_out={"cluster", "spark", "kafka"})]
    kind, memory = on.cluster.kind, f"{math.ceil(on.work.worker_bytes / 2**30 * 4) / 4:g}GiB"
    if config.cluster.kind == "address":
        return ["hepflow", stage, *own, *_options(config.cluster, ClusterConfig(), "cluster.")]
    if kind == "local":
        return ["hepflow", stage, *own, "--cluster.workers", str(on.workers)]
    if kind == "spark":
        base = _overlay("cluster/yarn.yaml", config.cluster, ClusterConfig())
        files = ["--config", "configs/cluster/yarn.yaml"]
        given = config.cluster if config.cluster.kind == "spark" else base
        more = [*_options(given, base, "cluster.", leave_out={"workers", "memory"})]
        sizes = ["--cluster.workers", str(on.workers), "--cluster.memory", memory]
        return ["hepflow", stage, *files, *more, *sizes, *own]
    jobs = replace(
        config.cluster.jobs,
        workers_per_job=on.per_node,
        max_jobs=on.nodes,
        walltime=_clock(config, on),
    )
    words = [*_options(jobs, JobsConfig(), "cluster.jobs."), "--cluster.memory", memory, *own]
    if kind == "slurm" and stage == "features":
        return ["sbatch", "slurm/features.sbatch", *words]  # it waits for its workers' jobs
    return ["hepflow", stage, "--cluster.kind", kind, *words]


def _train(config: PlanConfig, _: str, on: Estimate) -> list[str]:
    name = net_name(config)
    net = config.net if Path(config.net).is_file() else f"configs/train/{name}.yaml"
    own = ["--config", net, "--data.store", str(config.store), "--output", str(config.runs / name)]
    own += ["--trainer.max-epochs", str(config.epochs)] if config.epochs else []
    n, threads = on.workers, on.work.threads
    if on.cluster.kind == "slurm":
        shape = f"--ntasks-per-node={min(n, on.per_node)}", f"--cpus-per-task={threads}"
        return [*_sbatch(config, on, *shape), "slurm/train.sbatch", *own]
    if on.cluster.kind == "spark":
        sizes = ["--spark.num-processes", str(n), "--spark.cpus-per-process", str(threads)]
        return ["hepflow", "spark-train", *_spark(config, None), *sizes, *own]
    several = ["--trainer.accelerator", "cpu", "--trainer.devices", str(n)] if n > 1 else []
    return ["hepflow", "train", "fit", *own, *several]


def _evaluate(config: PlanConfig, _: str, on: Estimate) -> list[str]:
    own = [*_options(EvaluateConfig(input=config.runs), EvaluateConfig())]
    slurm = ["sbatch", f"--time={_clock(config, on)}", "slurm/evaluate.sbatch"]
    return [*(slurm if on.cluster.kind == "slurm" else ["hepflow", "evaluate"]), *own]


def net_name(config: PlanConfig) -> str:
    """Return the name of the run of a net."""
    return Path(config.net).stem


def _sbatch(config: PlanConfig, on: Estimate, *shape: str) -> list[str]:
    return ["sbatch", "-N", str(on.nodes), *shape, f"--time={_clock(config, on)}"]


def _clock(config: PlanConfig, on: Estimate) -> str:
    """Return a time limit: twice what is expected, in steps of ten minutes, if that is allowed."""
    minutes = max(1, math.ceil(_MARGIN * on.wall_s / _ROUND_S)) * _ROUND_S // 60
    if config.time_limit:
        minutes = min(minutes, walltime_seconds(config.time_limit) // 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def _spark(config: PlanConfig, on: Estimate | None) -> Iterator[str]:
    """Yield the options of a Spark session: a shipped file if it is in there, and the others."""
    name = "yarn" if config.spark.master == "yarn" else "standalone"
    base = _overlay(f"spark/{name}.yaml", config.spark, SparkConfig())
    if base.conf:
        yield from ("--config", f"configs/spark/{name}.yaml")
    spark, most = config.spark, "spark.dynamicAllocation.maxExecutors"
    if on is not None and most in spark.conf:
        per_executor = int(spark.conf.get("spark.executor.cores") or 1)
        spark = replace(spark, conf={**spark.conf, most: str(-(-on.workers // per_executor))})
    yield from _options(spark, base, "spark.")


def _overlay(name: str, given: Any, default: Any) -> Any:
    """Return the default with the content of a shipped file, if the file is part of ``given``."""
    (content,) = yaml.safe_load(shipped(name).read_text()).values()
    own = {key: value for key, value in content.items() if not isinstance(value, dict)}
    if isinstance(given, ClusterConfig):
        return replace(default, **own, spark=replace(default.spark, **content["spark"]))
    known = content["conf"].items() <= dict(given.conf).items()
    return replace(default, **own, conf=content["conf"]) if known else default


def _options(
    given: Any, default: Any, prefix: str = "", leave_out: Collection[str] = ()
) -> Iterator[str]:
    """Yield the options in which a configuration differs from another one."""
    for field in fields(default):
        value, before = getattr(given, field.name), getattr(default, field.name)
        if field.name in leave_out or value == before:
            continue
        option = spelt(f"{prefix}{field.name}")
        if is_dataclass(value):
            yield from _options(value, before, f"{prefix}{field.name}.")
        elif field.name == "conf":
            for key in sorted(value.keys() | before.keys()):
                if value.get(key) != before.get(key):
                    yield from (f"{option}.{key}", "null" if value.get(key) is None else value[key])
        elif value is True and not prefix:
            yield option
        else:
            yield from (
                option,
                f"[{shown(value)}]" if prefix and isinstance(value, tuple) else shown(value),
            )
