"""Images and results as ``.npz`` files of one array each. Files are written atomically, and nothing is unpickled."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nestforge.data.imagefolder import ImageFolder, list_images
from nestforge.data.loader import UnreadableImage, map_in_order
from nestforge.data.preprocess import MAX_PIXELS, decode_image
from nestforge.engines.machine import count_available_cores
from nestforge.errors import DataError
from nestforge.files import atomic_write, read_text, remove_leftovers
from nestforge.progress import Progress, no_progress

INPUT_KEY, OUTPUT_KEY = "input_0", "output_0"
RUN_FILE = "vamp.json"  # in a result folder: identifies the run that made the results
MAX_LIST_BYTES = 1 << 30
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_NUMBERS = "uif"
_WRITTEN_AT = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # the earliest time that zip allows; fixed, so that the same array gives the same bytes


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The outcome of `convert_images`: `skipped` images had an npz already, and `unreadable` images have none."""

    written: int
    skipped: int
    unreadable: tuple[UnreadableImage, ...]
    datalist: Path
    listed: int


def convert_images(
    dataset: Path, target: Path, datalist: Path, *, workers: int | None = None, progress: Progress = no_progress
) -> Conversion:
    """Write each image below `dataset` to ``target/CLASS/NAME.npz``, and list the files, one absolute path per line.

    The array ``input_0`` is (3, H, W) uint8 RGB in the original size. Files are sorted by class folder and name. An
    existing npz that is not older than its image is kept. Unreadable images are left out of the list.

    Raises:
        DataError: there are no images, or two images of a class differ only in their suffix.
        NestForgeError: the target cannot be written.
    """
    folder = list_images(dataset)
    outputs = _name_outputs(folder, target)
    for parent in {path.parent for path in outputs}:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(parent)
        except OSError as error:
            raise DataError(f"cannot create {parent}: {error.strerror}; choose another target") from error
    output_of = dict(zip(folder.paths, outputs, strict=True))

    def convert(path: Path) -> bool | DataError:
        output = output_of[path]
        if not _fits_list(output):
            return DataError(
                f"{path}: a name in the list cannot hold a line break or bytes that are not text; rename it"
            )
        try:
            if output.is_file() and output.stat().st_mtime_ns >= path.stat().st_mtime_ns:
                return False
            image_hwc = np.asarray(decode_image(path))
        except OSError as error:
            return DataError(f"{path}: {error.strerror}")
        except DataError as error:
            return error
        write_npz(output, INPUT_KEY, np.ascontiguousarray(image_hwc.transpose(2, 0, 1)))
        return True

    workers = workers or count_available_cores()
    unreadable: list[UnreadableImage] = []
    good: list[Path] = []
    written = 0
    with progress("converting", len(outputs)) as advance:
        outcomes = map_in_order(folder.paths, convert, ahead=4 * workers, workers=workers)
        for index, outcome in enumerate(outcomes):
            advance(1)
            if isinstance(outcome, DataError):
                unreadable.append(UnreadableImage(image=str(folder.paths[index]), reason=str(outcome)))
            else:
                written += outcome
                good.append(outputs[index])
    write_datalist(datalist, good)
    return Conversion(
        written=written,
        skipped=len(good) - written,
        unreadable=tuple(unreadable),
        datalist=datalist,
        listed=len(good),
    )


def _name_outputs(folder: ImageFolder, target: Path) -> list[Path]:
    outputs: dict[Path, Path] = {}
    root = target.absolute()
    for name, path in zip(folder.folders, folder.paths, strict=True):
        output = root / name / f"{path.stem}.npz"
        if output in outputs:
            raise DataError(f"{outputs[output]} and {path} would both become {output}; rename one")
        outputs[output] = path
    return list(outputs)


def _fits_list(path: Path) -> bool:
    text = str(path)
    return text.splitlines() == [text.strip()] and text.encode(errors="replace").decode() == text


