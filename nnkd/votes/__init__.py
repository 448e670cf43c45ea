"""From teachers' label maps to votes, from votes to a consensus.

`bits` packs votes and fits tables on them; `ballots` does so for the label maps of one case. `panel` asks a rule for a
whole folder, `outputs` takes what it made of it, `agreement` says how much teachers agree, `consensus` is labelsTr and
consensus.json, `folder` keeps votes beside preprocessed images.
"""
