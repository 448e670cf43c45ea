"""Tests of nnkd.steps.profile and its command."""

from __future__ import annotations

import importlib.util
import json

import pytest

from nnkd.cli.profile import main
from nnkd.networks.profiles import Subject
from nnkd.steps.profile import profile

HAS_THOP = importlib.util.find_spec("thop") is not None
UNET = ("-tr", "nnUNetTrainerUNet", "--no_latency")


def printed(capsys, *arguments, code=0) -> str:
    assert main(arguments) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def test_a_students_table(capsys):
    lines = printed(capsys, *UNET, "--size", "512", "512").splitlines()
    (paper,) = [line for line in lines if line.startswith("  nnUNetTrainerUNet  paper ")]
    assert paper.split()[2:5] == ["1x1x512x512", "2,260,161", "55.65"]
    if HAS_THOP:
        assert paper.endswith("2.26 M / 55.65 G")
    assert any("paper 1, Table 4, prints 2.26 M / 55.65 G for 512x512" in line for line in lines)
    assert any("10^9 multiply-adds" in line and "attention" in line for line in lines)
    assert not any("latency" in line for line in lines)


def test_exact_numbers_as_json(capsys):
    found = json.loads(printed(capsys, *UNET, "--size", "64", "64", "--variant", "paper", "--json"))
    (row,) = found["rows"]
    assert (row["kind"], row["name"], row["variant"]) == ("student", "nnUNetTrainerUNet", "paper")
    assert (row["parameters"], row["macs"]) == (2_260_161, 55_650_025_472 // 64)
    assert row["by_operation"] == {"convolution": row["macs"]}
    assert (row["paper"]["macs"], row["latency"]) == ("55.65 G", None)
    assert "flop_counter" in found["counter"]


def test_options_channels_labels_and_three_dimensions(capsys):
    options = ("--size", "8", "16", "16", "--channels", "2", "--labels", "3", "--set", "norm=none")
    found = json.loads(printed(capsys, *UNET, *options, "--variant", "as set", "--json"))
    assert found["rows"][0]["input"] == [[1, 2, 8, 16, 16]]


@pytest.mark.heavy
def test_latency_and_memory(capsys):
    lines = printed(
        capsys, *UNET[:2], "--size", "16", "16", "--runs", "1", "--variant", "default", "-device", "cpu"
    ).splitlines()
    row, *_ = [line for line in lines if line.startswith("  nnUNetTrainerUNet")]  # and why thop did not count
    assert " ms " in row
    assert any("1 runs on cpu, 1 thread(s)" in line for line in lines)


@pytest.mark.heavy
def test_all_with_reasons(capsys):
    text = printed(capsys, "--all", "--no_latency", "--size", "32", "32")
    assert "students (-tr)" in text
    assert "  atlas: The atlas teacher registers labelled cases to the scan: a classical method" in text
    assert "  imported: " in text
    assert "  nnunet: " in text


def test_a_network_that_cannot_be_built_is_a_row_of_its_own(monkeypatch):
    class Broken:
        @staticmethod
        def build_network_architecture(*_, **__):
            raise ValueError("no 2D")

    class Other:
        @staticmethod
        def build_network_architecture(*_, **__):
            from torch import nn

            return nn.Conv2d(1, 2, 3)

    subjects = [Subject("student", name, cls, size=(8, 8)) for name, cls in (("a", Broken), ("b", Other))]
    subjects.append(Subject("teacher", "c", None, "The teacher 'c' could not be imported."))
    report = profile(subjects, timed=False)
    assert [row.get("parameters") for row in report.data["rows"]] == [None, 20, None]
    assert any(line.startswith("  a default: It could not be built") and "no 2D" in line for line in report.lines)
    assert "  c: The teacher 'c' could not be imported." in report.lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-tr", "nnUNetTrainerUnet"), "Did you mean 'nnUNetTrainerUNet'?"),
        (("--teacher", "atlass"), "Did you mean 'atlas'?"),
        (("--teacher", "atlas"), "classical method without a network"),
        ((*UNET, "--set", "nrm=none"), "Did you mean 'norm'?"),
        ((*UNET, "--set", "other.norm=none"), "--set names 'other'"),
        (("-tr", "nnUNetTrainerKD", "--no_latency", "--size", "3", "3"), "Try another --size"),
        ((*UNET, "--variant", "papr"), "Did you mean 'paper'?"),
    ],
)
def test_wrong_names_are_answered_in_one_sentence(capsys, arguments, message):
    assert message in printed(capsys, *arguments, code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-tr", "a", "--teacher", "b"),
        ("--all", "-tr", "a"),
        ("--all", "--size", "0", "5"),
        ("--all", "--size", "-3", "5"),
        ("--all", "--size", "5"),
        ("--all", "--size", "5", "5", "5", "5"),
        ("--all", "--size", "5.5", "5"),
        ("--all", "--threads", "0"),
        ("--all", "--set", "norm=none"),
    ],
)
def test_wrong_usage(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err