def write_datalist(path: Path, files: Sequence[Path]) -> None:
    """Write a list of files, one absolute path per line."""
    with atomic_write(path) as partial:
        partial.write_text("".join(f"{file}\n" for file in files), encoding="utf-8")


def read_datalist(path: Path) -> ImageFolder:
    """Read a list of npz files; each one's class is the name of its parent folder.

    Raises:
        DataError: the list is missing, not text, empty, or names a path twice.
    """
    remedy = "give one npz path per line, as image2npz.py writes it"
    text = read_text(path, limit_bytes=MAX_LIST_BYTES, kind="datalist", remedy=remedy, error=DataError)
    files = [Path(line.strip()) for line in text.splitlines() if line.strip()]
    if not files:
        raise DataError(f"datalist {path} is empty; make it with image2npz.py")
    if len(set(files)) != len(files):
        raise DataError(f"datalist {path} names {len(files) - len(set(files))} files more than once; make it again")
    return ImageFolder(root=path, paths=tuple(files), folders=tuple(file.parent.name for file in files))


def hash_list(files: Sequence[Path]) -> str:
    """Return the sha256 of the paths of a list, in order."""
    return hashlib.sha256("\n".join(map(str, files)).encode("utf-8", "surrogateescape")).hexdigest()


def write_npz(path: Path, key: str, array: npt.NDArray[Any]) -> None:
    """Write one array; the file appears only when it is complete."""
    contiguous = np.asarray(array, order="C")
    with (
        atomic_write(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
        archive.open(zipfile.ZipInfo(f"{key}.npy", _WRITTEN_AT), "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, np.lib.format.header_data_from_array_1_0(contiguous))
        member.write(contiguous.reshape(-1).view(np.uint8).data)


def read_image_npz(path: Path) -> npt.NDArray[np.uint8]:
    """Read the image of an npz: (3, H, W) uint8 RGB.

    Raises:
        DataError: not such a file.
    """
    image = read_npz(path, INPUT_KEY, max_values=3 * MAX_PIXELS)
    if image.dtype != np.uint8 or image.ndim != 3 or len(image) != 3 or not image.size:
        raise DataError(f"{path}: {INPUT_KEY} is {image.shape} {image.dtype}, not (3, H, W) uint8; convert it again")
    return image


def read_npz(path: Path, key: str, *, max_values: int) -> npt.NDArray[Any]:
    """Read one numeric array of an npz. Nothing is unpickled, and no more is read than the header announces.

    Raises:
        DataError: the file is missing or damaged, the key is missing, or the array is not numeric or too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is not a regular file; it was not read")
        with zipfile.ZipFile(path) as archive:
            if f"{key}.npy" not in archive.namelist():
                raise DataError(
                    f"{path} has no array {key!r}; it holds {', '.join(archive.namelist()[:3]) or 'nothing'}"
                )
            with archive.open(f"{key}.npy") as member:
                return _read_array(member, path, max_values)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"no file {path}; make it again") from error
    except Exception as error:  # zipfile, zlib and numpy raise many kinds of errors on broken bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a readable npz ({reason}); make it again") from error


def _read_array(member: IO[bytes], path: Path, max_values: int) -> npt.NDArray[Any]:
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise DataError(f"{path} is of npy version {version}; make it again")
    shape, fortran_order, dtype = _HEADERS[version](member)
    if dtype.kind not in _NUMBERS or dtype.hasobject:
        raise DataError(f"{path} holds {dtype}, not plain numbers; it was not loaded")
    count = 1
    for side in shape:
        count *= side
    if not 0 <= count <= max_values:
        raise DataError(f"{path} holds {count:,} values, more than {max_values:,}; it was not loaded")
    size = count * dtype.itemsize
    data = member.read(size + 1)
    if len(data) != size:
        raise DataError(f"{path} is damaged: its array does not have the size in its header; make it again")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
