"""The vendor's document, run as written: deploy/ is copied away and every command of it is typed there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
DATASET = "/path/to/ILSVRC2012_img_val"
NPZ = "/path/to/input_npz"
COMMANDS = """\
python ./source_code/official_export.py --model_name resnest50  --size 224
sh ./data_prep_sh_files/valprep.sh
vamc build ./vacc_code/build/official_resnest.yaml
python ../common/utils/image2npz.py --dataset_path /path/to/ILSVRC2012_img_val --target_path  /path/to/input_npz  --text_path npz_datalist.txt
./vamp -m resnest50-int8-percentile-3_256_256-vacc/resnest50 --vdsp_params ./vacc_code/vdsp_params/official-resnest50-vdsp_params.json  -i 8 -p 1 -b 16
./vamp -m resnest50-int8-percentile-3_256_256-vacc/resnest50 --vdsp_params ./vacc_code/vdsp_params/official-resnest50-vdsp_params.json  -i 8 -p 1 -b 16 --datalist npz_datalist.txt --path_output output
python ../common/eval/vamp_eval.py --result_path output  --datalist npz_datalist.txt --label data/label/imagenet.txt
""".splitlines()  # noqa: E501


class Walk:
    """A copy of deploy/ with its commands on the PATH; stands in deploy/resnest."""

    def __init__(self, root: Path) -> None:
        shutil.copytree(ROOT / "deploy", root / "deploy")
        self.here = root / "deploy/resnest"
        tools = root / "bin"
        tools.mkdir()
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        module, function = scripts["vamc"].split(":")
        self._write(tools / "vamc", f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        for name in ("python", "python3"):
            self._write(tools / name, f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        self.env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def type(self, command: str, *, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.here, env=self.env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    walk = Walk(tmp_path_factory.mktemp("document"))
    flat = walk.here / "ImageNet/val"
    flat.mkdir(parents=True)
    rng = np.random.default_rng(0)
    table = (walk.here / "data_prep_sh_files/ilsvrc2012_val.txt").read_text().splitlines()
    for index in range(6):
        for number in table[index * 150].split()[1:4]:
            coarse = Image.fromarray(rng.integers(0, 256, (3 + index, 4, 3), np.uint8))
            image = coarse.resize((120 + 9 * index, 90 + 5 * index), Image.Resampling.BICUBIC)
            image.save(flat / f"ILSVRC2012_val_000{number}.JPEG", format="JPEG")
    return walk


def test_commands_are_the_documents() -> None:
    """The list above against the document itself, where it lies beside the checkout."""
    document = ROOT.parent / "shared/seed/000_972bb2e82915e8ba.txt"
    if not document.is_file():
        pytest.skip("no ../shared beside the checkout")
    lines = [line.strip() for line in document.read_text().splitlines()]
    assert [line for line in lines if re.match(r"(python|sh|vamc|\./vamp) ", line)] == COMMANDS


def test_the_document_as_written(walk: Walk) -> None:
    export, prepare, build, convert, speed, run, evaluate = COMMANDS
    done = walk.type(f"{export} --seed 0")
    assert "flops(G): 12.065" in done.stdout
    assert "params(M): 27.483" in done.stdout
    assert "MACs(G): 5.429" in done.stdout

    assert "18 files placed (move)" in walk.type(prepare).stdout
    done = walk.type(build)
    assert "this machine's engine" in done.stderr
    assert (walk.here / "resnest50-int8-percentile-3_256_256-vacc/resnest50/model.onnx").is_file()
    assert "--overwrite" in walk.type(build, code=2).stderr

    convert = convert.replace(DATASET, "ImageNet/val").replace(NPZ, str(walk.here / "input_npz"))
    assert "18 npz written" in walk.type(convert).stdout
    assert "18 there already" in walk.type(convert).stdout
    listed = (walk.here / "npz_datalist.txt").read_text().splitlines()
    assert len(listed) == 18
    assert all(Path(line).is_absolute() for line in listed)

    done = walk.type(speed)
    assert "number of instances: 8, processes: 1" in done.stdout
    assert "batch size: 16" in done.stdout
    assert float(re.findall(r"throughput \(fps\): ([\d.]+)", done.stdout)[0]) > 0
    assert {line.split(":")[1].strip() for line in done.stderr.splitlines() if line.startswith("warning")} == {
        "aspect ratio",
        "interpolation",
    }

    assert "18 results written" in walk.type(run).stdout
    assert "0 results written to output, 18 there already" in walk.type(run).stdout
    done = walk.type(evaluate)
    top1, top5 = recount(walk.here)
    assert f"top1准确率 (top-1 accuracy): {top1} / 18 = " in done.stdout
    assert f"top5准确率 (top-5 accuracy): {top5} / 18 = " in done.stdout
    assert done.stdout.startswith(f"top1_rate: {100 * top1 / 18:.4g} top5_rate: {100 * top5 / 18:.4g}\n")


def recount(here: Path) -> tuple[int, int]:
    """Count from the result files with nothing of the project: zip, bytes and lines."""
    wnids = sorted(
        line.split()[0] for line in (here / "data_prep_sh_files/ilsvrc2012_val.txt").read_text().splitlines()
    )
    listed = (here / "npz_datalist.txt").read_text().splitlines()
    outputs = sorted((here / "output").glob("*.npz"))
    assert len(outputs) == len(listed)
    text = (here / "result.txt").read_text().splitlines()
    top1 = top5 = 0
    for index, (image, output) in enumerate(zip(listed, outputs, strict=True)):
        with zipfile.ZipFile(output) as archive:
            assert archive.namelist() == ["output_0.npy"]
            content = archive.read("output_0.npy")
        scores = np.frombuffer(content[-4000:], "<f4")
        assert b"'descr': '<f4'" in content[:128]
        assert abs(scores.sum() - 1) < 1e-4
        better = int((scores > scores[wnids.index(Path(image).parent.name)]).sum())
        top1, top5 = top1 + (better < 1), top5 + (better < 5)
        for rank, line in enumerate(text[5 * index : 5 * index + 5]):
            assert line.startswith(f"{image}: Relay top-{rank} id: {np.argsort(-scores, kind='stable')[rank]}, prob: ")
    return top1, top5


def test_a_bad_npz_and_a_missing_result(walk: Walk) -> None:
    """Goes on from the walk: one npz is damaged, the rest is still run, and the count refuses."""
    if not (walk.here / "npz_datalist.txt").is_file():
        pytest.skip("the walk did not come so far")
    listed = (walk.here / "npz_datalist.txt").read_text().splitlines()
    Path(listed[4]).write_bytes(b"PK")
    command = COMMANDS[5].replace("--path_output output", "--path_output again").replace("-b 16", "-b 4")
    done = walk.type(command, code=1)
    assert listed[4] in done.stderr
    assert len(list((walk.here / "again").glob("*.npz"))) == 17
    done = walk.type(COMMANDS[6].replace("output ", "again "), code=2)
    assert "17 results but" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "python ./source_code/official_export.py --model_name resnest51",
        "vamc build nowhere.yaml",
        "vamc compile ./vacc_code/vdsp_params/official-resnest50-vdsp_params.json",
        "python ../common/utils/image2npz.py --dataset_path nowhere --target_path t",
        "./vamp -m nowhere",
        "./vamp -m nowhere -d 1",
        "python ../common/eval/vamp_eval.py --result_path nowhere --datalist nowhere --label data/label/imagenet.txt",
    ],
)
def test_errors_are_one_line_and_leave_nothing(walk: Walk, command: str) -> None:
    before = sorted(path.name for path in walk.here.iterdir())
    done = walk.type(command, code=2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in walk.here.iterdir()) == before


def test_scripts_are_thin() -> None:
    scripts = [*ROOT.glob("deploy/**/*.py"), ROOT / "deploy/resnest/vamp"]
    assert len(scripts) == 4
    assert all(len(path.read_text().splitlines()) <= 8 for path in scripts)
