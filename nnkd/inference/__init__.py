"""A trained student's answer.

`predictor` is nnU-Net's, with what nnkd adds; `samples` goes over windows for networks of the kind `probabilistic`;
`label_models` joins students of one label each; `label_maps` brings logits onto the image; `uncertainty` is maps of it
and intervals of volumes; `runs` does all this for a folder of images.
"""
