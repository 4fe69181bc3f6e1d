"""Storage on S3, against a real server: the same behaviour as on a disk, and clear errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from cxrfeat.errors import ConfigError
from cxrfeat.head.predictor import Predictor
from cxrfeat.io import listing, storage
from cxrfeat.io.schema import Reason
from cxrfeat.pipeline import parquet_drops
from cxrfeat.pipeline.embed import embed_batches
from cxrfeat.pipeline.parquet_drops import open_drop, score_row_groups
from tests import fakes, s3
from tests.cxrfeat.io.test_storage import NAMES, SEEN, UNSEEN
from tests.cxrfeat.pipeline import drops as samples
from tests.s3 import put, upload


def schemes(bucket: str) -> list[str]:
    return [bucket, bucket.replace("s3a:", "s3:"), bucket.replace("s3a:", "s3n:")]


def test_objects_are_listed_as_files_are(bucket: str) -> None:
    """As on a disk, at any depth below a prefix or a whole bucket, by every scheme; markers of folders are no files."""
    for name in [*SEEN, *UNSEEN]:
        put(f"{bucket}/in/{name}")
    filesystem, path = storage.open_filesystem(f"{bucket}/in/folder.png")
    filesystem.create_dir(path)
    for root in schemes(bucket):
        assert sorted(listing.list_files(f"{root}/in/", (".png", ".jpeg"))) == sorted(SEEN)
    assert sorted(listing.list_files(bucket, (".png", ".jpeg"))) == sorted(f"in/{name}" for name in SEEN)


@pytest.mark.parametrize("name", NAMES)
def test_odd_keys_are_opened_and_found(bucket: str, name: str) -> None:
    """A key with spaces, percent signs or other letters is read as it is."""
    put(f"{bucket}/in/{name}", b"data")
    for root in schemes(bucket):
        with storage.open_input(f"{root}/in/{name}") as stream:
            assert (stream.size(), stream.read()) == (4, b"data")
        assert storage.exists(f"{root}/in/{name}")
        storage.check_file(f"{root}/in/{name}")
    assert not storage.exists(f"{bucket}/in/{name}x")


def test_text_is_written_replaced_and_read_back(bucket: str) -> None:
    """At the top of a bucket and below new prefixes; no temporary object stays, and a missing one is None."""
    for location in (f"{bucket}/summary.json", f"{bucket}/new/prefix/summary.json"):
        assert storage.read_text(location) is None
        for text in ("first, and longer\n", "zweiter – Röntgen 胸"):
            storage.write_text(location, text)
            assert storage.read_text(location) == text
    filesystem, root = storage.open_filesystem(bucket)
    objects = [info.path for info in filesystem.get_file_info(pafs.FileSelector(root, recursive=True)) if info.is_file]
    assert sorted(objects) == [f"{root}/new/prefix/summary.json", f"{root}/summary.json"]


def test_folders_are_listed_and_deleted(bucket: str) -> None:
    """A folder is a prefix: there as long as an object is below it, and deleted with all of them."""
    for name in ("round=1/a", "round=0/status=ok/b", "file"):
        put(f"{bucket}/out/{name}")
    assert storage.list_folders(f"{bucket}/out") == ["round=0", "round=1"]
    assert storage.exists(f"{bucket}/out/round=0/status=ok")
    storage.delete_folder(f"{bucket}/out/round=0")
    assert storage.list_folders(f"{bucket}/out") == ["round=1"]
    assert not storage.exists(f"{bucket}/out/round=0")
    assert storage.list_folders(f"{bucket}/nothing") == []


def test_missing_locations_are_errors(bucket: str) -> None:
    """A missing bucket, prefix or object is an error of the options; a folder in a file's place too."""
    put(f"{bucket}/in/a.png")
    for root in (f"{bucket}/other", f"{bucket}-other", f"{bucket}-other/in"):
        with pytest.raises(ConfigError, match=f"{root}' does not exist; expected a folder"):
            list(listing.list_files(root, (".png",)))
    with pytest.raises(ConfigError, match="in' is a folder; expected a file"):
        storage.check_file(f"{bucket}/in")
    with pytest.raises(ConfigError, match=r"cannot use 's3a:///in/a\.png': Path cannot start with a separator"):
        storage.check_file("s3a:///in/a.png")
    with pytest.raises(OSError, match="not found"):
        storage.write_text(f"{bucket}-other/summary.json", "text")


@pytest.mark.parametrize("key", ["in/gone.png", "in", "in/a.png/b.png"])
def test_a_missing_object_is_missing(bucket: str, key: str) -> None:
    """An object that has gone since it was listed is in quarantine as a file would be."""
    put(f"{bucket}/in/a.png")
    with pytest.raises(FileNotFoundError) as raised:
        storage.open_input(f"{bucket}/{key}")
    assert storage.quarantine_reason(raised.value) == Reason.MISSING
    (batch,) = embed_batches(
        fakes.handles([key, "in/a.png"]), encoder=fakes.FakeEncoder(), root=storage.qualify(bucket)
    )
    assert batch.column("reason").to_pylist() == [Reason.MISSING, Reason.NOT_PNG_OR_JPEG]


