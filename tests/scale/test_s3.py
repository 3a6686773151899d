"""S3, as moto serves it on this machine: pip install s3fs 'moto[server]'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nestforge.errors import NestForgeError
from nestforge.measure.evaluate import evaluate
from tests.support.scale import get_counts

pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytest.importorskip("pyarrow")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # botocore's own


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket that commands and Ray's workers find through the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem().mkdir("data")
        yield "s3://data"
    server.stop()


@pytest.mark.parametrize("ray", [None, "local"])
def test_counts_equal_the_folder_s(
    artifacts: dict[str, Path], damaged: Path, shards: Path, parquet: Path, bucket: str, ray: str | None
) -> None:
    import s3fs

    if ray:
        pytest.importorskip("ray")
    reference = get_counts(evaluate(artifacts["fp32"], damaged))
    system = s3fs.S3FileSystem()
    for folder in (damaged, shards, parquet):
        name = f"{bucket}/{folder.name}"
        if not system.exists(name):
            system.put(f"{folder}/", name, recursive=True)
        assert get_counts(evaluate(artifacts["fp32"], name, ray=ray)) == reference, name
    assert get_counts(evaluate(artifacts["fp32"], f"{bucket}/{shards.name}/part-*.tar", ray=ray)) == reference


def test_what_is_not_there(artifacts: dict[str, Path], bucket: str) -> None:
    for url in (f"{bucket}/nothing", "s3://nobody/nothing"):
        with pytest.raises(NestForgeError, match=r"nothing found at|cannot use"):
            evaluate(artifacts["fp32"], url)
