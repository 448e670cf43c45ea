"""Groups of people compared: who profits less from a student.

`partitions` says who is in which group, `cohort` brings scores and people together, `measures` computes, `fairness`
is the whole for all folders; `report` is their part of an evaluation; `section`, `plots` and `files` write it down.
"""
