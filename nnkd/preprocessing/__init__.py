"""Raw cases and their votes onto nnU-Net's grid.

`planning` has nnU-Net plan a dataset, from a fingerprint that `fingerprints` watches over; `configurations` brings one
configuration up to date; `cases` preprocesses one case, image and votes; `folders` says which cases are whole and
current, by what `case_origins` says they are made from (`adoption`: those of earlier versions); `freshness` asks that
before a training.
"""
