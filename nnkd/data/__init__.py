"""What lies on disk before and between trainings, and how it is read.

Begin with `dataset` (a raw dataset) and `predictions` (a prediction folder and its manifest). `listing` says which
files of a folder are taken, `case_names` what cases may be called, `origins` whether what was made of files still
holds, `labels` what integers mean. Images come in through `reading`; `intensities` looks at their values;
`participants`, `groups`, `splits` and `split_record` are people and folds; `boxes` are what a user gives as
prompts; `plans` and `recipes` say how a student is trained. `dicom_cases` are DICOM series of a command, `archives`
unpacks, `overlays` draws, `phantoms` makes the quickstart's cohort.
"""
