"""Raw cases and their votes onto nnU-Net's grid.

`cases` preprocesses one case, image and votes; `folders` says which cases are whole and tidies up what a killed run
left behind.
"""
