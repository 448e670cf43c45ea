"""DICOM objects as images, and label maps as DICOM-SEG.

`series` finds what a folder holds, from the headers of its files (`objects`). `volumes` makes an image of a series and
brings label maps back to its slices; behind it: `frames` (headers), `pixels` (decoding, slopes, padding), `stacks`
(order and grid), `shears` (tilted series), `uptake` (SUV). `segmentations` reads and writes DICOM-SEG. `sources` is the
private file of what a case was made of.
"""
