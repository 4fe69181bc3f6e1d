"""The command: the effect of each option, clear errors, and a page that a browser shows without console messages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from head_training import evaluate
from head_training.report import __main__ as report
from tests.head_training.evaluations import Case
from tests.head_training.report.pages import BROWSER, Page, browse
from tests.head_training.runs import FAST, fit

pytestmark = pytest.mark.slow  # whole reports and evaluations


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, features: Path) -> Case:
    """Return an evaluation with a run, two lists and images."""
    case = Case(tmp_path_factory.mktemp("case"))
    case.evaluate("eval", "--resamples", "5")
    case.write_list("rest.txt", range(90, 180))
    (case.folder / "xrays").mkdir()
    for name in case.images[:40]:
        Image.fromarray(np.full((64, 64), 90, dtype=np.uint8)).save(case.folder / "xrays" / name)
    assert fit(features, case.folder / "run", *FAST) == 0
    return case


def options_of(case: Case, *names: str) -> list[str]:
    """Return the options with these names, with the files of the case."""
    files = {"metadata": "truth.csv", "train-val-list": "rest.txt", "test-list": "test.txt", "images": "xrays",
             "run": "run", "evaluation": "eval", "predictions": "predictions.parquet", "output": "out"}  # fmt: skip
    return [part for name in names for part in (f"--{name}", str(case.folder / files[name]))]


def write(case: Case, *names: str) -> Page:
    assert report.main(options_of(case, *names, "output")) == 0
    return Page((case.folder / "out" / "report.html").read_text())


NUMBERS = ["Test", "Operating points", "Calibration", "Triage", "Baselines", "Subgroups", "Literature"]


@pytest.mark.parametrize(
    ("names", "sections"),
    [
        (["metadata"], ["Data"]),
        (["run"], ["Data", "Training"]),
        (
            ["metadata", "train-val-list", "test-list", "images", "evaluation", "predictions"],
            ["Data", *NUMBERS, "Predictions"],
        ),
    ],
)
def test_each_part_brings_its_sections(case: Case, names: Sequence[str], sections: list[str]) -> None:
    """The page has the sections of the given inputs and no others, and no folder names."""
    page = write(case, *names)
    assert page.sections == sections
    assert str(case.folder) not in page.text


def test_lists_and_images_change_the_page(case: Case) -> None:
    """The split is that of the lists instead of the hash, and a folder of images adds a contact sheet."""
    plain, listed = write(case, "metadata"), write(case, "metadata", "train-val-list", "test-list")
    assert "By a hash of the patient" in plain.text
    assert "Official lists" in listed.text
    assert "50\u00a0% of images are in the test set" in listed.titles
    assert "img" not in plain.tags
    with_images = write(case, "metadata", "images")
    assert with_images.tags["img"] > 1
    assert len(with_images.titles) == len(plain.titles) + 1


@pytest.mark.parametrize(
    ("names", "folder"), [(["run", "evaluation"], "eval"), (["run", "metadata"], "run"), (["metadata"], None)]
)
def test_the_report_lies_beside_what_it_is_about(case: Case, names: Sequence[str], folder: str | None) -> None:
    """Without --output, it is beside the evaluation, else beside the run, else in a folder named report."""
    expected = Path("report") if folder is None else case.folder / folder
    assert report.parse(options_of(case, *names)).output == expected
    assert report.parse(options_of(case, *names, "output")).output == case.folder / "out"


def test_an_evaluation_is_a_folder_or_its_file(case: Case) -> None:
    """metrics.json itself is accepted too, and its folder is the default output."""
    config = report.parse(["--evaluation", str(case.folder / "eval" / "metrics.json")])
    assert config.output == case.folder / "eval"
    assert report.main(["--evaluation", str(config.evaluation), "--output", str(case.folder / "single")]) == 0
    assert Page((case.folder / "single" / "report.html").read_text()).sections == NUMBERS


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "nothing to report on; give --metadata, --run or --evaluation"),
        (["run", "test-list", "train-val-list"], "give --metadata too"),
        (["metadata", "test-list"], "only one official list is given"),
        (["evaluation", "images"], "--images needs the labels of the images"),
        (["metadata", "predictions"], "give --evaluation and --images too"),
    ],
)
def test_options_that_do_not_go_together_end_with_code_2(
    case: Case, capsys: pytest.CaptureFixture[str], names: Sequence[str], message: str
) -> None:
    """One line, nothing written, and no option is silently without effect."""
    assert report.main([*options_of(case, *names), "--output", str(case.folder / "refused")]) == 2
    assert message in capsys.readouterr().err
    assert not (case.folder / "refused").exists()


def test_files_that_cannot_be_used_end_with_code_2(
    case: Case, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The error is one line that names the file."""
    for option, message in (
        ("--metadata", str(tmp_path / "none")),
        ("--run", "config.json does not exist"),
        ("--evaluation", "does not exist"),
    ):
        assert report.main([option, str(tmp_path / "none"), "--output", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert report.main([*options_of(case, "metadata"), "--output", str(tmp_path / "file")]) == 2
    assert f"cannot write {tmp_path / 'file' / 'report.html'}" in capsys.readouterr().err


def test_a_folder_with_other_images_is_refused(case: Case, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An error, instead of a page with fifteen empty frames."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "other.png").write_bytes(b"")
    options = [*options_of(case, "metadata"), "--images", str(tmp_path / "other"), "--output", str(tmp_path / "out")]
    assert report.main(options) == 2
    assert "none of the 1 images in" in capsys.readouterr().err


def test_ctrl_c_is_a_line_and_a_code(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both commands end with code 130 and one line on what is missing, and leave no folder."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "evaluate", interrupt)
    monkeypatch.setattr(report, "write_report", interrupt)
    output = ["--output", str(tmp_path / "out")]
    assert evaluate.main([*options_of(case, "run"), *output]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted: metrics.json was not written"
    assert report.main([*options_of(case, "run"), *output]) == 130
    assert capsys.readouterr().err == "interrupted: no report was written\n"
    assert not (tmp_path / "out").exists()


def test_fit_and_evaluate_write_their_own_report(features: Path, tmp_path: Path) -> None:
    """By default, fit writes RUN/evaluation and RUN/report.html, and evaluate EVAL/report.html."""
    run, evaluation = tmp_path / "run", tmp_path / "eval"
    assert fit(features, run, *FAST, report=True) == 0
    assert Page((run / "report.html").read_text()).sections == ["Data", "Training", *NUMBERS]
    assert (run / "evaluation" / "metrics.json").exists()
    assert evaluate.main(["--run", str(run), "--output", str(evaluation), "--resamples", "5"]) == 0
    assert Page((evaluation / "report.html").read_text()).sections == ["Data", "Training", *NUMBERS]
    assert fit(features, tmp_path / "bare", *FAST) == 0
    assert not (tmp_path / "bare" / "report.html").exists()


PROBE = """<script>
const shown = [...document.querySelectorAll("svg, img")].filter(e => e.getBoundingClientRect().width > 50);
const beyond = document.documentElement.scrollWidth - document.documentElement.clientWidth;
parent.document.body.setAttribute("data-probe-" + innerWidth, JSON.stringify([innerWidth, shown.length, beyond]));
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path")
def test_a_browser_shows_every_figure_without_console_messages(case: Case, tmp_path: Path) -> None:
    """In wide and narrow windows, every figure has a size, nothing overflows the page, and the console is empty."""
    write(case, "metadata", "train-val-list", "test-list", "images", "run", "evaluation", "predictions")
    html = (case.folder / "out" / "report.html").read_text()
    tags = Page(html).tags
    page = tmp_path / "page.html"
    # In frames, because the window of a headless browser is never narrower than 500 pixels.
    inside = escape(html.replace("</body>", PROBE + "</body>"), quote=True)
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{inside}"></iframe>' for width in (1440, 390))
    page.write_text(f"<!doctype html><body>{frames}</body>")
    document, messages = browse(page)
    assert messages == ""
    probes = [
        [int(number) for number in probe.split(",")] for probe in re.findall(r'data-probe-\d+="\[(.*?)\]"', document)
    ]
    figures = tags["svg"] + tags["img"]
    assert sorted(probes) == [[390, figures, 0], [1440, figures, 0]]
    page.write_text("<!doctype html><body><script>nothing.there</script></body>")
    assert "nothing is not defined" in browse(page)[1]


def test_a_report_needs_neither_torch_nor_spark() -> None:
    """The report starts quickly, and does not need the software that trained the head."""
    code = "import sys, head_training.report.__main__; print(sorted({'torch', 'pyspark'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_table_of_ones_own_and_its_labels(case: Case) -> None:
    """The data section describes a table by its column map, in the label set that is asked for."""
    folder = case.folder
    (folder / "own.csv").write_text("file;what\na.png;Mass, Edema\nb.png;Mass\nc.png;No Finding\n")
    (folder / "map.toml").write_text('image = "file"\n[labels]\ncolumn = "what"\nseparator = ","\n')
    words = [
        "--metadata",
        str(folder / "own.csv"),
        "--columns",
        str(folder / "map.toml"),
        "--labels",
        "normal-abnormal",
    ]
    assert report.main([*words, "--output", str(folder / "own")]) == 0
    html = (folder / "own" / "report.html").read_text()
    assert "Abnormal occurs in 66.7\u00a0% of images" in html
    assert "the set normal-abnormal" in html
    assert report.main(["--run", str(folder / "run"), "--labels", "nih14", "--output", str(folder / "own")]) == 2
