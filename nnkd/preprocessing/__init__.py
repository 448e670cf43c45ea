"""Raw cases and their votes onto nnU-Net's grid.

`planning` has nnU-Net plan a dataset; `configurations` brings one configuration up to date; `cases` preprocesses one
case, image and votes; `folders` says which cases are whole and current and tidies up what a killed run left behind.
"""