def test_denied_access_fails_the_job(bucket: str, s3_server: str) -> None:
    """Invalid credentials stop the job before any work, or fail it later with the message of S3."""
    put(f"{bucket}/in/a.png", fakes.png(fakes.gray_image()))
    with s3.locked(s3_server):
        for look in (
            lambda: list(listing.list_files(f"{bucket}/in", (".png",))),
            lambda: storage.check_file(f"{bucket}/x"),
        ):
            with pytest.raises(ConfigError, match=r"cannot use .*: .*AWS Error ACCESS_DENIED"):
                look()
        embedded = embed_batches(fakes.handles(["in/a.png"]), encoder=fakes.FakeEncoder(), root=bucket)
        with pytest.raises(OSError, match="AWS Error ACCESS_DENIED") as raised:
            list(embedded)
        assert storage.quarantine_reason(raised.value) is None
        assert storage.is_s3_error(raised.value)
        with pytest.raises(OSError, match="AWS Error ACCESS_DENIED"):
            open_drop("in/a.png", bucket, predictor())
    assert open_drop("in/a.png", bucket, predictor()).column("reason").to_pylist() == [Reason.NOT_PARQUET]


@pytest.mark.slow
def test_a_server_that_is_not_there_stops_the_job(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After pyarrow's retries the error names the connection, and no image is quarantined."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="AWS Error NETWORK_CONNECTION"):
        storage.check_file("s3a://unreachable/a.png")


def test_the_environment_says_region_and_credentials(bucket: str) -> None:
    """Both are taken from the usual variables, in a process that was told nothing else."""
    put(f"{bucket}/a.txt", b"found")
    code = (
        "from cxrfeat.io import storage; import sys;"
        "filesystem, path = storage.open_filesystem(sys.argv[1]);"
        "print(filesystem.region, storage.read_text(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, f"{bucket}/a.txt"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["eu-central-1", "found"]
    assert done.stderr == ""


def test_images_on_s3_are_embedded_as_local_ones(bucket: str, tmp_path: Path) -> None:
    """Every legal kind and invalid files give the same rows as on a disk."""
    for kind, (_, write) in fakes.LEGAL.items():
        (tmp_path / f"{kind}.png").write_bytes(write(fakes.gray_image()))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    upload(tmp_path, f"{bucket}/in")
    names = sorted(path.name for path in tmp_path.iterdir())
    local, remote = (
        pa.Table.from_batches(
            embed_batches(fakes.handles(names), encoder=fakes.FakeEncoder(), root=root, decode_threads=2)
        )
        for root in (str(tmp_path), f"{bucket}/in")
    )
    assert remote.equals(local)
    assert remote["status"].to_pylist().count("ok") == len(fakes.LEGAL)


def predictor() -> Predictor:
    return Predictor(fakes.bundle(samples.DIM, extractor=samples.EXTRACTOR), "youden")


def score(root: str) -> pa.Table:
    """Score every drop below a root, row group by row group."""
    head = predictor()
    handles = [
        handle
        for name in sorted(listing.list_files(root, parquet_drops.SUFFIXES))
        for handle in open_drop(name, root, head).to_pylist()
    ]
    return pa.Table.from_batches(score_row_groups(handles, root, head))


def test_drops_on_s3_are_scored_as_local_ones(bucket: str, tmp_path: Path) -> None:
    """Sound ones, and each unsound kind: the same predictions and the same quarantine."""
    samples.write(tmp_path / "sound.parquet", samples.rows(45))
    samples.damage_page(samples.write(tmp_path / "damaged.parquet", samples.rows(45)), 1)
    for name, (spoil, _) in samples.UNSOUND.items():
        spoil(samples.write(tmp_path / "ward" / f"{name}.parquet", samples.rows(20)))
    upload(tmp_path, f"{bucket}/drops")
    local, remote = score(str(tmp_path)), score(f"{bucket}/drops")
    assert remote.equals(local)
    assert len(set(remote["reason"].to_pylist())) == 1 + len({reason for _, reason in samples.UNSOUND.values()})


def test_an_s3_error_in_the_middle_of_a_drop_is_not_the_drops(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """S3 fails once during a read: the file is not quarantined, the task fails and is repeated."""
    upload(samples.write(tmp_path / "drop.parquet", samples.rows(20)).parent, f"{bucket}/drops")
    (handle,) = open_drop("drop.parquet", f"{bucket}/drops", predictor()).to_pylist()

    def fail(*_: object, **__: object) -> None:
        raise OSError("When reading information: AWS Error NETWORK_CONNECTION during GetObject operation")

    for method in ("iter_batches", "read_row_groups"):
        monkeypatch.setattr(pq.ParquetFile, method, fail)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        list(score_row_groups([handle], f"{bucket}/drops", predictor()))
