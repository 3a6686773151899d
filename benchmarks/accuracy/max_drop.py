"""Does a build with `quantize.max_drop` keep it on images it has never seen, and what does that cost in speed?

    python -m benchmarks.accuracy.max_drop --name NAME --config BUILD.yaml --dataset LABELLED_FOLDER --max-drop 0.3 0.5
    python -m benchmarks.accuracy.tables                 # writes the tables of the documents

BUILD.yaml is an int8 build file without `max_drop`. Every other image of each class of the data set validates the
build, the rest test it; then the other way round. The artifact is compared with float32 on the test half image by
image, and its speed with that of the int8 artifact without `max_drop`, interleaved. `--calibrate-on-validation` is for
where all labelled images there are come from one folder: the validation half calibrates too, the test half stays
unseen. Results are added to the output.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nestforge
from benchmarks.common.report import add_output, describe_command, describe_environment, make_parser, read_report
from benchmarks.common.splits import link_halves
from nestforge.artifact.artifact import open_artifact
from nestforge.commandline import run_command
from nestforge.config import BuildConfig, parse_config, read_config
from nestforge.data.imagefolder import list_images
from nestforge.errors import ConfigError, DataError
from nestforge.files import write_json
from nestforge.measure.benchmark import BenchmarkComparison
from nestforge.progress import show_bars

SPEED_SECONDS = 30.0


def change(config: BuildConfig, output: Path, **sections: Any) -> BuildConfig:
    """Return the build file with other sections."""
    return parse_config(config.model_dump(mode="json") | sections | {"output": str(output)}, source="max_drop")


def calibrate_on(config: BuildConfig, images: Path) -> BuildConfig:
    """Return the build file calibrated on other images, which may be those that validate it.

    Raises:
        ConfigError: it has no calibration.
    """
    if config.calibration is None:
        raise ConfigError("the build file has no calibration; add it")
    calibration = config.calibration.model_dump(mode="json") | {"data": str(images), "allow_overlap": True}
    return change(config, Path(config.output), calibration=calibration)


def try_half(config: BuildConfig, validation: Path, test: Path, max_drops: list[float], folder: Path) -> list[Any]:
    """Build float32, int8, and int8 with each `max_drop`; return what became of each."""
    float32, plain = folder / "fp32", folder / "int8"
    nestforge.build(change(config, float32, dtype="fp32"), progress=show_bars)
    nestforge.build(change(config, plain), progress=show_bars)
    return [
        try_max_drop(config, max_drop, validation, test, float32=float32, plain=plain, output=folder / f"{max_drop:g}")
        for max_drop in max_drops
    ]


def try_max_drop(
    config: BuildConfig, max_drop: float, validation: Path, test: Path, *, float32: Path, plain: Path, output: Path
) -> dict[str, Any]:
    """Build with one `max_drop`; return why that was refused, or how the artifact does on the test half."""
    section = config.quantize.model_dump(mode="json")
    section |= {"max_drop": max_drop, "validation": {"data": str(validation)}}
    row: dict[str, Any] = {"max_drop_pp": max_drop}
    try:
        nestforge.build(change(config, output, quantize=section), progress=show_bars)
    except DataError as error:
        return row | {"refused": str(error)}
    record = open_artifact(output).manifest.accuracy_control
    assert record is not None  # a build with max_drop has one
    row["frontier"] = record.frontier
    row["chosen"] = next(point for point in record.frontier if point.kept_in_float == record.kept_in_float)
    row["validation_images"] = record.images
    for name, artifact in (("plain", plain), ("controlled", output)):
        result = nestforge.evaluate(artifact, test, vs=float32, progress=show_bars)
        paired = {key: getattr(result.vs, key) for key in ("difference", "low", "high", "changed_predictions")}
        row[name] = {"images": result.images, **paired}
    if record.kept_in_float:
        row["speed"] = compare_speed(nestforge.bench(output, vs=plain, seconds=SPEED_SECONDS, progress=show_bars).vs)
    return row


def compare_speed(vs: BenchmarkComparison | None) -> dict[str, float]:
    """Return the ratio of speeds with its interval."""
    assert vs is not None  # two artifacts were measured
    return {"ratio": vs.ratio, "low": vs.low, "high": vs.high}


def main() -> None:
    """Build, test and measure on both halves."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--name", required=True, help="what its rows are called")
    parser.add_argument("--config", type=Path, required=True, help="int8 build file without max_drop")
    parser.add_argument("--dataset", type=Path, required=True, help="labelled folder")
    parser.add_argument("--max-drop", type=float, nargs="+", required=True, metavar="PP", help="values to build for")
    parser.add_argument("--calibrate-on-validation", action="store_true", help="see above")
    add_output(parser, "max_drop.json")
    args = parser.parse_args()
    config = read_config(args.config)
    results = read_report(args.output)
    halves = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        link_halves(list_images(args.dataset), folder)
        for side in (0, 1):
            validation, test = folder / f"half{side}", folder / f"half{1 - side}"
            chosen = calibrate_on(config, validation) if args.calibrate_on_validation else config
            halves.append(try_half(chosen, validation, test, args.max_drop, folder / f"built{side}"))
    results.setdefault("networks", {})[args.name] = {
        "command": describe_command(
            __file__,
            name=args.name,
            config="BUILD.yaml",
            dataset="FOLDER",
            max_drop=args.max_drop,
            calibrate_on_validation=args.calibrate_on_validation,
        ),
        "quantize": config.quantize,
        "halves": halves,
    }
    write_json(results | describe_environment(("openvino", "nestforge")), str(args.output))


if __name__ == "__main__":
    run_command(main, name="max_drop")
