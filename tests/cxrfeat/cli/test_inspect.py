"""Inspect prints what the readers see, gives the jobs' verdict, and writes the network's input."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrfeat.cli.inspect import main
from cxrfeat.images.preprocess import Fit, InputSpec, to_model_input
from cxrfeat.io.refs import ImageRef
from cxrfeat.pipeline.embed import prepare
from tests import fakes
from tests.dicom_files import dicom, scale
from tests.image_files import CASES, Case

GRAY = fakes.gray_image(64, 80)


@pytest.mark.parametrize("case", CASES[::5], ids=lambda case: case.name)
def test_the_verdict_is_that_of_the_jobs(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reason and message are those of the quarantine; ok has pixel format and size."""
    (tmp_path / "x").write_bytes(case.data)
    words = ["--bits-stored", str(case.options.bits_stored)] if case.options.bits_stored else []
    code = main([str(tmp_path / "x"), *words])
    said = capsys.readouterr().out
    prepared = prepare(ImageRef("x"), str(tmp_path), options=case.options)
    if prepared.reason is None:
        assert code == 0
        assert f"{prepared.pixel_format}\n" in said
        assert said.endswith("verdict        ok\n")
    else:
        assert code == 3
        assert f"quarantined as {prepared.reason}\n  reason         {prepared.message}\n" in said


def test_a_dicom_header_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Facts of the header, without identifiers; --any-dicom takes what is refused without it."""
    (tmp_path / "a").write_bytes(dicom(scale(GRAY, 12), 12, PixelSpacing=[0.1, 0.2], PatientName="Muster^Eva"))
    assert main([str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    for line in ("DICOM", "80 × 64 pixels", "monochrome2-12", "58.0", "CHEST", "(0.1, 0.2)", "white is 255"):
        assert line in said
    assert "Muster" not in said
    assert "P1" not in said
    (tmp_path / "b").write_bytes(dicom(scale(GRAY, 12), 12, Modality="CT"))
    assert main([str(tmp_path / "b")]) == 3
    assert main([str(tmp_path / "b"), "--any-dicom"]) == 0


def test_the_model_input_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The PNG has the bytes that the network gets, at its size and fit."""
    (tmp_path / "a.png").write_bytes(fakes.png(GRAY))
    words = ["--write", str(tmp_path / "out"), "--backbone", "densenet121", "--input-size", "96", "--fit", "pad"]
    assert main([str(tmp_path / "a.png"), *words]) == 0
    assert str(tmp_path / "out" / "a.png.png") in capsys.readouterr().out
    written = np.asarray(Image.open(tmp_path / "out" / "a.png.png"))
    np.testing.assert_array_equal(written, to_model_input(GRAY, InputSpec(96, Fit.PAD)))


def test_what_is_no_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing files, folders, FIFOs and empty files; the good one among them is inspected."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    (tmp_path / "good").write_bytes(fakes.png(GRAY))
    names = ["missing", ".", "fifo", "empty", "good"]
    assert main([str(tmp_path / name) for name in names]) == 3
    said = capsys.readouterr().out
    for reason in ("missing", "unreadable", "empty"):
        assert f"quarantined as {reason}" in said
    assert said.count("verdict        ok") == 1


def test_an_unknown_network_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid options end in one line, before any file is read."""
    assert main([str(tmp_path / "x"), "--backbone", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
    assert main([str(tmp_path / "x"), "--bits-stored", "3"]) == 2
    assert "--bits-stored 3; expected 9 to 16" in capsys.readouterr().err
