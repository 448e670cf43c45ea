"""What the integers of label maps mean.

`numbering` says what a dataset's integers mean, as a digest, and whether networks can say them. `by_name` finds what
those of any folder of label maps mean, and reads them in another dataset's integers.
"""
