"""DICOM objects as images, and label maps as DICOM-SEG.

`series` finds what a folder holds, from one file's header after another (`objects`), `volumes` makes an image of a series
and brings label maps back to its slices, `segmentations` reads and writes DICOM-SEG. `sources` is the private file of
what a case was made of.
"""
