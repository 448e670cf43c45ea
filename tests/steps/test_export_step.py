"""Tests of nnkd.steps.export and nnKD_export."""

from __future__ import annotations

import pytest
from trained import trained

from nnkd.cli.export import main
from nnkd.errors import SettingError
from nnkd.steps import export as module
from nnkd.steps.export import export
from nnkd.types import FolderCount
from nnkd.weights.checkpoints import TrainedModel


class Written:
    """Takes note of what would be written."""

    def __init__(self, monkeypatch):
        self.calls = []
        for name in ("write_box_model", "write_student", "write_stock_model"):
            monkeypatch.setattr(module, name, self._note(name))

    def _note(self, name):
        def write(source, folder, **options):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
            self.calls.append((name, source, options))
            return [f"{name} done"]

        return write


@pytest.fixture
def written(monkeypatch):
    return Written(monkeypatch)


def said(capsys) -> str:
    return capsys.readouterr().err.strip()


def test_a_student_is_written_in_the_formats_that_are_asked_for(written, tmp_path, capsys):
    folder = trained(tmp_path, folds=("0", "2"))
    words = ["-m", str(folder), "-o", str(tmp_path / "out")]
    assert main([*words, "--format", "nnunet", "openvino"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "written to out: nnunet, openvino"
    (first, model, _), (second, _, options) = written.calls
    assert (first, second, options) == ("write_stock_model", "write_student", {"openvino": True})
    assert (tmp_path / "out" / "nnunet" / "write_stock_model").is_file()
    assert (tmp_path / "out" / "write_student").is_file()
    assert list(model.folds) == ["0", "2"]  # all that are trained
    assert main([*words, "-f", "2"]) == 0
    assert (written.calls[-1][0], list(written.calls[-1][1].folds)) == ("write_student", ["2"])
    assert written.calls[-1][2] == {"openvino": False}
    assert main([*words, "-f", "1"]) == 1
    assert "Fold(s) 1 of 'nnUNetTrainer__nnUNetPlans__2d' have no checkpoint_final.pth" in said(capsys)


def test_what_somebody_put_there_is_not_replaced(written, tmp_path, capsys):
    folder = trained(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fold_0.onnx").write_text("mine")
    words = ["-m", str(folder), "-o", str(tmp_path / "out")]
    assert main(words) == 1
    assert "'fold_0.onnx' in 'out' would be replaced, but nnkd did not write it" in said(capsys)
    assert written.calls == []  # before anything is computed
    assert main([*words, "--replace"]) == 0


def test_a_trained_model_is_found_by_its_names(written, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    trained(tmp_path / "Dataset799_Trained")
    assert main(["-d", "799", "-tr", "nnUNetTrainer", "-c", "2d", "-o", str(tmp_path / "out")]) == 0
    assert written.calls[0][1].folder.name == "nnUNetTrainer__nnUNetPlans__2d"
    assert main(["-d", "799", "-c", "2d", "-o", str(tmp_path / "out")]) == 1
    assert "There is no trained model 'nnUNetTrainerKD__nnUNetPlans__2d'" in said(capsys)


class Teacher:
    def __init__(self, context=None):
        self.context = context

    def export_graphs(self):
        return "graphs"


def test_a_box_model_is_written_in_two_parts_and_never_for_nnunet(written, tmp_path):
    export(Teacher, tmp_path / "out", ["onnx"])
    assert written.calls == [("write_box_model", "graphs", {"openvino": False})]
    assert (tmp_path / "out" / "write_box_model").is_file()
    with pytest.raises(SettingError, match="nnU-Net has no models prompted by boxes"):
        export(Teacher, tmp_path / "out", ["nnunet", "onnx"])
    assert len(written.calls) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "nobody"], "nobody"),
        (["--model", "gone.pth"], "There is no checkpoint 'gone.pth' where --model says."),
        (["--model", "imported"], "The teacher 'imported' is not prompted by boxes"),
        (["-m", "gone"], "There is no trained model 'gone'"),
    ],
)
def test_what_is_no_model_is_refused_in_a_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "-o", "out"]) == 1
    error = said(capsys)
    assert error.startswith("error: ")
    assert sentence in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_models_are_refused(tmp_path, capsys):
    assert main(["--model", str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert "is a folder: name it with -m" in said(capsys)
    folder = trained(tmp_path)
    folder.rename(tmp_path / "renamed")
    assert main(["-m", str(tmp_path / "renamed"), "-o", str(tmp_path / "out")]) == 1
    assert "'renamed' is not called TRAINER__PLANS__CONFIGURATION" in said(capsys)


def test_eight_bits_need_calibration_and_a_box_model(written, tmp_path, monkeypatch, capsys):
    noted = []
    monkeypatch.setattr(module, "read_pictures", lambda folder: ([folder.name], FolderCount("images", 1)))
    monkeypatch.setattr(module, "add_int8", lambda _, *words: noted.append(words) or ["8 bits done"])
    report = export(Teacher, tmp_path / "out", ["onnx"], tmp_path / "images", 0.02)
    assert noted == [(["images"], 0.02)]
    assert report.lines == ["write_box_model done", "8 bits done"]
    assert main(["--model", "litemedsam", "-o", str(tmp_path), "--int8"]) == 1
    assert "--int8 and --calibration FOLDER go together" in said(capsys)
    folder = trained(tmp_path)
    assert main(["-m", str(folder), "-o", str(tmp_path / "out"), "--int8", "--calibration", str(tmp_path)]) == 1
    assert "8 bits are for models prompted by boxes" in said(capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "out"],
        ["-o", "out", "-m", "a", "--model", "b"],
        ["-o", "out", "-d", "701"],
        ["-o", "out", "-m", "a", "--format", "tensorrt"],
        ["-m", "a"],
    ],
)
def test_a_wrong_command_line_is_usage(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    capsys.readouterr()


def test_a_checkpoint_of_a_box_trainer_goes_to_its_teacher(written, tmp_path, monkeypatch, capsys):
    from nnkd.cli import export as command

    monkeypatch.setattr(command, "_box_teacher", lambda trainer: "litemedsam" if trainer == "nnUNetTrainer" else "")
    made = []
    monkeypatch.setattr(command, "_teacher", lambda *words: made.append(words) or Teacher)
    folder = trained(tmp_path, folds=("0", "1"))
    assert main(["-m", str(folder), "-o", str(tmp_path / "out")]) == 1
    assert "of which one fold is exported. Choose one with -f" in said(capsys)
    assert main(["-m", str(folder), "-f", "1", "-o", str(tmp_path / "out")]) == 0
    assert made == [("litemedsam", TrainedModel.open(folder, ["1"], "checkpoint_final.pth").files()[0])]
