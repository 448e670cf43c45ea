"""Finding the series of a DICOM export: one pass over the files, against one scan a series and one more, twice over.

    python benchmarks/dicom_scan.py [--series 1 10 100] [--slices 8] [--out benchmarks/results/dicom_scan.jsonl]

Made CT series of small slices lie in one folder, or in a folder each. "one pass" is nnkd's scan; "by folder" is what
the conversion did before with ITK: a folder's series are listed, each one's files are looked for, and all is done once
for the channels and once for the cases. File openings are counted by a process that watches the folders (Linux). Rows
that are there already are not measured again.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from nnkd.data.reading.dicom.series import scan

ROOT = "1.2.826.0.1.3680043.8.498"
IN_OPEN, IN_CLOSE, IN_ISDIR = 0x20, 0x18, 0x40000000


def export(folder: Path, series: int, slices: int, in_folders: bool) -> None:
    """Write series of CT slices, named as disks of clinics have them."""
    pixels = np.random.default_rng(0).integers(-1000, 1000, (64, 64)).astype("<i2").tobytes()
    for k in range(series):
        place = folder / f"S{k:04d}" if in_folders else folder
        place.mkdir(parents=True, exist_ok=True)
        for z in range(slices):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"{ROOT}.{k + 1}.{z + 1}"
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
            ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, f"{ROOT}.{k + 1}.{z + 1}", "CT"
            ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.9{k}", f"{ROOT}.{k + 1}"
            ds.FrameOfReferenceUID, ds.SeriesNumber, ds.InstanceNumber = f"{ROOT}.8{k}", k + 1, z + 1
            ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 2 * z], [1, 0, 0, 0, 1, 0]
            ds.PixelSpacing, ds.Rows, ds.Columns = [1, 1], 64, 64
            ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelData = 16, 16, 15, pixels
            ds.save_as(place / f"IM{k * slices + z:06d}", enforce_file_format=True)


def one_pass(folder: Path) -> int:
    """Series that nnkd's scan finds."""
    return len(scan(folder).series)


def by_folder(folder: Path) -> int:
    """Series that the conversion found before."""
    found: dict[str, tuple[str, ...]] = {}
    for _ in ("channels", "cases"):
        for place in (folder, *sorted(p for p in folder.rglob("*") if p.is_dir())):
            if any(p.is_file() for p in place.iterdir()):
                for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(place)):
                    found[uid] = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(place), uid)
    for files in found.values():  # the modality
        reader = sitk.ImageFileReader()
        reader.SetFileName(files[0])
        reader.ReadImageInformation()
    return len(found)


def watch(folders: list[str]) -> None:
    """Count the openings of files in folders until the standard input is closed; print them."""
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    queue = libc.inotify_init1(0o4000)  # does not wait
    for folder in folders:
        # closings are watched, too: openings in a row of one file would become one event
        if libc.inotify_add_watch(queue, folder.encode(), IN_OPEN | IN_CLOSE) < 0:
            sys.exit("the folders cannot be watched")
    print("ready", flush=True)

    count, ended = 0, False
    while True:
        ready, _, _ = select.select([queue] if ended else [queue, sys.stdin], [], [], 0.2)
        if queue in ready:
            events, place = os.read(queue, 1 << 20), 0
            while place < len(events):
                _, mask, _, length = struct.unpack_from("iIII", events, place)
                count += bool(mask & IN_OPEN and not mask & IN_ISDIR)
                place += 16 + length
        elif ended:
            break
        ended = ended or sys.stdin in ready
    print(count, flush=True)


@contextmanager
def openings(folder: Path) -> Iterator[list[int]]:
    """A list that holds the number of openings afterwards."""
    folders = [str(folder), *(str(p) for p in folder.rglob("*") if p.is_dir())]
    words = [sys.executable, __file__, "--watch", *folders]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        counted: list[int] = []
        yield counted
        process.stdin.close()
        counted.append(int(process.stdout.readline()))


def main() -> None:
    """Measure what is missing, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", nargs="+", type=int, default=[1, 10, 100])
    parser.add_argument("--slices", type=int, default=8, help="of a series")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dicom_scan.jsonl")
    parser.add_argument("--watch", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        watch(options.watch)
        return
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.is_file() else []
    ways: dict[str, Callable[[Path], int]] = {"one pass": one_pass, "by folder": by_folder}
    for series in options.series:
        for in_folders in (True, False):
            layout = "a folder each" if in_folders else "one folder"
            keys = {way: {"series": series, "slices": options.slices, "layout": layout, "way": way} for way in ways}
            missing = [way for way in ways if not any(keys[way].items() <= row.items() for row in rows)]
            if not missing:
                continue
            with tempfile.TemporaryDirectory() as name:
                export(Path(name), series, options.slices, in_folders)
                for way in missing:
                    with openings(Path(name)) as counted:
                        start = time.perf_counter()
                        found = ways[way](Path(name))
                        seconds = time.perf_counter() - start
                    assert found == series
                    rows.append({**keys[way], "seconds": round(seconds, 3), "openings": counted[0]})
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    for row in rows:
        print(f"{row['series']:4} series, {row['layout']:13} {row['way']:9} {row['seconds']:8.2f} s "
              f"{row['openings']:7} openings of {row['series'] * row['slices']} files")  # fmt: skip


if __name__ == "__main__":
    main()
